"""The former way to fit a prior warns, and fits a fusion of the same parts."""

import pytest
from item_parts import item_model, item_processor

import patchrec_hf


def test_a_prior_is_a_fusion_of_its_four_parts(processor, rows):
    model = item_model(residual_size=32)
    with pytest.warns(FutureWarning, match="`fit_prior` is deprecated; use `fit_fusion"):
        fitted = patchrec_hf.fit_prior(model, item_processor(processor), rows, rows, None, 3, show_progress=False)
    assert list(fitted.fusion.parts) == ["item", "co_visits", "similar_titles", "seen"]
    assert fitted.fusion.fit_result.log_likelihood >= max(fitted.fusion.fit_result.of_parts.values())
