"""The reference scores for all ranking tests."""

import numpy as np
import torch


@torch.no_grad()
def brute_force(model, titles, end_of_turn_id, prompt):
    """The score of every title: prompt and title as one row of text and patches, without a cache or a tree."""
    start = prompt.prompt_length
    log_probs, ids, ends = _read(model, titles, end_of_turn_id, prompt)
    log_probs = log_probs.log_softmax(dim=-1)
    of_ids = log_probs.gather(2, ids[:, start:, None]).squeeze(2)
    return of_ids.masked_fill(torch.arange(start, ids.shape[1]) >= ends, 0).sum(dim=1).numpy().astype(np.float64)


@torch.no_grad()
def brute_force_catalog(model, titles, end_of_turn_id, prompt, items, temperature=1.0):
    """
    The score of each of `items`, where a token's probability is one among the tokens with which a title of `items`
    goes on, and items with the same title share its probability. Other items have -infinity.
    """
    logits, _, _ = _read(model, titles, end_of_turn_id, prompt)
    spelled = {item: (*titles[item], end_of_turn_id) for item in items}
    scores = np.full(len(logits), -np.inf)
    for item, title in spelled.items():
        score = -np.log(sum(other == title for other in spelled.values()))
        for depth, token in enumerate(title):
            following = sorted({other[depth] for other in spelled.values() if other[:depth] == title[:depth]})
            log_probs = (logits[item, depth, following].double() / temperature).log_softmax(0)
            score += float(log_probs[following.index(token)])
        scores[item] = score
    return scores


def _read(model, titles, end_of_turn_id, prompt):
    """Logits from the last prompt token on, all tokens, and the number of tokens of each row."""
    start = prompt.prompt_length
    rows = [torch.tensor([*prompt.input_ids[:start], *title, end_of_turn_id]) for title in titles]
    # Filled up on the right, where causal attention never looks back from.
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    patches = {
        name: torch.from_numpy(getattr(prompt, name)).expand(len(rows), -1)
        for name in ("patch_token_ids", "patch_positions", "patch_divisors", "patch_title_starts")
    }
    logits = model(input_ids=ids, **patches, use_cache=False).logits[:, start - 1 : -1]
    return logits, ids, torch.tensor([len(row) for row in rows])[:, None]
