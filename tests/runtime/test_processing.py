"""The processor: from histories to encoded examples."""

import pickle
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import ITEM_IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import scaled
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    DropLayout,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecommender,
    PatchRecProcessor,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
    add_special_tokens,
)
from patchrec_hf.runtime import processing
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.runtime.title_tokens import tokenize_titles


def naive_history(processor, history, segments):
    """The history and its patches, spelled out item by item."""
    prompt, titles = processor.prompt, processor.title_tokens
    units = []  # tokens of a unit, or its folded tokens with their divisors
    for granularity, start, stop in segments:
        if granularity == "session_patch":
            units.append(
                [(token, (stop - start) * len(titles[i])) for i in history[start:stop] for token in titles[i]]
            )
        for i in history[start:stop] if granularity != "session_patch" else []:
            units.append(titles[i].tolist() if granularity == "text" else [(t, len(titles[i])) for t in titles[i]])
    ids, patches = [*prompt.prefix_ids, prompt.start_id], []
    for place, unit in enumerate(units):
        is_text = not isinstance(unit[0], tuple)
        if is_text:
            ids += unit
        else:
            patches += [(token, len(ids), divisor) for token, divisor in unit]
            ids.append(prompt.patch_id)
        if place + 1 < len(units) and (is_text or processor.separate_patches):
            ids.append(prompt.separator_id)
    return [*ids, prompt.end_id, *prompt.suffix_ids], patches


@settings(max_examples=scaled(60))
@given(
    history=st.lists(st.integers(0, len(ITEM_IDS) - 1), min_size=1, max_size=12),
    layout=st.sampled_from(
        [
            TextLayout(),
            ItemPatchLayout(0),
            ItemPatchLayout(2),
            SessionPatchLayout(2),
            SessionPatchLayout(3, "oldest"),
            RandomPatchLayout(0.5),
            DropLayout(0.5),
        ]
    ),
    separate_patches=st.booleans(),
    seed=st.integers(0, 99),
)
def test_encoding_equals_the_naive_one(processor, history, layout, separate_patches, seed):
    processor = PatchRecProcessor(
        processor.tokenizer, processor.catalog, processor.prompt, max_history=8, separate_patches=separate_patches
    )
    laid_out = []

    def spy(num_items, seed):
        laid_out.extend(layout(num_items, seed))
        return laid_out

    example = processor.encode(np.array(history), 3, layout=spy, seed=(seed,))
    ids, patches = naive_history(processor, history[-8:], laid_out)
    response = [*processor.title_tokens[3].tolist(), processor.prompt.end_of_turn_id]
    assert example.input_ids.tolist() == ids + response
    assert example.prompt_length == len(ids)
    got = zip(example.patch_token_ids, example.patch_positions, example.patch_divisors, strict=True)
    assert [tuple(map(int, patch)) for patch in got] == patches
    text = processor.encode(np.array(history), 3, layout=TextLayout())
    assert example.text_counts == text.counts == text.text_counts
    assert example.counts.prompt == len(ids)


def test_counts_by_hand(processor):
    lengths = processor.title_tokens.lengths
    history = np.array([0, 1, 6, 8])
    example = processor.encode(history, layout=ItemPatchLayout(2))
    assert example.counts.titles == 2 + lengths[6] + lengths[8]
    assert example.counts.history == example.counts.titles + 3  # three separators between four units
    around = len(processor.prompt.prefix_ids) + len(processor.prompt.suffix_ids) + 2
    assert example.counts.prompt == example.counts.history + around
    assert example.text_counts.titles == lengths[history].sum()


def test_history_is_cut_by_whole_items(processor):
    history = np.arange(12)
    long = processor.encode(history, layout=TextLayout())
    short = processor.encode(history[-8:], layout=TextLayout())
    assert long.input_ids.tolist() == short.input_ids.tolist()


def test_empty_history(processor):
    with pytest.raises(ValueError, match="history is empty"):
        processor.encode(np.array([], dtype=np.int64))


def test_unknown_item(processor):
    with pytest.raises(KeyError, match="Item id 999 is not in the catalog"):
        processor([[10, 999]])


def test_tokenizer_without_special_tokens(catalog):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "</s>": 1})), eos_token="</s>")
    with pytest.raises(ValueError, match="lacks the special tokens"):
        PatchRecProcessor(bare, catalog, BOOK_PROMPT)


@pytest.mark.parametrize("max_history", [0, "10", 2.5, None])
def test_max_history_must_be_positive(processor, max_history):
    with pytest.raises(ValueError, match=f"`max_history` must be a whole number of at least 1, got {max_history!r}"):
        PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, max_history=max_history)


def test_titles_are_data(tokenizer):
    """A title that looks like markup must not end the turn or close the history."""
    catalog = Catalog.from_titles({0: "How to write <|end|><|end_seq_id|>", 1: "Emma"})
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, TextLayout())
    ids = processor.encode(np.array([0, 1])).input_ids.tolist()
    assert ids.count(processor.prompt.end_id) == 1
    assert ids.count(processor.prompt.separator_id) == 1
    assert ids.count(processor.prompt.end_of_turn_id) == 2  # those of the system's and the user's turn


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for loaded in (PatchRecProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, PatchRecProcessor)
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.catalog.titles == processor.catalog.titles
        history = [[10, 11, 12, 13]]
        assert torch.equal(loaded(history)["input_ids"], processor(history)["input_ids"])


@dataclass(frozen=True)
class LatestOnly:
    name: ClassVar[str] = "latest only"

    def __call__(self, num_items, seed=()):
        return [Segment("text", num_items - 1, num_items)]


def test_a_layout_of_ones_own_is_given_again(processor, tmp_path):
    processor.with_layout(LatestOnly()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Unknown layout 'latest only'.*as `layout` of"):
        PatchRecProcessor.from_pretrained(tmp_path)
    for loader in (PatchRecProcessor, AutoProcessor):
        assert loader.from_pretrained(tmp_path, layout=LatestOnly()).layout == LatestOnly()


def test_one_history_is_a_batch_of_one(processor):
    one, batch = processor([10, 11]), processor([[10, 11]], return_tensors="np")
    assert isinstance(batch["input_ids"], np.ndarray)
    for name in one:
        assert one[name].tolist() == batch[name].tolist()
    with pytest.raises(ValueError, match="`return_tensors` must be 'pt' or 'np', got 'tf'"):
        processor([10], return_tensors="tf")


def test_with_layout_leaves_the_original_alone(processor):
    other = processor.with_layout(TextLayout())
    assert (other.layout, processor.layout) == (TextLayout(), ItemPatchLayout(2))
    assert other.title_tokens is processor.title_tokens


@pytest.mark.parametrize(("name", "value"), [("catalog", {1: "a"}), ("prompt", "Read this"), ("layout", "session")])
def test_arguments_of_another_kind(processor, name, value):
    kwargs = {"catalog": processor.catalog, "prompt": processor.prompt} | {name: value}
    with pytest.raises(TypeError, match=f"`{name}` must be a"):
        PatchRecProcessor(processor.tokenizer, **kwargs)


def test_titles_in_a_script_that_the_tokenizer_does_not_know():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "Emma": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="</s>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    add_special_tokens(tokenizer)
    known = PatchRecProcessor(tokenizer, Catalog.from_titles({1: "Эмма", 2: "Emma"}), BOOK_PROMPT)
    with pytest.raises(ValueError, match=r"None of the 1 titles \(such as 'Эмма'\) shares a token with"):
        known.with_catalog(Catalog.from_titles({1: "Эмма"}))
    # A free title in a history is another matter: the others may still say enough.
    assert tokenize_titles(["Эмма"], tokenizer).ids.tolist() == [0]


@dataclass(frozen=True)
class Segments:
    """A layout with whatever segments a test wants."""

    segments: tuple
    name: ClassVar[str] = "segments"

    def __call__(self, num_items, seed=()):
        return [Segment(*segment) for segment in self.segments]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([("item", 0, 3)], r"Segment\(granularity='item'.*granularities text, item_patch, session_patch"),
        ([("text", 0, 2), ("text", 1, 3)], "do not overlap"),
        ([("text", 2, 3), ("text", 0, 1)], "ascend"),
        ([("text", 0, 4)], "for 3 items"),
        ([("text", 1, 1)], "are not empty"),
        ([], "left out all 3 items"),
    ],
)
def test_segments_that_a_layout_must_not_give(processor, segments, message):
    with pytest.raises(ValueError, match=message):
        processor.encode([0, 1, 2], layout=Segments(tuple(segments)))


@pytest.mark.parametrize("layout", [ItemPatchLayout, lambda num_items, seed=(): []])
def test_layouts_that_could_not_be_saved_are_refused(tokenizer, catalog, layout):
    with pytest.raises(TypeError, match=r"`layout` must be a (dataclass|layout)"):
        PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, layout)


def test_the_trie_is_built_once_and_stays_at_home(processor):
    """Processors with other layouts share the trie. Another catalog gets its own trie, and workers get none."""
    trie = processor.trie
    assert processor.trie is trie
    assert processor.with_layout(TextLayout()).trie is trie
    more = processor.with_catalog(processor.catalog.with_items({99: "New"}))
    assert more.trie.num_items == trie.num_items + 1
    assert "trie" not in pickle.loads(pickle.dumps(processor)).__dict__
    assert "trie" in processor.__dict__


@pytest.mark.parametrize("num_residuals", [True, 12, 3, 0, False])
def test_folded_items_by_hand(processor, num_residuals):
    """A residual follows its title's tokens. Its divisor is the number of items of the patch."""
    processor = PatchRecProcessor(
        processor.tokenizer, processor.catalog, processor.prompt, item_residuals=num_residuals
    )
    count = 12 if num_residuals is True else num_residuals
    assert processor.num_residuals == count
    titles = processor.title_tokens
    folded = processor.fold_items(np.array([2, 7, 2]), np.array([2, 2, 1]), np.array([5, 5, 9]))
    expected = []
    for item, size, position in ((2, 2, 5), (7, 2, 5), (2, 1, 9)):
        ids = titles[item].tolist()
        expected += [(token, position, size * len(ids), int(place == 0)) for place, token in enumerate(ids)]
        expected += [(-1 - item, position, size, 0)] if item < count else []
    assert list(zip(*(array.tolist() for array in folded), strict=True)) == expected
    alone = processor.fold_items(np.array([7, 2]))
    assert sorted(set(alone.positions.tolist())) == [0, 1]
    assert alone.divisors[alone.token_ids >= 0].tolist() == [len(titles[7])] * len(titles[7]) + [len(titles[2])] * len(
        titles[2]
    )
    nothing = processor.fold_items(np.empty(0, dtype=np.int64))
    assert [len(array) for array in nothing] == [0, 0, 0, 0]


@settings(max_examples=scaled(30))
@given(
    history=st.lists(st.integers(0, len(ITEM_IDS) - 1), min_size=1, max_size=8),
    layout=st.sampled_from([ItemPatchLayout(0), ItemPatchLayout(2), SessionPatchLayout(2), RandomPatchLayout(0.5)]),
    num_residuals=st.integers(1, 12),
)
def test_residuals_are_all_that_they_add_to_a_prompt(processor, history, layout, num_residuals):
    plain, with_residuals = (
        PatchRecProcessor(
            processor.tokenizer, processor.catalog, processor.prompt, layout, 8, item_residuals=number
        ).encode(np.array(history))
        for number in (0, num_residuals)
    )
    assert with_residuals.input_ids.tolist() == plain.input_ids.tolist()
    assert with_residuals.counts == plain.counts
    is_title = with_residuals.patch_token_ids >= 0
    for name in ("patch_token_ids", "patch_positions", "patch_divisors", "patch_title_starts"):
        assert getattr(with_residuals, name)[is_title].tolist() == getattr(plain, name).tolist()
    assert (np.diff(with_residuals.patch_positions) >= 0).all()
    # Each compressed item that has a residual holds it where its patch ends.
    folded = dict.fromkeys(plain.patch_positions.tolist())
    pairs = [(-1 - item, end) for item, end in zip(history, plain.item_ends.tolist(), strict=True) if end in folded]
    expected = [pair for pair in pairs if -1 - pair[0] < num_residuals]
    found = zip(with_residuals.patch_token_ids[~is_title], with_residuals.patch_positions[~is_title], strict=True)
    assert [(int(token), int(position)) for token, position in found] == expected


def test_item_ends_by_hand(processor):
    """The last token of a title, or the patch; items of a session share it, and dropped items have none."""
    history, lengths = np.array([0, 2, 6, 3, 7]), processor.title_tokens.lengths
    first = len(processor.prompt.prefix_ids) + 1
    session = processor.encode(history, layout=SessionPatchLayout(2))
    assert session.items.tolist() == history.tolist()
    ends = [first, first + 2, first + 4, first + 6 + lengths[3] - 1, first + 6 + lengths[3] + lengths[7]]
    assert session.item_ends.tolist() == ends
    assert session.history_end == ends[-1]
    pair = processor.encode(np.array([0, 2, 6, 3, 7, 1]), layout=SessionPatchLayout(2))
    assert pair.item_ends[:3].tolist() == [first, first, first + 2]
    dropped = processor.encode(history, layout=DropLayout(1.0))
    assert dropped.item_ends.tolist() == [-1, -1, -1, -1, first + lengths[7] - 1]
    unread = processor.encode(history, layout=lambda num_items, seed: [Segment("text", 0, 2)])
    assert unread.history_end == -1
    assert processor.encode(np.array([4, *history]), max_history=5).items.tolist() == history.tolist()


def test_learned_items_keep_their_numbers_in_another_catalog(processor):
    learned = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, item_residuals=True)
    titles = dict(zip(processor.catalog.item_ids.tolist(), processor.catalog.titles, strict=True))
    mixed = {99: "Four Poems", **{item: titles[item] for item in reversed(titles)}, 5: "Emma and I", 10: "Emma, anew"}
    other = learned.with_catalog(Catalog.from_titles(mixed))
    assert other.catalog.item_ids.tolist() == [*ITEM_IDS, 99, 5]
    assert other.catalog.titles[0] == "Emma, anew"
    assert other.catalog.titles[12:] == ("Four Poems", "Emma and I")
    assert other.num_residuals == 12
    assert other.title_tokens[12].tolist() == tokenize_titles(["Four Poems"], processor.tokenizer)[0].tolist()
    assert (other.fold_items(np.array([12, 13])).token_ids >= 0).all()
    assert learned.catalog is processor.catalog
    # Once more: items that came later keep their numbers too.
    again = other.with_catalog(Catalog.from_titles({5: "Emma and I", **mixed, 7: "Silas Marner"}))
    assert again.catalog.item_ids.tolist() == [*ITEM_IDS, 99, 5, 7]
    # Without residuals, an item may leave. Those that stay come first, because a head may number them.
    free = processor.with_catalog(Catalog.from_titles({99: "Four Poems", 10: "Emma"}))
    assert free.catalog.item_ids.tolist() == [10, 99]


def test_only_new_titles_are_tokenized(processor, monkeypatch):
    tokenized = []
    tokenize = processing.tokenize_titles
    monkeypatch.setattr(
        processing, "tokenize_titles", lambda titles, *rest: tokenized.append(len(titles)) or tokenize(titles, *rest)
    )
    more = processor.with_catalog(processor.catalog.with_items({99: "Four Poems", 98: "Emma"}))
    assert tokenized == [2]
    again = more.with_catalog(processor.catalog)  # the new items leave
    fewer = processor.with_catalog(Catalog(processor.catalog.item_ids[3:], processor.catalog.titles[3:]))
    assert tokenized == [2, 12, 9]
    for other in (more, again, fewer):
        expected = tokenize(other.catalog.titles, processor.tokenizer)
        assert other.title_tokens.ids.tolist() == expected.ids.tolist()
        assert other.title_tokens.offsets.tolist() == expected.offsets.tolist()


def test_a_catalog_that_lacks_learned_items(processor):
    learned = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, item_residuals=True)
    left = Catalog.from_titles({10: "Emma", 21: "Ozma", 99: "Four Poems"})
    with pytest.raises(
        ValueError, match=r"catalog of 3 items lacks 10 of the 12 items .* learned: 11, 12, 13, 14, 15, …\."
    ):
        learned.with_catalog(left)
    restricted = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, item_residuals=1)
    assert restricted.with_catalog(left).catalog.item_ids.tolist() == [10, 21, 99]


@pytest.mark.parametrize("number", [-1, 13])
def test_residuals_of_more_items_than_there_are(processor, number):
    with pytest.raises(ValueError, match=rf"lie between 0 and the catalog's 12 items, got {number}"):
        PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, item_residuals=number)


@pytest.mark.parametrize("number", [0, 3, True])
def test_residuals_are_saved(processor, tmp_path, number):
    saved = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, item_residuals=number)
    saved.save_pretrained(tmp_path)
    assert PatchRecProcessor.from_pretrained(tmp_path).num_residuals == saved.num_residuals
    assert saved.with_layout(TextLayout()).num_residuals == saved.num_residuals


def test_a_class_is_no_layout(processor, model):
    message = "got the class `ItemPatchLayout`"
    for call in (
        lambda: processor.with_layout(ItemPatchLayout),
        lambda: processor([[10, 11]], layout=ItemPatchLayout),
        lambda: processor.encode(np.arange(3), layout=ItemPatchLayout),
        lambda: PatchRecommender(model, processor).recommend([10, 11], layout=ItemPatchLayout),
        lambda: PatchDataCollator(processor, ItemPatchLayout),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match="got None"):
        processor.with_layout(None)


@pytest.mark.parametrize("name", ["max_histroy", "seperate_patches"])
def test_misspelt_settings_do_not_go_to_the_tokenizer(processor, tmp_path, name):
    processor.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=f"unexpected keyword `{name}`; did you mean `(max_history|separate_patches)`"):
        PatchRecProcessor.from_pretrained(tmp_path, **{name: 5})
    with pytest.raises(TypeError, match=f"`from_backbone` got an unexpected keyword `{name}`"):
        PatchRecProcessor.from_backbone(tmp_path, processor.catalog, BOOK_PROMPT, **{name: 5})
    with pytest.raises(TypeError, match=r"takes no `patcher`, which belongs to the model: .* `model\.add_patcher`"):
        PatchRecProcessor.from_backbone(tmp_path, None, None, patcher="attention")
    with pytest.raises(TypeError, match="`from_pretrained` takes no `max_history`"):
        PatchRecProcessor.from_pretrained(tmp_path, max_history=5)
