"""The neural baselines: what each must keep to."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassFieldValidationError
from small_baselines import CLASSES, NAMES
from tiers import first_fast
from transformers import AutoModel, set_seed

from patchrec_hf import Catalog, evaluate_scorer
from patchrec_hf.baselines import GRU4Rec, SASRec, training_arguments
from patchrec_hf.baselines.sequential import SequenceCollator


@pytest.mark.parametrize("name", first_fast(NAMES))
def test_no_position_sees_a_later_one_nor_padding(make_baseline, name):
    model = make_baseline(name)
    alone = model.score([[10, 13, 15]])
    together = model.score([[10, 13, 15], [11, 12, 13, 14, 15, 16], [17]])
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)
    items = torch.tensor([[0, 3, 5, 7, 1]])
    changed = torch.tensor([[0, 3, 5, 2, 2]])
    positions = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        torch.testing.assert_close(model(items, positions).logits, model(changed, positions).logits)
    assert np.abs(model.score([[10, 13, 16]]) - alone).max() > 1e-5  # and it does see what it should


@pytest.mark.parametrize("name", first_fast(NAMES))
def test_a_row_of_several_targets_is_as_many_rows_of_one(make_baseline, catalog, name):
    model, collate = make_baseline(name), SequenceCollator(catalog, 12)
    items = [10, 13, 15, 11, 12, 18]
    together = collate([{"item_ids": items, "target_positions": [2, 3, 5]}])
    apart = collate([{"item_ids": items[: p + 1], "target_positions": [p]} for p in (2, 3, 5)])
    with torch.no_grad():
        torch.testing.assert_close(model(**together).loss, model(**apart).loss)
        losses = F.cross_entropy(torch.from_numpy(model.score([items[:p] for p in (2, 3, 5)])),
                                 torch.tensor(catalog.indices_of([15, 11, 18])))  # fmt: skip
        torch.testing.assert_close(model(**together).loss, losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_and_is_saved(make_baseline, catalog, chains, tmp_path, name):
    model = make_baseline(name, dropout=0.0)
    args = training_arguments(
        tmp_path, num_train_epochs=60, learning_rate=1e-2, per_device_train_batch_size=12, disable_tqdm=True,
        logging_strategy="no",
    )  # fmt: skip
    model.fit(chains, args=args)
    assert evaluate_scorer(model, catalog, chains, show_progress=False).metrics([1])["title_hr@1"] > 0.9
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model)
    assert loaded.catalog.titles == catalog.titles
    histories = [[10, 11, 12], [19]]
    np.testing.assert_allclose(loaded.score(histories), model.score(histories), atol=1e-6)


def test_validation_keeps_the_best_epoch(make_baseline, chains, tmp_path):
    """Training leads away from what validation holds, so the best epoch is the first, and training ends early."""
    backwards = chains.map(lambda row: {"item_ids": row["item_ids"][::-1]})
    args = training_arguments(tmp_path, num_train_epochs=30, learning_rate=1e-2, disable_tqdm=True)
    model = make_baseline("SASRec").fit(chains, backwards, args, patience=2)
    checkpoints = sorted(tmp_path.glob("checkpoint-*"))
    assert checkpoints
    state = max(int(path.name.rpartition("-")[2]) for path in checkpoints)
    assert state < 30  # a step an epoch
    best = SASRec.from_pretrained(min(checkpoints, key=lambda path: int(path.name.rpartition("-")[2])))
    np.testing.assert_allclose(model.score([[10, 11]]), best.score([[10, 11]]), atol=1e-6)


@pytest.mark.slow
def test_sampled_loss_learns_too(make_baseline, catalog, chains, tmp_path):
    """Items of a row are never drawn, so the rows are short, and the ranking leaves out the history."""
    rows = chains.map(lambda row: {"item_ids": row["item_ids"][:4], "target_positions": [3]})
    model = make_baseline("SASRec", dropout=0.0, loss="bce", num_negatives=3)
    args = training_arguments(
        tmp_path, num_train_epochs=150, learning_rate=1e-2, disable_tqdm=True, logging_strategy="no"
    )
    model.fit(rows, args=args)
    report = evaluate_scorer(model, catalog, rows, exclude_seen=True, show_progress=False)
    assert report.metrics([1])["title_hr@1"] > 0.9


def test_sampled_loss_by_hand(make_baseline):
    """With one item that is neither history nor target, a draw is that item or counts for nothing."""
    model = make_baseline("SASRec", loss="bce", num_negatives=40, dropout=0.0)
    items, target, other = list(range(10)), 10, 11
    batch = {"items": torch.tensor([items]), "positions": torch.tensor([[9]])}
    with torch.no_grad():
        logits = model(**batch).logits[0, 0]
        set_seed(1)
        num_drawn = int((torch.randint(12, (1, 1, 40)) == other).sum())
        set_seed(1)
        loss = model.train()(**batch, targets=torch.tensor([[target]])).loss
    assert num_drawn > 0
    torch.testing.assert_close(loss, F.softplus(-logits[target]) + num_drawn * F.softplus(logits[other]))


def test_only_the_latest_items_are_read(make_baseline, catalog):
    model = make_baseline("SASRec", max_length=3)
    np.testing.assert_allclose(model.score([[18, 19, 10, 11, 12]]), model.score([[10, 11, 12]]))
    batch = SequenceCollator(catalog, 3)([{"item_ids": [10, 11, 12, 13, 14, 15], "target_positions": [1, 3, 5]}])
    assert batch["items"].tolist() == [[2, 3, 4]]
    assert batch["positions"].tolist() == [[0, 2, 0]]  # the first target stands before the window
    assert batch["targets"].tolist() == [[3, 5, -100]]


def test_mistakes_are_named(make_baseline, chains):
    model = make_baseline("SASRec")
    with pytest.raises(ValueError, match="History 1 is empty"):
        model.score([[10], []])
    with pytest.raises(KeyError, match="99"):
        model.score([[99]])
    with pytest.raises(ValueError, match="target_positions"):
        model.fit(chains.remove_columns("target_positions"))
    with pytest.raises(ValueError, match="12 items, the catalog 1"):
        SASRec(model.config, Catalog.from_titles({1: "a"}))


@pytest.mark.parametrize("name", CLASSES)
def test_settings_are_checked(catalog, name):
    with pytest.raises(TypeError, match=rf"{name} has no setting `hiden_size`; it has .*hidden_size, "):
        CLASSES[name].from_catalog(catalog, hiden_size=3)
    with pytest.raises(StrictDataclassFieldValidationError, match="'softmax', 'bce'"):
        CLASSES[name].from_catalog(catalog, loss="bpr")
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        CLASSES[name].from_catalog(catalog, hidden_size="64")


def test_only_its_own_files_are_loaded(make_baseline, tmp_path):
    make_baseline("SASRec").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'patchrec_sasrec', but GRU4Rec is 'patchrec_gru4rec'"):
        GRU4Rec.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["SASRec", "MoRec"])
def test_histories_are_scored_by_parts(make_baseline, name, monkeypatch):
    model = make_baseline(name)
    histories = [[10, 11], [12], [13, 14, 15], [10], [16, 12]]
    expected = model.score(histories)
    monkeypatch.setattr("patchrec_hf.baselines.sequential.HISTORIES_PER_BATCH", 2)
    np.testing.assert_allclose(model.train().score(histories), expected, atol=1e-6)
    assert model.training
    assert model.score([]).shape == (0, expected.shape[1])
