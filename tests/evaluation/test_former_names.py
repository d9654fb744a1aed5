"""Former names of functions: they give what the present ones give, and warn."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import patchrec_hf
from patchrec_hf import CatalogRanker, ItemPatchLayout, PatchDataCollator, RankingConfig, evaluate_model
from patchrec_hf.baselines import Popularity


def test_targets_are_ranked_with_a_collator_or_a_processor(model, processor, rows):
    expected = evaluate_model(
        model, processor, rows, layout=ItemPatchLayout(1), seed=3, k=4, max_title_tokens=50, show_progress=False
    )
    collator = PatchDataCollator(processor, ItemPatchLayout(1), seed=3)
    with pytest.warns(FutureWarning, match="`rank_targets` is deprecated; use `evaluate_model"):
        report = patchrec_hf.rank_targets(model, collator, rows, 4, max_expansions=50, show_progress=False)
    assert report.targets.equals(expected.targets)
    assert report.settings == expected.settings
    with pytest.warns(FutureWarning, match="is now called `targets`"):
        assert report.examples is report.targets
    with pytest.warns(FutureWarning):
        release = patchrec_hf.rank_targets(model, processor, rows, protocol="authors", show_progress=False)
    assert not release.settings["protocol"]["complete_prefixes"]
    assert release.settings["method"] == "exact"  # before the release's decoding, the name stood for its matching


def test_scored_targets(catalog, rows):
    baseline = Popularity(catalog).fit(rows)
    expected = patchrec_hf.evaluate_scorer(baseline, catalog, rows, True, 3, show_progress=False)
    with pytest.warns(FutureWarning, match="evaluate_scorer"):
        report = patchrec_hf.score_targets(baseline, catalog, rows, True, 3, show_progress=False)
    assert report.targets.equals(expected.targets)


def test_catalogs_are_ranked_and_scored(model, processor, rows):
    prompts = PatchDataCollator(processor).encode_rows(list(rows)[:3])
    ranker = CatalogRanker(model, processor, RankingConfig(k=3, method="beam", num_beams=4))
    excluded = [np.array([1])] * 3
    expected = ranker.rank(prompts, excluded=excluded)
    pad_id = processor.prompt.pad_id
    with pytest.warns(FutureWarning, match=r"CatalogRanker\(model, processor"):
        ranking = patchrec_hf.rank_catalog(model, processor.trie, prompts, pad_id, 3, "beam", 4, excluded=excluded)
    assert_array_equal(ranking.items, expected.items)
    with pytest.warns(FutureWarning, match="score_catalog"):
        scores = patchrec_hf.score_catalog(model, processor.trie, prompts, pad_id)
    assert_array_equal(scores, ranker.score(prompts))


def test_arguments_keep_their_names(model, processor, rows):
    collator = PatchDataCollator(processor)
    with pytest.warns(FutureWarning):
        patchrec_hf.rank_targets(model=model, collator=collator, dataset=rows, k=2, show_progress=False)
    with pytest.warns(FutureWarning), pytest.raises(TypeError, match="`k` is given twice"):
        patchrec_hf.rank_targets(model, collator, rows, 2, k=3)
    with pytest.warns(FutureWarning), pytest.raises(TypeError, match="Too many positional arguments: 13"):
        patchrec_hf.rank_targets(model, collator, rows, *range(13))
    with pytest.raises(TypeError, match="must be a `PatchRecProcessor`, got `PatchDataCollator`"):
        evaluate_model(model, collator, rows)
