"""Updates of a checkpoint: nothing old is lost, new items gain, counts follow the log, and mistakes are named."""

import json

import numpy as np
import pytest
import torch
from weekly_shop import BEGIN, DAY, FIRST_ITEMS, ITEMS, NEW_ITEMS, PARTS, SECOND_WEEK, rows_of, settings_of
from weekly_shop import train_first_week as train

from patchrec_hf import Catalog, PatchFinetuneConfig, PatchRecommender, PatchRecProcessor, evaluate_model
from patchrec_hf.data.update_rows import UpdateRows
from patchrec_hf.training.catalog_growth import merge_catalogs
from patchrec_hf.training.fusion_recount import recount_fusion
from patchrec_hf.training.updates import read_config, recipe_of, update_checkpoint, update_settings


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A checkpoint of the first week, with a fusion."""
    return train(tmp_path_factory.mktemp("shop"))


def catalog_of(checkpoint):
    return merge_catalogs(PatchRecProcessor.from_pretrained(checkpoint).catalog, ITEMS)


def arguments(checkpoint, directory, **changes):
    settings = {**settings_of(directory), **update_settings(checkpoint), "num_train_epochs": 20, **changes}
    return PatchFinetuneConfig(**settings)


def measure(checkpoint, rows, method):
    recommender = PatchRecommender.from_pretrained(checkpoint)
    return evaluate_model(recommender.model, recommender.processor, rows, method=method, show_progress=False).targets


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        update_settings(tmp_path / "nowhere")


@pytest.mark.slow
def test_nothing_old_is_lost_and_new_items_gain(first, tmp_path):
    """The grown checkpoint, before any training, scores old items as ever. The update finds the new items."""
    rows = rows_of(2, catalog_of(first))
    final = update_checkpoint(first, arguments(first, tmp_path), rows, ITEMS, show_progress=False)
    old, grown, updated = (PatchRecommender.from_pretrained(path) for path in (first, tmp_path / "grown", final))
    assert [one.processor.catalog.item_ids[:12].tolist() for one in (old, grown, updated)] == [list(FIRST_ITEMS)] * 3
    history = [[100, 101, 102, 103]]
    before, after = (one.log_probs(history, method="item")[0] for one in (old, grown))
    np.testing.assert_allclose(after[:12] - after[0], before - before[0], atol=1e-5)
    tables = [one.model.model.item_residual.weight for one in (old, grown)]
    assert torch.equal(tables[0], tables[1][:12])
    assert not tables[1][12:].any()

    for method in ("item", "fusion"):
        losses = [-measure(path, rows.old, method)["log_prob"].mean() for path in (tmp_path / "grown", final)]
        assert losses[1] <= losses[0] + 0.1, method
        ranks = []
        for path in (tmp_path / "grown", final):
            targets = measure(path, rows.new, method)
            ranks.append(targets.filter(targets["target_id"].is_in(list(NEW_ITEMS)))["item_rank"].mean())
        assert ranks[1] < min(ranks[0], 3), method


@pytest.mark.slow
def test_an_update_without_a_replay_forgets_more(first, tmp_path):
    rows, losses = rows_of(2, catalog_of(first)), {}
    for share in (0.0, 0.5):
        args = arguments(first, tmp_path / str(share), learning_rate=4e-3)
        final = update_checkpoint(first, args, rows, ITEMS, replay_share=share, show_progress=False)
        losses[share] = -measure(final, rows.old, "item")["log_prob"].mean()
    assert losses[0.5] < losses[0.0]


@pytest.mark.slow
def test_an_interrupted_update_resumes_to_the_same_weights(first, tmp_path):
    """As if the first run had been killed after its growth, and after a checkpoint."""
    rows = rows_of(2, catalog_of(first))
    whole = update_checkpoint(first, arguments(first, tmp_path / "whole", max_steps=4), rows, ITEMS)

    def run(**changes):
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **changes}
        return update_checkpoint(first, arguments(first, tmp_path / "part", **settings), rows, ITEMS)

    run()
    for path in ("final", "checkpoint-4"):
        (tmp_path / "part" / path).rename(tmp_path / path)
    final = run()
    weights = [PatchRecommender.from_pretrained(path).model.state_dict() for path in (whole, final)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    (tmp_path / "part" / "final").rename(tmp_path / "other")
    with pytest.raises(ValueError, match="20 items with which this update began, but the data now make a catalog"):
        update_checkpoint(first, arguments(first, tmp_path / "part"), rows, ITEMS.with_items({500: "Tea of yarrow"}))


@pytest.mark.slow
def test_weights_stay_unless_there_are_validation_rows(first, tmp_path):
    catalog = catalog_of(first)
    old = PatchRecProcessor.from_pretrained(first).fusion
    processors = {}
    for share in (0.0, 0.3):
        rows, args = rows_of(2, catalog, validation_share=share), arguments(first, tmp_path / str(share), max_steps=1)
        final = update_checkpoint(first, args, rows, ITEMS, show_progress=False)
        processors[share] = PatchRecProcessor.from_pretrained(final)
    kept, refitted = (processors[share].fusion for share in (0.0, 0.3))
    assert dict(kept.weights) == dict(old.weights)
    assert dict(refitted.weights) != dict(old.weights)
    assert list(refitted.parts) == PARTS
    # Both count the whole log, also its validation rows.
    for one in (kept, refitted):
        assert one.parts["co_visits"].num_items == 20
        assert one.parts["popularity"].recent.end_time == BEGIN + 11 * DAY
        np.testing.assert_allclose(
            one.parts["co_visits"].table.scores([np.array([3])]), kept.parts["co_visits"].table.scores([np.array([3])])
        )


@pytest.mark.slow
def test_all_validation_rows_are_counted_though_few_are_evaluated(first, tmp_path):
    rows = rows_of(2, catalog_of(first), validation_share=0.3)
    args = arguments(first, tmp_path, max_steps=1)
    final = update_checkpoint(first, args, rows, ITEMS, max_eval_rows=3, show_progress=False)
    processor = PatchRecProcessor.from_pretrained(final)
    assert len(rows.validation) > 3 == processor.fusion.fit_result.num_targets
    counted = recount_fusion(processor, [rows.old, rows.new, rows.validation], show_progress=False)
    histories = [np.array([item]) for item in range(20)]
    tables = [one.fusion.parts["co_visits"].table for one in (processor, counted)]
    np.testing.assert_allclose(tables[0].scores(histories), tables[1].scores(histories))


@pytest.mark.slow
def test_settings_follow_from_the_checkpoint(first):
    config, settings = read_config(first), update_settings(first)
    assert recipe_of(config) == "all-patch"
    assert config.trained_until < SECOND_WEEK
    assert (settings["objective"], settings["learning_rate"]) == ("item", pytest.approx(1e-3))
    values = json.loads((first / "config.json").read_text())
    assert values["initial_learning_rate"] == 4e-3


@pytest.mark.slow
def test_the_learning_rate_of_the_first_training_is_kept(first, tmp_path):
    """Else the rate would fall with every week."""
    rows = rows_of(2, catalog_of(first))
    final = update_checkpoint(first, arguments(first, tmp_path, max_steps=1), rows, ITEMS, show_progress=False)
    config = read_config(final)
    assert config.initial_learning_rate == 4e-3
    assert config.trained_until == SECOND_WEEK + 7 * DAY // 2 + 11


@pytest.mark.slow
def test_mistakes_are_named(first, tmp_path):
    rows, args = rows_of(2, catalog_of(first)), arguments(first, tmp_path / "run")
    with pytest.raises(ValueError, match="replays old rows, but the log has no interactions before the new ones"):
        update_checkpoint(first, args, UpdateRows(rows.new), ITEMS)
    with pytest.raises(ValueError, match="counts are made anew from the whole log, but the log has no"):
        update_checkpoint(first, args, UpdateRows(rows.new), ITEMS, replay_share=0)
    with pytest.raises(
        ValueError, match=r"from a checkpoint of this library, but .* holds a model of the type 'llama'"
    ):
        update_settings(first.parent / "backbone")
    with pytest.raises(TypeError, match=r"item ids of the checkpoint are whole numbers, such as 100, but .* texts"):
        update_checkpoint(first, arguments(first, tmp_path / "texts"), rows, Catalog.from_titles({"a": "Tea"}))


@pytest.mark.slow
def test_titles_are_learned_further_and_residuals_need_an_item_head(tmp_path):
    checkpoint = train(tmp_path / "shop", "title", max_steps=2)
    assert update_settings(checkpoint)["objective"] == "title"
    assert recipe_of(read_config(checkpoint)) == "paper"
    rows = rows_of(2, catalog_of(checkpoint))
    small = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 2}
    args = PatchFinetuneConfig(**{**settings_of(tmp_path / "run"), **update_settings(checkpoint), **small,
                                  "title_similarity": False, "item_dropout": 0, "residual_dropout": 0})  # fmt: skip
    final = update_checkpoint(checkpoint, args, rows, ITEMS)
    assert len(PatchRecommender.from_pretrained(final).recommend([100, 112], k=18)) == 18
    args = PatchFinetuneConfig(**settings_of(tmp_path / "item"))
    with pytest.raises(ValueError, match=r"continues with residuals and biases of items, but .* has no item head"):
        update_checkpoint(checkpoint, args, rows, ITEMS)
