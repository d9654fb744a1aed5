"""The neural baselines: what each must keep to, and their parts against plain formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoModel, BertConfig, BertModel, set_seed

from patchrec_hf import Catalog, score_targets
from patchrec_hf.baselines import (
    Caser,
    CoVisitation,
    GRU4Rec,
    LinRec,
    Mamba4Rec,
    MoRec,
    Popularity,
    SASRec,
    training_arguments,
)
from patchrec_hf.baselines.lin_rec import linear_attention
from patchrec_hf.baselines.sequential import SequenceCollator


NAMES = ("GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec")
CLASSES = {"GRU4Rec": GRU4Rec, "Caser": Caser, "SASRec": SASRec, "LinRec": LinRec, "Mamba4Rec": Mamba4Rec}


@pytest.fixture
def make(catalog, tokenizer):
    """Makes a small model by its name, always the same."""

    def build(name, **settings):
        set_seed(0)
        settings = {"hidden_size": 16, "max_length": 12, **settings}
        if name == "Mamba4Rec":
            settings = {"state_size": 4, **settings}
        if name != "MoRec":
            return CLASSES[name].from_catalog(catalog, **settings).eval()
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        return MoRec.from_encoder(BertModel(config, add_pooling_layer=False), tokenizer, catalog, **settings).eval()

    return build


@pytest.fixture(scope="module")
def chains():
    """Histories in which item 10 + i is followed by 10 + (i + 1) % 12."""
    rows = [
        {"user_id": start, "item_ids": [10 + (start + step) % 12 for step in range(8)], "target_positions": [3, 4, 7]}
        for start in range(12)
    ]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("name", NAMES)
def test_no_position_sees_a_later_one_nor_padding(make, catalog, name):
    model = make(name)
    alone = model.score([[10, 13, 15]])
    together = model.score([[10, 13, 15], [11, 12, 13, 14, 15, 16], [17]])
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)
    items = torch.tensor([[0, 3, 5, 7, 1]])
    changed = torch.tensor([[0, 3, 5, 2, 2]])
    positions = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        torch.testing.assert_close(model(items, positions).logits, model(changed, positions).logits)
    assert np.abs(model.score([[10, 13, 16]]) - alone).max() > 1e-5  # and it does see what it should


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_several_targets_is_as_many_rows_of_one(make, catalog, name):
    model, collate = make(name), SequenceCollator(catalog, 12)
    items = [10, 13, 15, 11, 12, 18]
    together = collate([{"item_ids": items, "target_positions": [2, 3, 5]}])
    apart = collate([{"item_ids": items[: p + 1], "target_positions": [p]} for p in (2, 3, 5)])
    with torch.no_grad():
        torch.testing.assert_close(model(**together).loss, model(**apart).loss)
        losses = F.cross_entropy(torch.from_numpy(model.score([items[:p] for p in (2, 3, 5)])),
                                 torch.tensor(catalog.indices_of([15, 11, 18])))  # fmt: skip
        torch.testing.assert_close(model(**together).loss, losses)


@pytest.mark.parametrize("name", NAMES)
def test_learns_and_is_saved(make, catalog, chains, tmp_path, name):
    model = make(name, dropout=0.0)
    args = training_arguments(
        tmp_path, num_train_epochs=60, learning_rate=1e-2, per_device_train_batch_size=12, disable_tqdm=True,
        logging_strategy="no",
    )  # fmt: skip
    model.fit(chains, args=args)
    assert score_targets(model, catalog, chains, show_progress=False).metrics([1])["title_hr@1"] > 0.9
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model)
    assert loaded.catalog.titles == catalog.titles
    histories = [[10, 11, 12], [19]]
    np.testing.assert_allclose(loaded.score(histories), model.score(histories), atol=1e-6)


def test_validation_keeps_the_best_epoch(make, catalog, chains, tmp_path):
    """Training leads away from what validation holds, so the best epoch is the first, and training ends early."""
    backwards = chains.map(lambda row: {"item_ids": row["item_ids"][::-1]})
    args = training_arguments(tmp_path, num_train_epochs=30, learning_rate=1e-2, disable_tqdm=True)
    model = make("SASRec").fit(chains, backwards, args, patience=2)
    checkpoints = sorted(tmp_path.glob("checkpoint-*"))
    assert checkpoints
    state = max(int(path.name.rpartition("-")[2]) for path in checkpoints)
    assert state < 30  # a step an epoch
    best = SASRec.from_pretrained(min(checkpoints, key=lambda path: int(path.name.rpartition("-")[2])))
    np.testing.assert_allclose(model.score([[10, 11]]), best.score([[10, 11]]), atol=1e-6)


def test_sampled_loss_learns_too(make, catalog, chains, tmp_path):
    """What stands in a row is never drawn, so the rows are short, and the history is left out of the ranking."""
    rows = chains.map(lambda row: {"item_ids": row["item_ids"][:4], "target_positions": [3]})
    model = make("SASRec", dropout=0.0, loss="bce", num_negatives=3)
    args = training_arguments(
        tmp_path, num_train_epochs=150, learning_rate=1e-2, disable_tqdm=True, logging_strategy="no"
    )
    model.fit(rows, args=args)
    report = score_targets(model, catalog, rows, exclude_seen=True, show_progress=False)
    assert report.metrics([1])["title_hr@1"] > 0.9


def test_sampled_loss_by_hand(make, catalog):
    """With one item that is neither history nor target, a draw is that item or counts for nothing."""
    model = make("SASRec", loss="bce", num_negatives=40, dropout=0.0)
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


def test_only_the_latest_items_are_read(make, catalog):
    model = make("SASRec", max_length=3)
    np.testing.assert_allclose(model.score([[18, 19, 10, 11, 12]]), model.score([[10, 11, 12]]))
    batch = SequenceCollator(catalog, 3)([{"item_ids": [10, 11, 12, 13, 14, 15], "target_positions": [1, 3, 5]}])
    assert batch["items"].tolist() == [[2, 3, 4]]
    assert batch["positions"].tolist() == [[0, 2, 0]]  # the first target stands before the window
    assert batch["targets"].tolist() == [[3, 5, -100]]


def test_mistakes_are_named(make, catalog, chains):
    model = make("SASRec")
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


@pytest.mark.parametrize("name", ["SASRec", "LinRec"])
def test_heads_must_share_the_width(catalog, name):
    with pytest.raises(ValueError, match=r"`hidden_size` \(65\) must be a multiple of `num_heads` \(2\)"):
        CLASSES[name].from_catalog(catalog, hidden_size=65)


def test_only_its_own_files_are_loaded(make, tmp_path):
    make("SASRec").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'patchrec_sasrec', but GRU4Rec is 'patchrec_gru4rec'"):
        GRU4Rec.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["Popularity", "CoVisitation", "SASRec"])
def test_all_answer_wrong_histories_alike(make, catalog, chains, name):
    model = (
        make("SASRec") if name == "SASRec" else {"Popularity": Popularity, "CoVisitation": CoVisitation}[name](catalog)
    )
    if name != "SASRec":
        with pytest.raises(RuntimeError, match="call `fit` first"):
            model.score([[10]])
        with pytest.raises(TypeError, match="DatasetDict"):
            model.fit(DatasetDict({"train": chains}))
        model.fit(chains)
    assert model.score([]).shape == (0, len(catalog))
    with pytest.raises(ValueError, match="History 1 is empty"):
        model.score([[10], []])
    with pytest.raises(TypeError, match=r"got 10. Score a single one by `score\(\[ids\]\)`"):
        model.score([10, 11])


def test_linear_attention_is_the_papers():
    """At the last position it is the paper's: ρ₁(elu(Q)) (ρ₂(elu(K))ᵀ V) / √d; and chunks change nothing."""
    queries, keys, values = torch.randn(3, 2, 2, 11, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    found = linear_attention(queries, keys, values, chunk_size=4)
    for length in (1, 4, 5, 11):
        k = F.normalize(F.elu(keys[..., :length, :]), dim=-2)
        q = F.normalize(F.elu(queries[..., :length, :]), dim=-1)
        expected = (q @ (k.mT @ values[..., :length, :]))[..., -1, :] / 4**0.5
        torch.testing.assert_close(found[..., length - 1, :], expected)
    torch.testing.assert_close(found, linear_attention(queries, keys, values, chunk_size=64))


def test_caser_convolves_the_last_window(make):
    model = make("Caser", window=3)
    with torch.no_grad():
        vectors = torch.cat([torch.zeros(1, 16), model.item_embedding.weight[torch.tensor([4, 7])]])
        image = vectors[None, None]  # one picture of 3 items by 16 numbers
        features = [torch.einsum("vl,ld->dv", model.vertical.weight, vectors).flatten()]
        for convolve in model.horizontal:
            maps = F.conv2d(image, convolve.weight.transpose(1, 2)[:, None], convolve.bias)
            features.append(F.relu(maps).amax((2, 3))[0])
        state = F.relu(model.projection(torch.cat(features)))
        expected = model.item_embedding.weight[:-1] @ state
    np.testing.assert_allclose(model.score([[14, 17]])[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["SASRec", "MoRec"])
def test_histories_are_scored_by_parts(make, name, monkeypatch):
    model = make(name)
    histories = [[10, 11], [12], [13, 14, 15], [10], [16, 12]]
    expected = model.score(histories)
    monkeypatch.setattr("patchrec_hf.baselines.sequential.HISTORIES_AT_ONCE", 2)
    np.testing.assert_allclose(model.train().score(histories), expected, atol=1e-6)
    assert model.training
    assert model.score([]).shape == (0, expected.shape[1])


def test_morec_reads_titles_once_in_each_call(make, monkeypatch):
    model = make("MoRec")
    reads = []
    model.item_embedding.encoder.register_forward_hook(lambda *_: reads.append(1))
    monkeypatch.setattr("patchrec_hf.baselines.sequential.HISTORIES_AT_ONCE", 1)
    before = model.score([[10, 11], [12]])
    assert len(reads) == 1
    with torch.no_grad():
        model.item_embedding.projection.weight.mul_(2)
    assert np.abs(model.score([[10, 11], [12]]) - before).max() > 1e-3
    assert len(reads) == 2


def test_morec_learns_from_the_items_of_a_batch(make, catalog):
    """In training a target competes with the batch's items, each once; and items of one title are one vector."""
    model = make("MoRec", dropout=0.0)
    model.item_embedding.encoder.config.hidden_dropout_prob = 0.0
    items, targets = torch.tensor([[0, 3, 12], [3, 5, 6]]), torch.tensor([[7, -100], [3, 8]])
    positions = torch.tensor([[1, 0], [0, 2]])
    with torch.no_grad():
        logits = model(items, positions).logits
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loss = model(items, positions, targets).loss
    in_batch = torch.tensor([0, 3, 5, 6, 7, 8])
    rows = logits[[0, 1, 1], [0, 0, 1]][:, in_batch]
    torch.testing.assert_close(loss, F.cross_entropy(rows, torch.tensor([4, 1, 5])))
    scores = model.score([[10, 11]])[0]
    assert catalog.titles[4] == catalog.titles[5]
    assert scores[4] == scores[5]
