"""The reference scores for all ranking tests."""

import numpy as np
import torch


@torch.no_grad()
def brute_force(model, titles, end_of_turn_id, prompt):
    """The score of every title: prompt and title as one row of text and patches, without a cache or a tree."""
    start = prompt.prompt_length
    rows = [torch.tensor([*prompt.input_ids[:start], *title, end_of_turn_id]) for title in titles]
    # Filled up on the right, where causal attention never looks back from.
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    patches = {
        name: torch.from_numpy(getattr(prompt, name)).expand(len(rows), -1)
        for name in ("patch_token_ids", "patch_positions", "patch_divisors")
    }
    log_probs = model(input_ids=ids, **patches, use_cache=False).logits.log_softmax(dim=-1)
    of_ids = log_probs[:, start - 1 : -1].gather(2, ids[:, start:, None]).squeeze(2)
    ends = torch.tensor([len(row) for row in rows])[:, None]
    return of_ids.masked_fill(torch.arange(start, ids.shape[1]) >= ends, 0).sum(dim=1).numpy().astype(np.float64)
