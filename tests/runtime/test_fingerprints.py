"""Fingerprints tell checkpoints apart, and overlook what changes no key and no value."""

import copy

import pytest
import torch
from families import make_processor, tiny
from user_states import state_model, state_processor

from patchrec_hf import MOVIE_PROMPT, ItemPatchLayout, PatchRecProcessor, TextLayout
from patchrec_hf.runtime.fingerprints import checkpoint_fingerprint


def differences(model=None, processor=None):
    first = checkpoint_fingerprint(state_model(), state_processor(ItemPatchLayout(0)))
    second = checkpoint_fingerprint(model or state_model(), processor or state_processor(ItemPatchLayout(0)))
    return [name for name in first if first[name] != second[name]]


def test_equal_checkpoints_have_equal_fingerprints(tmp_path):
    model = copy.deepcopy(state_model())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert differences(loaded) == []


def test_settings_of_ranking_change_nothing():
    catalog = tiny()[0].with_items({9_001: "A New Book"})
    processor = state_processor(TextLayout(), max_history=3).with_fusion(None)
    assert differences(processor=processor.with_catalog(catalog)) == []


@pytest.mark.parametrize("name", ["lm_head.weight", "item_head.item_vectors.bias", "model.item_residual.weight"])
def test_other_weights(name):
    model = copy.deepcopy(state_model())
    with torch.no_grad():
        model.get_parameter(name).mul_(1.001)
    assert differences(model) == ["the models' weights"]


def test_other_precision():
    assert "the models' dtypes" in differences(copy.deepcopy(state_model()).to(torch.bfloat16))


def test_another_configuration():
    model = copy.deepcopy(state_model())
    model.config.decoder_config.rms_norm_eps = 0.5
    assert differences(model) == ["the models' configurations"]


def test_another_prompt_and_other_settings():
    base = make_processor()
    prompted = PatchRecProcessor(
        base.tokenizer, base.catalog, MOVIE_PROMPT, ItemPatchLayout(0), item_residuals=len(base.catalog)
    )
    assert differences(processor=prompted) == ["the tokens of the prompts"]
    assert differences(processor=state_processor(ItemPatchLayout(0), separate_patches=False)) == [
        "the processors' settings"
    ]
