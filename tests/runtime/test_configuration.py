"""The configuration of a model."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import Gemma3Config, LlamaConfig, Qwen2Config

from patchrec_hf.runtime.configuration import PatchRecConfig


def test_configuration_checks_its_values():
    with pytest.raises(StrictDataclassFieldValidationError, match="patch_token_id"):
        PatchRecConfig(patch_token_id="<|patch|>")


def test_the_backbones_configuration_may_be_a_dictionary():
    text_config = Qwen2Config(hidden_size=48).to_dict()
    config = PatchRecConfig(text_config=text_config, patch_token_id=7)
    assert isinstance(config.text_config, Qwen2Config)
    assert config.text_config.hidden_size == 48
    assert config.patch_token_id == 7
    assert isinstance(PatchRecConfig().text_config, LlamaConfig)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_the_backbones(tied):
    config = PatchRecConfig(text_config=LlamaConfig(tie_word_embeddings=tied), tie_word_embeddings=not tied)
    assert config.tie_word_embeddings == tied


def test_the_decoders_configuration_lies_deeper_in_a_multimodal_one():
    text = LlamaConfig()
    assert PatchRecConfig(text_config=text).decoder_config is text
    multimodal = Gemma3Config(text_config={"hidden_size": 96})
    decoder = PatchRecConfig(text_config=multimodal).decoder_config
    assert decoder is multimodal.text_config
    assert decoder.hidden_size == 96


def test_how_titles_are_scored_is_saved(tmp_path):
    PatchRecConfig(title_normalizer="catalog", title_temperature=2.0).save_pretrained(tmp_path)
    config = PatchRecConfig.from_pretrained(tmp_path)
    assert (config.title_normalizer, config.title_temperature) == ("catalog", 2.0)
    assert (PatchRecConfig().title_normalizer, PatchRecConfig().title_temperature) == ("vocabulary", 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"title_normalizer": "trie"}, "`title_normalizer` must be one of 'vocabulary', 'catalog', got 'trie'"),
        ({"title_normalizer": "catalog", "title_temperature": 0.0}, "`title_temperature` must be a positive number"),
        ({"title_normalizer": "catalog", "title_temperature": -1.0}, "got -1.0"),
        ({"title_normalizer": "catalog", "title_temperature": float("nan")}, "got nan"),
        ({"title_temperature": 2.0}, "belongs to `title_normalizer='catalog'`, got 2.0"),
    ],
)
def test_wrong_normalizers_and_temperatures(settings, message):
    with pytest.raises(ValueError, match=message):
        PatchRecConfig(**settings)
