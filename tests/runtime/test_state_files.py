"""State files hold all that a state needs, and are refused where it would be wrong."""

import copy
import json

import numpy as np
import pytest
import torch
from families import TITLES, shared_model, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiers import first_fast
from user_states import assert_equals_reading_anew, make_recommender, plans_of, state_model, state_processor

from patchrec_hf import (
    Catalog,
    ItemPatchLayout,
    PatchRecommender,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
    UserState,
)


IDS = tiny()[0].item_ids.tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "states" / "ada.safetensors"


@pytest.fixture
def saved(path):
    """A state of two users, and its file."""
    state = make_recommender(ItemPatchLayout(0)).start([IDS[:3], IDS[4:9]], block_size=3)
    state.append([[IDS[20]], []])
    state.save(path)
    return state


def present_titles():
    return dict(zip(IDS, TITLES, strict=True))


@pytest.mark.parametrize(
    "layout", first_fast([ItemPatchLayout(0), SessionPatchLayout(2), RandomPatchLayout(0.5)]), ids=str
)
@pytest.mark.parametrize("time_gaps", first_fast([False, True]))
def test_a_state_goes_on(layout, time_gaps, path):
    recommender = make_recommender(ItemPatchLayout(1), time_gaps=time_gaps)
    times = (lambda *lists: list(lists)) if time_gaps else lambda *lists: None
    state = recommender.start([IDS[:3], IDS[4:9]], times([5, 6, 700], range(5)), layout=layout, block_size=3)
    state.save(path)
    loaded = make_recommender(ItemPatchLayout(1), time_gaps=time_gaps).load_state(path)
    assert loaded.recommend(5) == state.recommend(5)
    for each in (state, loaded):
        each.append([[IDS[20]], [IDS[21], IDS[22]]], times([900], [8, 1000]))
    assert loaded.positions_read == state.positions_read
    assert [plan.seed for plan in plans_of(loaded)] == [plan.seed for plan in plans_of(state)]
    assert (loaded.item_ids, loaded.layout, loaded.block_size) == (state.item_ids, layout, 3)
    assert_equals_reading_anew(loaded)


def test_one_user_stays_one_user(path):
    recommender = make_recommender(ItemPatchLayout(0))
    recommender.start(IDS[:3]).save(path)
    assert recommender.load_state(path).item_ids == IDS[:3]
    assert UserState.read_saved(path).item_ids == IDS[:3]


def test_the_file_holds_no_padding(saved, path):
    tensors = load_file(path)
    assert tensors["num_positions"].tolist() == list(saved.num_positions)
    assert tensors["keys.0"].shape[0] == sum(saved.num_positions)
    assert sum(tensor.nbytes for tensor in tensors.values()) < saved.num_bytes
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_is_replaced_when_the_new_one_is_whole(saved, path, monkeypatch):
    before = path.read_bytes()

    def failing(*args):
        raise OSError("disk full")

    monkeypatch.setattr("patchrec_hf.runtime.state_files.save_file", failing)
    with pytest.raises(OSError, match="disk full"):
        saved.save(path)
    assert path.read_bytes() == before


def test_low_precision(path):
    model = copy.deepcopy(state_model()).to(torch.bfloat16)
    recommender = PatchRecommender(model, state_processor(ItemPatchLayout(0)))
    state = recommender.start(IDS[:4])
    state.save(path)
    loaded = recommender.load_state(path)
    assert loaded._histories.cache.layers[0][0].dtype == torch.bfloat16
    assert loaded.recommend(5) == state.recommend(5)
    with pytest.raises(ValueError, match=r"another checkpoint: the models' dtypes differ \(bfloat16 and float32\)"):
        make_recommender(ItemPatchLayout(0)).load_state(path)


def test_a_state_of_another_checkpoint(saved, path):
    model = copy.deepcopy(state_model())
    with torch.no_grad():
        model.lm_head.weight += 0.01
    for other, message in (
        (PatchRecommender(model, state_processor(ItemPatchLayout(0))), "the models' weights differ"),
        (make_recommender(ItemPatchLayout(0), "gpt2"), "the models' configurations differ"),
        (make_recommender(ItemPatchLayout(0), separate_patches=False), "the processors' settings differ .*false"),
        (make_recommender(ItemPatchLayout(0), max_history=4), "history of 5 items, but the processor's .* is 4"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            other.load_state(path)
        assert "recommender.start(saved.item_ids, saved.timestamps)" in str(caught.value)
    anew = UserState.read_saved(path)
    assert (anew.item_ids, anew.timestamps) == (saved.item_ids, None)
    assert other.start(anew.item_ids, anew.timestamps).item_ids[0] == saved.item_ids[0]


def test_items_that_were_added(saved, path):
    processor = state_processor(ItemPatchLayout(0))
    larger = processor.with_catalog(processor.catalog.with_items({9_001: "A New Book"}))
    loaded = PatchRecommender(state_model(), larger).load_state(path)
    loaded.append([[9_001], []])
    assert loaded.item_ids == [[*IDS[:3], IDS[20], 9_001], IDS[4:9]]
    assert_equals_reading_anew(loaded)


def test_items_that_changed(path):
    """Without an item head, a catalog may lose items, and an item may get another title."""
    model = shared_model("llama_untied")

    def recommender(titles):
        catalog = Catalog.from_titles(titles)
        base = state_processor(ItemPatchLayout(0)).with_fusion(None)
        parts = (base.tokenizer, catalog, base.prompt, ItemPatchLayout(0))
        return PatchRecommender(model, type(base)(*parts, max_history=8))

    titles = present_titles()
    recommender(titles).start([IDS[:3], IDS[4:9]]).save(path)
    reversed_titles = dict(reversed(titles.items()))
    assert recommender(reversed_titles).load_state(path).item_ids == [IDS[:3], IDS[4:9]]
    with pytest.raises(ValueError, match=f"another catalog: item {IDS[5]} had another title than 'Other'"):
        recommender({**titles, IDS[5]: "Other"}).load_state(path)
    with pytest.raises(ValueError, match=f"another catalog. Item id {IDS[5]} is not in the catalog"):
        recommender({item: title for item, title in titles.items() if item != IDS[5]}).load_state(path)
    changed = {**titles, IDS[30]: "Other"}
    assert recommender(changed).load_state(path).item_ids == [IDS[:3], IDS[4:9]]


def test_ids_that_are_texts(path):
    base = state_processor(ItemPatchLayout(0)).with_fusion(None)
    catalog = Catalog.from_titles({f"B-{index}": title for index, title in enumerate(TITLES)})
    processor = type(base)(base.tokenizer, catalog, base.prompt, ItemPatchLayout(0))
    recommender = PatchRecommender(shared_model("llama_untied"), processor)
    state = recommender.start(["B-1", "Moon", "B-7"])
    state.append("B-9")
    state.save(path)
    assert recommender.load_state(path).item_ids == ["B-1", "B-1", "B-7", "B-9"]


def test_files_that_are_no_states(saved, path, tmp_path):
    recommender = saved._recommender
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="holds no user state"):
        recommender.load_state(other)
    other.write_text("no tensors")
    for read in (recommender.load_state, UserState.read_saved):
        with pytest.raises(ValueError, match="holds no user state"):
            read(other)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing.safetensors")
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    save_file(load_file(path), other, {**texts, "format_version": "99"})
    with pytest.raises(ValueError, match="format version 99"):
        recommender.load_state(other)
    facts = json.loads(texts["user_state"])
    # A layout of the user's own whose code has changed.
    facts["layout"] = {"name": "text"}
    save_file(load_file(path), other, {**texts, "user_state": json.dumps(facts)})
    with pytest.raises(ValueError, match="now lays out differently"):
        recommender.load_state(other)


def test_blocks_that_are_longer_than_histories_now(path):
    """A processor with a smaller `max_history` may read the history, but could not let such blocks leave it."""
    make_recommender(ItemPatchLayout(0)).start(IDS[:2], block_size=5).save(path)
    message = "leave in blocks of 5 items, but the processor's `max_history` is 5.*recommender.start"
    with pytest.raises(ValueError, match=message):
        make_recommender(ItemPatchLayout(0), max_history=5).load_state(path)
    assert make_recommender(ItemPatchLayout(0), max_history=6).load_state(path).block_size == 5


def test_a_layout_that_cannot_be_saved(path):
    class Plain:
        name = "plain"

        def __call__(self, num_items, seed=()):
            return TextLayout()(num_items)

    state = make_recommender(ItemPatchLayout(0)).start(IDS[:3], layout=Plain())
    np.testing.assert_array_less(0, state.num_positions)
    with pytest.raises(TypeError, match="must be a dataclass"):
        state.save(path)
    assert not path.exists()
