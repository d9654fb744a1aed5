"""
Makes `runtime/group_beams.json`: titles that the group beam search of transformers 4.51.3 decodes over fixed tables of
logits. Newer versions of transformers have no group beam search.

    pip install --target OLD --no-deps transformers==4.51.3 "tokenizers<0.22" "huggingface-hub<1.0"
    PYTHONPATH=OLD python tests/make_group_beams.py tests/runtime/group_beams.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


NUM_CASES = 24
END, PAD = 9, 0
# In a vocabulary of fewer than 128 tokens, `torch.topk` on a CPU returns another token than 0 as the second one where
# only the end of turn is allowed.
VOCAB_SIZE = 150


class Table(PreTrainedModel, GenerationMixin):
    """A model whose logits depend on the last token only."""

    config_class = PretrainedConfig

    def __init__(self, logits):
        super().__init__(PretrainedConfig(vocab_size=VOCAB_SIZE))
        self.logits = torch.nn.Parameter(logits)

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids, **kwargs):
        return CausalLMOutput(logits=self.logits[input_ids])


def decode(titles, logits, prompts, num_groups):
    """Returns the number and the score of each title, best first, for each prompt, which is one token."""

    def allowed(_, ids):
        prefix = ids.tolist()[1:]
        following = {title[len(prefix)] for title in titles if title[: len(prefix)] == prefix != title}
        return sorted(following) or [END]

    out = Table(logits).generate(
        torch.tensor(prompts)[:, None],
        num_beams=num_groups,
        num_beam_groups=num_groups,
        num_return_sequences=num_groups,
        diversity_penalty=0.8,
        do_sample=False,
        early_stopping=True,
        prefix_allowed_tokens_fn=allowed,
        max_new_tokens=max(map(len, titles)),
        pad_token_id=PAD,
        eos_token_id=END,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = []
    for sequence, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        title = sequence[1:]
        title = title[: title.index(END)] if END in title else title
        found.append([titles.index(title), round(score, 5)])
    return [found[start : start + num_groups] for start in range(0, len(found), num_groups)]


def main(path):
    draw, cases = np.random.RandomState(0), []
    for _ in range(NUM_CASES):
        num_titles, num_tokens = draw.randint(3, 12), draw.choice([4, 7])
        drawn = {tuple(draw.randint(0, num_tokens, size=draw.randint(1, 5)).tolist()) for _ in range(num_titles)}
        titles = [list(title) for title in sorted(drawn)]
        # A title that begins another one cannot be decoded.
        titles = [title for title in titles if not any(title == other[: len(title)] != other for other in titles)]
        case = {
            "titles": titles,
            "seed": int(draw.randint(1000)),
            "scale": float(draw.choice([0.5, 1.0, 2.0])),
            "num_groups": int(draw.choice([2, 3, 5, 10, 20])),
            "prompts": draw.randint(1, 9, size=draw.randint(1, 4)).tolist(),
        }
        logits = np.random.RandomState(case["seed"]).randn(VOCAB_SIZE, VOCAB_SIZE) * case["scale"]
        found = decode(titles, torch.tensor(logits, dtype=torch.float32), case["prompts"], case["num_groups"])
        cases.append({**case, "expected": found})
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(path).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
