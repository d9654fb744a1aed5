"""User states recommend as if their histories were read anew, and read only what a click changes."""

import copy
import dataclasses
import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
from families import FAMILIES, TITLES, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiers import first_fast, scaled
from user_states import (
    METHODS,
    assert_equals_reading_anew,
    assert_same_lists,
    make_recommender,
    plans_of,
    state_model,
    state_processor,
)

from patchrec_hf import (
    BudgetLayout,
    DropLayout,
    ItemPatchLayout,
    PatchRecommender,
    PyramidLayout,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
    TimeWindowLayout,
    Title,
    UserState,
)
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.runtime.read_histories import PositionsRead


IDS = tiny()[0].item_ids.tolist()
STATE_FAMILIES = ["llama_untied", "gpt2", "gemma2", "mistral_sliding"]
APPEND_ONLY = [ItemPatchLayout(0), TextLayout(), RandomPatchLayout(0.5)]
OTHERS = [
    ItemPatchLayout(2),
    SessionPatchLayout(2),
    SessionPatchLayout(3, "oldest"),
    DropLayout(0.4),
    PyramidLayout(num_text_items=1, width=2),
    BudgetLayout(6, num_text_items=1),
]
WINDOWS = TimeWindowLayout(max_gap=100, num_text_items=1)


@dataclasses.dataclass(frozen=True)
class ThinningLayout:
    """Leaves out more old items as a history grows, and writes fewer units for it than for a shorter one."""

    name: ClassVar[str] = "thinning"

    def __call__(self, num_items, seed=()):
        first = num_items // 3 * 2
        return [Segment("session_patch", first, num_items)]


@pytest.mark.parametrize("family", first_fast(STATE_FAMILIES))
@pytest.mark.parametrize("layout", first_fast([*APPEND_ONLY, *OTHERS]), ids=str)
def test_clicks_equal_reading_anew(family, layout):
    recommender = make_recommender(layout, family)
    state = recommender.start(IDS[:3])
    for item in IDS[3:6]:
        state.append(item)
    assert state.item_ids == IDS[:6]
    assert_equals_reading_anew(state)
    if not isinstance(layout, RandomPatchLayout | DropLayout):
        found = [state.recommend(4, method="item")]
        assert_same_lists(found, [recommender.recommend(IDS[:6], 4, method="item")])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    """A single user is read with the backbone's own mask, and users of a batch with ours."""
    recommender = make_recommender(ItemPatchLayout(1), family)
    single, batch = recommender.start(IDS[:4]), recommender.start([IDS[:4], IDS[7:9]])
    single.append(IDS[4:6])
    batch.append([IDS[4:6], [IDS[10]]])
    torch.testing.assert_close(single._histories.states[0], batch._histories.states[0], atol=1e-4, rtol=0)
    assert_equals_reading_anew(batch, ("item", "exact"))


@pytest.mark.parametrize("family", ["llama_untied", "gemma2"])
def test_eager_attention(family):
    model = copy.deepcopy(state_model(family))
    model.set_attn_implementation("eager")
    recommender = PatchRecommender(model, state_processor(ItemPatchLayout(1)))
    for start, more in ((IDS[:4], IDS[4:6]), ([IDS[:4], IDS[7:9]], [IDS[4:6], [IDS[10]]])):
        state = recommender.start(start)
        state.append(more)
        assert_equals_reading_anew(state, ("item", "exact"))


histories = st.lists(st.sampled_from(IDS), min_size=1, max_size=6)
changes = st.one_of(
    st.tuples(st.just("append"), st.lists(st.lists(st.sampled_from(IDS), max_size=3), min_size=3, max_size=3)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 2), min_size=1, max_size=3)),
    st.tuples(st.just("join"), histories),
    st.tuples(st.just("save"), st.none()),
)


def check_changes(path, family, layout, separate_patches, time_gaps, max_history, block_size, starts, steps):
    recommender = make_recommender(
        layout, family, separate_patches=separate_patches, time_gaps=time_gaps, max_history=max_history
    )
    clock = iter(range(0, 10**9, 97))
    has_times = time_gaps or layout == WINDOWS

    def times(lists):
        """Later and later times, with gaps that reach into several buckets."""
        return [[next(clock) ** 2 // 50 for _ in items] for items in lists] if has_times else None

    block_size = min(block_size, max_history - 1)
    state = recommender.start(starts, times(starts), block_size=block_size)
    expected = [items[-max_history:] for items in starts]
    for kind, value in steps:
        if kind == "append":
            lists = [value[number % 3] for number in range(len(state))]
            state.append(lists, times(lists))
            for number, items in enumerate(lists):
                for item in items:
                    expected[number] = [*expected[number], item]
                    if len(expected[number]) > max_history:
                        expected[number] = expected[number][-(max_history - block_size) :]
        elif kind == "select":
            numbers = [number % len(state) for number in value]
            state, expected = state.select(numbers), [expected[number] for number in numbers]
        elif kind == "join":
            other = recommender.start([value], times([value]), block_size=block_size)
            state, expected = UserState.join([state, other]), [*expected, value[-max_history:]]
        else:
            state.save(path)
            state = recommender.load_state(path)
        assert state.item_ids == expected
    assert_equals_reading_anew(state, k=4)


FACTS = {
    "family": st.sampled_from(STATE_FAMILIES),
    "layout": st.sampled_from([*APPEND_ONLY, *OTHERS, WINDOWS]),
    "separate_patches": st.booleans(),
    "time_gaps": st.booleans(),
    "max_history": st.integers(1, 7),
    "block_size": st.integers(0, 6),
    "starts": st.lists(histories, min_size=1, max_size=3),
    "steps": st.lists(changes, max_size=4),
}


@settings(max_examples=scaled(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**FACTS)
def test_any_changes_equal_reading_anew(tmp_path, **facts):
    check_changes(tmp_path / "state.safetensors", **facts)


@pytest.mark.slow
@settings(max_examples=scaled(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**FACTS)
def test_many_changes_equal_reading_anew(tmp_path, **facts):
    check_changes(tmp_path / "state.safetensors", **facts)


def test_prompts_of_several_states_are_ranked_together():
    """No state is copied, and the items to leave out are the caller's."""
    recommender = make_recommender(ItemPatchLayout(0))
    states = [recommender.start(IDS[:3]), recommender.start([IDS[4:9], IDS[9:11]])]
    states[0].append(IDS[3])
    prompts = [prompt for state in states for prompt in state.prompts]
    seen = [recommender.catalog.indices_of(ids) for ids in (IDS[:4], IDS[:9], [])]
    for method in METHODS:
        found = recommender.recommend_behind(
            prompts, seen, 5, unique_titles=True, candidates=None, method=method, num_beams=None,
            max_title_tokens=None, normalizer=None, times=None,
        )  # fmt: skip
        expected = [recommender.recommend(IDS[:4], 5, method=method)]
        expected.append(recommender.recommend(IDS[4:9], 5, method=method, candidates=[*set(IDS) - set(IDS[:9])]))
        expected.append(recommender.recommend(IDS[9:11], 5, method=method, exclude_seen=False))
        assert_same_lists(found, expected)


def test_positions_of_a_click():
    lengths = state_processor(TextLayout()).title_tokens.lengths
    first, second, third = lengths[:3].tolist()
    before = len(state_processor(TextLayout()).prompt.prefix_ids) + 1

    def read(layout, num_items=2, **settings):
        state = make_recommender(layout, **settings).start(IDS[:num_items])
        started = state.positions_read[0]
        state.append(IDS[num_items])
        return started.total - before, state.positions_read

    assert read(ItemPatchLayout(0)) == (3, (PositionsRead(2, 0),))  # a separator and a patch
    assert read(ItemPatchLayout(0), separate_patches=False) == (2, (PositionsRead(1, 0),))
    assert read(TextLayout()) == (first + second + 1, (PositionsRead(third + 1, 0),))
    # The first item becomes a patch: it, the separator behind it and the second item are read again.
    assert read(ItemPatchLayout(2)) == (first + second + 1, (PositionsRead(1 + 1 + second + 1 + third, 2 + second),))
    # Six patches become two sessions, an item patch and text, and so on: nothing is kept but the prompt's beginning.
    state = make_recommender(SessionPatchLayout(2)).start(IDS[:7])
    state.append(IDS[7])
    assert state.positions_read[0].total == state.num_positions[0] - before


def test_a_finished_session_is_not_read_again():
    state = make_recommender(SessionPatchLayout(2, "oldest"), max_history=20).start(IDS[:12])
    state.append(IDS[12])
    # Sessions 0 to 3 hold items 0 to 7, and stay. Item 8 stays a patch, and item 10 becomes one.
    lengths = state_processor(TextLayout()).title_tokens.lengths
    assert state.positions_read == (PositionsRead(2 + lengths[11] + 1 + lengths[12], 2 + lengths[11]),)


def test_the_oldest_items_leave_in_blocks():
    state = make_recommender(ItemPatchLayout(0), max_history=6).start(IDS[:6])
    held = []
    for item in IDS[6:16]:
        state.append(item)
        held.append(len(state.item_ids))
        assert state.item_ids == IDS[: IDS.index(item) + 1][-held[-1] :]
    assert held == [3, 4, 5, 6, 3, 4, 5, 6, 3, 4]
    sliding = make_recommender(ItemPatchLayout(0), max_history=4)
    state = sliding.start(IDS[:9], block_size=0)
    assert state.item_ids == IDS[5:9]
    state.append(IDS[9:11])
    assert state.item_ids == IDS[7:11]
    # The two items that remain are read again, at earlier positions, with the separators behind them.
    assert state.positions_read == (PositionsRead(7, 3),)
    assert_equals_reading_anew(state, ("item",))


def test_more_items_at_once_than_the_history_holds():
    one_by_one, at_once = (make_recommender(ItemPatchLayout(1), max_history=5).start(IDS[:2]) for _ in range(2))
    for item in IDS[2:20]:
        one_by_one.append(item)
    at_once.append(IDS[2:20])
    assert at_once.item_ids == one_by_one.item_ids
    assert at_once.positions_read[0].again == 0
    assert_equals_reading_anew(at_once, ("item", "exact"))


def test_a_layout_that_writes_fewer_units(tmp_path):
    state = make_recommender(ThinningLayout(), max_history=12).start(IDS[:2])
    for item in IDS[2:8]:
        state.append(item)
        assert_equals_reading_anew(state, ("item", "exact"))
    state.save(tmp_path / "state.safetensors")
    loaded = state._recommender.load_state(tmp_path / "state.safetensors")
    assert loaded.recommend(3) == state.recommend(3)


def test_a_recommendation_changes_nothing():
    state = make_recommender(ItemPatchLayout(0)).start([IDS[:3], IDS[4:9]])
    before = [tuple(buffer.clone() for buffer in layer) for layer in state._histories.cache.layers]
    first = {method: state.recommend(4, method=method) for method in METHODS}
    assert {method: state.recommend(4, method=method) for method in METHODS} == first
    for layer, kept in zip(state._histories.cache.layers, before, strict=True):
        assert all(torch.equal(mine, other) for mine, other in zip(layer, kept, strict=True))


def test_settings_of_a_recommendation():
    recommender = make_recommender(ItemPatchLayout(0))
    state = recommender.start([IDS[:3], IDS[4:9]])
    options = {"exclude_seen": False, "unique_titles": False, "candidates": [IDS[:8], IDS[3:12]], "method": "exact"}
    assert_same_lists(state.recommend(3, **options), recommender.recommend(state.item_ids, 3, **options))
    assert_same_lists(
        state.recommend(3, method="beam", num_beams=3, normalizer="catalog"),
        recommender.recommend(state.item_ids, 3, method="beam", num_beams=3, normalizer="catalog"),
    )
    assert not {item.item_id for item in state.recommend(30)[0]} & set(IDS[:3])
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        state.recommend(0)
    with pytest.raises(ValueError, match="'diverse' reproduces"):
        state.recommend(method="diverse")


def test_copies_are_independent():
    recommender = make_recommender(ItemPatchLayout(0))
    batch = recommender.start([IDS[:3], IDS[4:9], IDS[9:11]])
    expected = batch.recommend(4)
    some = batch.select([2, 0])
    one = batch.select(1)
    assert (one.item_ids, len(one), some.item_ids) == (IDS[4:9], 1, [IDS[9:11], IDS[:3]])
    assert_same_lists(some.recommend(4), [expected[2], expected[0]])
    some.append([[IDS[20]], []])
    one.append(IDS[21])
    joined = UserState.join([one, some, batch])
    joined.append([[IDS[22]]] * 6)
    assert batch.item_ids == [IDS[:3], IDS[4:9], IDS[9:11]]
    assert_same_lists(batch.recommend(4), expected)
    for state in (some, one, joined):
        assert_equals_reading_anew(state, ("item", "exact"))


def test_facts_about_a_state():
    recommender = make_recommender(ItemPatchLayout(0))
    state = recommender.start([IDS[:3], IDS[4:9]])
    assert len(state) == 2
    assert state.num_positions[1] == state.num_positions[0] + 4
    buffers = [buffer for layer in state._histories.cache.layers for buffer in layer]
    assert state.num_bytes == sum(buffer.nbytes for buffer in buffers) + state._histories.states.nbytes
    assert repr(state).startswith("UserState(2 users with 3, 5 items, layout=ItemPatchLayout(num_text_items=0), ")
    assert recommender.start(TITLES[:2]).item_ids == IDS[:2]
    # Nothing to append.
    state.append([[], []])
    assert state.positions_read == (PositionsRead(0, 0), PositionsRead(0, 0))


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (999_999, KeyError, "Item id 999999 is not in the catalog"),
        (
            Title("A Book Nobody Knows"),
            KeyError,
            "is no title of the catalog.*catalog only. To add one",
        ),
        ("A Book Nobody Knows", KeyError, "is no title of the catalog.*catalog only. To add one"),
        ("Persuasio", KeyError, "'Persuasion'"),
        ([IDS[3], 999_999], KeyError, "Item id 999999"),
        (1.5, TypeError, "An item is an id"),
        ([[IDS[3]]], TypeError, "An item is an id"),
        ([True], TypeError, "An item is an id"),
    ],
)
def test_items_that_cannot_be_appended(items, error, message):
    state = make_recommender(ItemPatchLayout(2)).start(IDS[:4])
    expected, read = state.recommend(4), state.positions_read
    with pytest.raises(error, match=message):
        state.append(items)
    assert (state.item_ids, state.positions_read, state.recommend(4)) == (IDS[:4], read, expected)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (IDS[3], TypeError, "A batch of 2 histories takes a list of items for each of them"),
        ([[IDS[3]]], ValueError, "which may be empty; got 1"),
        ([IDS[3], IDS[4]], TypeError, "Each history takes a list of items"),
        ([[IDS[3]], [999_999]], KeyError, "Item id 999999"),
    ],
)
def test_lists_that_cannot_be_appended(items, error, message):
    state = make_recommender(ItemPatchLayout(2)).start([IDS[:4], IDS[:2]])
    expected = state.recommend(4)
    with pytest.raises(error, match=message):
        state.append(items)
    assert state.item_ids == [IDS[:4], IDS[:2]]
    assert state.recommend(4) == expected


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        ([], ValueError, "history is empty"),
        ([[IDS[0]], []], ValueError, "history is empty"),
        ([999_999], KeyError, "Item id 999999"),
        ([Title("A Book Nobody Knows")], KeyError, "is no title of the catalog"),
    ],
)
def test_histories_that_cannot_start(histories, error, message):
    with pytest.raises(error, match=message):
        make_recommender(ItemPatchLayout(2)).start(histories)


def test_a_state_is_saved_and_not_pickled():
    state = make_recommender(ItemPatchLayout(0)).start(IDS[:2])
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"cannot be pickled: `state\.save\(path\)`"):
            copied(state)


def test_a_directory_is_no_file(tmp_path):
    recommender = make_recommender(ItemPatchLayout(0))
    with pytest.raises(IsADirectoryError, match=r"is a directory\. Name the file to write"):
        recommender.start(IDS[:2]).save(tmp_path)
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            recommender.load_state(path)


def test_times_that_a_state_holds():
    recommender = make_recommender(ItemPatchLayout(0))
    assert recommender.start(IDS[:2]).timestamps is None
    assert recommender.start(IDS[:2], [10, 20]).timestamps == [10, 20]
    assert recommender.start([IDS[:2], IDS[:1]], [[10, 20], [5]]).timestamps == [[10, 20], [5]]


def test_timestamps():
    recommender = make_recommender(ItemPatchLayout(0), time_gaps=True)
    with pytest.raises(ValueError, match="hold time gaps, but a state was started without `timestamps`"):
        recommender.start(IDS[:2])
    with pytest.raises(ValueError, match="must ascend, got 20 before 10 in row 0"):
        recommender.start(IDS[:2], [20, 10])
    state = recommender.start([IDS[:2], IDS[:3]], [[10, 20], [5, 6, 7]])
    expected = state.recommend(3)
    for times, message in (
        (None, "the new items of row 0 have none"),
        ([[30], [6]], "row 1 go back: the newest item of the state has 7, and the first new one has 6"),
        ([[30, 31], [8]], "has 1 items, but 2 timestamps"),
    ):
        with pytest.raises(ValueError, match=message):
            state.append([[IDS[5]], [IDS[6]]], times)
        assert state.recommend(3) == expected
    state.append([[IDS[5]], []], [[20 + 3600], []])
    assert_equals_reading_anew(state)
    with pytest.raises(ValueError, match=r"TimeWindowLayout.* reads timestamps, but a state was started without"):
        make_recommender(WINDOWS).start(IDS[:2])
    single = recommender.start(IDS[:2], [10, 20])
    single.append(IDS[5], 20 + 3600)
    assert_same_lists([single.recommend(4)], [state.recommend(4)[0]])
    untimed = make_recommender(ItemPatchLayout(0)).start(IDS[:2])
    with pytest.raises(ValueError, match="was started without timestamps"):
        untimed.append(IDS[3], 5)


def test_a_context_that_is_too_short():
    recommender = make_recommender(TextLayout(), max_history=200)
    state = recommender.start([IDS[:4], IDS[:2]])
    expected = state.recommend(4)
    with pytest.raises(ValueError, match=r"prompt of row 1 takes .* the model reads at most 256"):
        state.append([[IDS[1]], IDS * 4])
    assert state.item_ids == [IDS[:4], IDS[:2]]
    assert state.recommend(4) == expected


@pytest.mark.parametrize("layout", [ItemPatchLayout(0), ItemPatchLayout(2)], ids=str)
def test_a_forward_that_fails_changes_nothing(layout, monkeypatch):
    """The users are read in two forwards, and the second one fails."""
    recommender = make_recommender(layout)
    monkeypatch.setattr(
        "patchrec_hf.runtime.read_histories.read_groups",
        lambda queries, keys, cost: [np.array([index]) for index in range(len(queries))],
    )
    state = recommender.start([IDS[:4], IDS[4:10]])
    expected = state.recommend(4, method="exact")
    language_model = recommender.model.model.language_model
    forward, calls = language_model.forward, []

    def failing(*args, **kwargs):
        calls.append(1)
        result = forward(*args, **kwargs)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(language_model, "forward", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            state.append([[IDS[11]], [IDS[12]]])
    assert state.item_ids == [IDS[:4], IDS[4:10]]
    assert_same_lists(state.recommend(4, method="exact"), expected)
    assert_equals_reading_anew(state)
    state.append([[IDS[11]], [IDS[12]]])
    assert_equals_reading_anew(state)


def test_settings_that_are_refused():
    recommender = make_recommender(ItemPatchLayout(0), max_history=6)
    for block_size in (-1, 6, 2.0, True):
        with pytest.raises(ValueError, match="whole number from 0 to 5"):
            recommender.start(IDS[:2], block_size=block_size)
    with pytest.raises(TypeError, match="`layout` must be a layout"):
        recommender.start(IDS[:2], layout=ItemPatchLayout)
    state = recommender.start([IDS[:2], IDS[:3]])
    with pytest.raises(ValueError, match="at least one user"):
        state.select([])
    with pytest.raises(IndexError, match="no user 2"):
        state.select([0, 2])
    with pytest.raises(ValueError, match="at least one state"):
        UserState.join([])
    with pytest.raises(ValueError, match="differ in `layout`"):
        UserState.join([state, recommender.start(IDS[:2], layout=TextLayout())])
    with pytest.raises(ValueError, match="differ in `block_size`"):
        UserState.join([state, recommender.start(IDS[:2], block_size=1)])
    timed = recommender.start(IDS[:2], [5, 6])
    with pytest.raises(ValueError, match="State 0 has no timestamps, and state 1 has some"):
        UserState.join([state, timed])
    with pytest.raises(ValueError, match="State 0 has timestamps, and state 1 has none"):
        UserState.join([timed, state])
    with pytest.raises(ValueError, match="State 1 belongs to another recommender"):
        UserState.join([state, make_recommender(ItemPatchLayout(0), max_history=6).start(IDS[:2])])


def test_sharded_weights_are_refused(monkeypatch):
    recommender = make_recommender(ItemPatchLayout(0))
    monkeypatch.setattr("patchrec_hf.runtime.user_state.is_sharded", lambda model: True)
    with pytest.raises(ValueError, match="sharded"):
        recommender.start(IDS[:2])


def test_a_backbone_that_cannot_read_in_parts(monkeypatch):
    recommender = make_recommender(ItemPatchLayout(0))
    monkeypatch.setattr(type(recommender.model), "supports_tree_attention", lambda self: False)
    with pytest.raises(TypeError, match="keeps no keys and values"):
        recommender.start(IDS[:2])


def test_low_precision():
    model = copy.deepcopy(state_model()).to(torch.bfloat16)
    recommender = PatchRecommender(model, state_processor(ItemPatchLayout(0)))
    state = recommender.start([IDS[:3], IDS[:5]])
    state.append([[IDS[7]], [IDS[8]]])
    layers = [layer for layer in state._histories.cache.layers if layer is not None]
    assert {buffer.dtype for layer in layers for buffer in layer} == {torch.bfloat16}
    found, anew = state.recommend(3, method="item"), recommender.recommend(state.item_ids, 3, method="item")
    np.testing.assert_allclose([x.score for x in found[0]], [x.score for x in anew[0]], rtol=0.05, atol=0.1)


def test_appending_encodes_only_what_is_new(monkeypatch):
    """A click on a long history neither encodes it nor computes its checksum."""
    recommender = make_recommender(ItemPatchLayout(0), max_history=100)
    state = recommender.start(IDS[:20] * 4)
    processor = type(recommender.processor)
    encode_units, encoded = processor.encode_units, []

    def counting(self, items, *args, **kwargs):
        encoded.append(len(items))
        return encode_units(self, items, *args, **kwargs)

    def failing(self, *args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(processor, "encode_units", counting)
    monkeypatch.setattr(processor, "encode", failing)
    monkeypatch.setattr(type(recommender.processor.title_tokens), "checksum", failing)
    state.append([IDS[3], IDS[5]])
    state.append(IDS[7])
    state.recommend(3)
    assert encoded == [2, 1]
    assert plans_of(state)[0].length == state.num_positions[0]
