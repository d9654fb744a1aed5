"""References for the benchmark of rankings: transformers' `generate`, and a model that reads every title in turn."""

import copy

import numpy as np
import torch
from transformers import DynamicCache


K = 20


class Generate:
    """Beam search by transformers, with 20 beams that may spell only titles, in usual hand-written code."""

    def __init__(self, model, processor, max_new_tokens):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.trie = {}
        for index in range(len(processor.catalog)):
            level = self.trie
            for token in [*processor.title_tokens[index].tolist(), processor.prompt.end_of_turn_id]:
                level = level.setdefault(token, {})

    def __call__(self, histories, use_cache):
        """Returns a set of titles for each history, as tokens, and the number of key-value positions kept for all."""
        prompt = self.processor.prompt
        inputs = self.processor(histories).to(self.model.device)
        start = inputs["input_ids"].shape[1]

        def allowed(_, ids):
            level = self.trie
            for token in ids[start:].tolist():
                level = level.get(token, {})
            return list(level) or [prompt.pad_id]

        output = self.model.generate(
            **inputs,
            num_beams=K,
            num_return_sequences=K,
            do_sample=False,
            length_penalty=0.0,
            use_cache=use_cache,
            max_new_tokens=self.max_new_tokens,
            prefix_allowed_tokens_fn=allowed,
            pad_token_id=prompt.pad_id,
            eos_token_id=prompt.end_of_turn_id,
            return_dict_in_generate=True,
        )
        rows = [ids[: ids.index(prompt.end_of_turn_id)] for ids in output.sequences[:, start:].tolist()]
        keys = output.past_key_values.layers[0].keys if use_cache else torch.empty(0, 0, 0)
        titles = [set(map(tuple, rows[first : first + K])) for first in range(0, len(rows), K)]
        return titles, keys.shape[0] * keys.shape[2]


@torch.no_grad()
def brute_force(model, processor, history):
    """Computes the score of every item. Each title is a row, which is read with plain causal attention."""
    titles, prompt = processor.title_tokens, processor.prompt
    inputs = processor([history]).to(model.device)
    first = model(**inputs, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
    scores = np.empty(len(titles))
    for indices in np.array_split(np.argsort(titles.lengths), -(-len(titles) // 128)):
        rows = [torch.tensor([*titles[index], prompt.end_of_turn_id]) for index in indices]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(model.device)
        cache = copy.deepcopy(first.past_key_values)
        cache.batch_repeat_interleave(len(ids))
        logits = model(input_ids=ids[:, :-1].clamp(min=0), past_key_values=cache, use_cache=True).logits
        log_probs = torch.cat([first.logits.expand(len(ids), -1, -1), logits], dim=1).log_softmax(dim=-1)
        token_scores = log_probs.gather(2, ids.clamp(min=0)[..., None]).squeeze(2)
        scores[indices] = token_scores.masked_fill(ids == -100, 0).sum(dim=1).cpu().numpy()
    return scores
