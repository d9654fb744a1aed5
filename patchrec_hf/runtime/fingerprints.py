"""Fingerprints of checkpoints: a few digests that differ if keys and values of one checkpoint do not fit another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from .modeling import PatchRecForCausalLM
from .processing import PatchRecProcessor


_SAMPLE = 1024
"""Number of entries of each weight that are compared."""
_DTYPES, _SETTINGS = "the models' dtypes", "the processors' settings"
SHOWN = (_DTYPES, _SETTINGS)
"""Entries of a fingerprint that people can read."""
# These change no key and no value.
_IGNORED = frozenset(
    {
        "_attn_implementation",
        "_experts_implementation",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "dtype",
        "experts_implementation",
        "format_version",
        "transformers_version",
        "use_cache",
    }
)


@torch.no_grad()
def checkpoint_fingerprint(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> dict[str, str]:
    """
    Computes the fingerprint of a checkpoint. A strided sample of each weight is read, so it takes little time for
    large models too.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, whose weights are whole in this process.
        processor ([`PatchRecProcessor`]):
            The model's processor.

    Returns:
        `dict[str, str]`: by the name of what is compared, a digest or a short text. The names complete the sentence
        "… differ".
    """
    samples = []
    for parameter in model.parameters():
        flat = parameter.detach().flatten()
        samples.append(flat[:: max(1, -(-len(flat) // _SAMPLE))].float().cpu())
    settings = {
        "separate_patches": processor.separate_patches,
        "item_residuals": processor.num_residuals,
        "time_gaps": processor.num_time_gaps,
    }
    return {
        _DTYPES: str(model.dtype).removeprefix("torch."),
        "the models' configurations": _digest(_without_ignored(model.config.to_dict())),
        "the models' weights": hashlib.sha256(torch.cat(samples).numpy().tobytes()).hexdigest()[:16],
        "the tokens of the prompts": _digest(processor.prompt.to_dict()),
        "the tokenizers": processor.tokenizer_fingerprint,
        _SETTINGS: json.dumps(settings, sort_keys=True),
    }


def _without_ignored(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_ignored(value) for key, value in values.items() if key not in _IGNORED}
    return values


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
