"""Settings of a ranking, and what they refuse."""

import dataclasses

import pytest

from patchrec_hf import RankingConfig


@pytest.mark.parametrize("k", [2.0, "2", True, None])
def test_k_that_is_no_whole_number(k):
    with pytest.raises(TypeError, match=f"`k` must be a whole number, got {k!r}"):
        RankingConfig(k=k)


def test_a_configuration_can_be_changed():
    config = RankingConfig(k=3, method="beam")
    assert (config.num_beams, config.beam_width) == (None, 6)
    assert dataclasses.replace(config, k=20).beam_width == 40
    assert dataclasses.replace(config, method="exact").beam_width is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalizer": "trie"}, "`normalizer` must be one of 'vocabulary', 'catalog', got 'trie'"),
        ({"temperature": 0.0}, "`temperature` must be a positive number, got 0.0: logits are divided by it"),
        ({"temperature": -2.0}, "got -2.0"),
        ({"temperature": float("inf")}, "got inf"),
        ({"normalizer": "vocabulary", "temperature": 2.0}, "`temperature` belongs to `normalizer='catalog'`, got 2.0"),
        ({"normalizer": "catalog", "method": "item"}, "belongs to methods that search titles, got `method='item'`"),
        ({"normalizer": "catalog", "method": "diverse"}, "got `method='diverse'`"),
        ({"temperature": 2.0, "method": "item"}, "`temperature` belongs to methods that search titles"),
        ({"temperature": 2.0, "method": "diverse"}, "`temperature` belongs to methods that search titles"),
        ({"normalizer": "catalog", "method": "fusion"}, r"rank by titles alone \(`method='exact'`\)"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        RankingConfig(**settings)
