"""Titles as token arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from patchrec_hf.runtime import progress, title_tokens
from patchrec_hf.runtime.progress import progress_bar
from patchrec_hf.runtime.prompts import SPECIAL_TOKENS
from patchrec_hf.runtime.title_tokens import TitleTokens, ragged_arange, sorted_distinct, tokenize_titles


TITLES = ("Emma", "Persuasion", "Emma", "Sense & Sensibility", "Ωμέγα 書", " padded ")


@pytest.fixture
def tokenizer():
    """Reads bytes: any text becomes one token a byte, so that every length can be counted by hand."""
    core = Tokenizer(models.BPE({char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )


def word_tokenizer(words):
    """Reads whole words; drops control and zero-width characters, as BERT does."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, **{word: i + 1 for i, word in enumerate(words)}}, "[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=False)
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="</s>")


def titles_of(*token_lists):
    lengths = [len(tokens) for tokens in token_lists]
    return TitleTokens(
        np.array([token for tokens in token_lists for token in tokens], dtype=np.int64), np.cumsum([0, *lengths])
    )


def test_ragged_arange():
    assert ragged_arange(np.array([2, 0, 3, 1])).tolist() == [0, 1, 0, 1, 2, 0]
    assert ragged_arange(np.array([], dtype=np.int64)).tolist() == []


@given(st.lists(st.integers(0, 9), max_size=20))
def test_sorted_distinct(numbers):
    assert sorted_distinct(np.array(numbers, dtype=np.int64)).tolist() == sorted(set(numbers))


def test_tokenize_titles_counts_bytes(tokenizer):
    tokens = tokenize_titles(["Emma", "é", "a b"], tokenizer)
    assert tokens.offsets.tolist() == [0, 4, 6, 9]
    assert tokens.lengths.tolist() == [4, 2, 3]
    assert len(tokens) == 3
    assert tokens.ids.dtype == tokens.offsets.dtype == np.int64


def test_tokenize_titles_equals_one_by_one(tokenizer):
    tokens = tokenize_titles(TITLES, tokenizer)
    alone = [tokenizer(title, add_special_tokens=False)["input_ids"] for title in TITLES]
    assert [tokens[index].tolist() for index in range(len(tokens))] == alone
    assert [tokenizer.decode(tokens[index]) for index in range(len(tokens))] == list(TITLES)
    wanted = np.array([4, 0, 0, 5])
    assert tokens.gather(wanted).tolist() == [token for index in wanted for token in alone[index]]
    assert tokens.gather(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("titles_at_once", [1, 2, 5])
def test_chunks_of_titles_change_nothing(tokenizer, monkeypatch, titles_at_once):
    expected = tokenize_titles(TITLES, tokenizer)
    monkeypatch.setattr(title_tokens, "_TITLES_AT_ONCE", titles_at_once)
    tokens = tokenize_titles(TITLES, tokenizer)
    assert tokens.ids.tolist() == expected.ids.tolist()
    assert tokens.offsets.tolist() == expected.offsets.tolist()
    tokenizer.add_tokens(["<think>"])
    for bad, message in ((" ", "' ' is blank"), ("I <think>", "'I <think>' holds the special token '<think>'")):
        with pytest.raises(ValueError, match=message):
            tokenize_titles([*TITLES, bad, "Emma"], tokenizer)


def test_many_titles_show_a_bar_and_few_do_not(tokenizer, monkeypatch):
    settings = []

    def bar(show_progress, **arguments):
        settings.append((show_progress, arguments["total"]))
        return progress_bar(False)

    monkeypatch.setattr(progress, "progress_bar", bar)
    monkeypatch.setattr(progress.logging, "is_progress_bar_enabled", lambda: True)  # another test may disable them
    monkeypatch.setattr(title_tokens, "_TITLES_AT_ONCE", 4)
    tokenize_titles(TITLES[:4], tokenizer)
    tokenize_titles(TITLES, tokenizer)
    monkeypatch.setenv("LOCAL_RANK", "1")  # another process shows it
    tokenize_titles(TITLES, tokenizer)
    assert settings == [(False, 4), (True, 6), (False, 6)]


class LoweringTokenizer(PreTrainedTokenizerFast):
    """Changes texts before its backend reads them, as tokenizers with code of their own do."""

    def _encode_plus(self, text, *args, **kwargs):
        return super()._encode_plus([one.lower() for one in text], *args, **kwargs)


def test_tokenizers_with_code_of_their_own_read_the_titles_themselves(tokenizer):
    lowering = LoweringTokenizer(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    tokens = tokenize_titles(["Emma", "Persuasion"], lowering)
    assert tokens.ids.tolist() == tokenize_titles(["emma", "persuasion"], tokenizer).ids.tolist()


def test_titles_are_neither_padded_nor_cut(tokenizer):
    """Also if a call before has set the tokenizer to do so, and to keep special tokens whole."""
    tokenizer.pad_token = "<s>"
    tokenizer(["Emma", "Persuasion"], padding=True, truncation=True, max_length=3)
    assert tokenize_titles(["Emma", "Persuasion", "<|end|>"], tokenizer).lengths.tolist() == [4, 10, 7]


def test_tokenize_titles_of_nothing(tokenizer):
    tokens = tokenize_titles([], tokenizer)
    assert len(tokens) == 0
    assert tokens.ids.tolist() == []


def test_selected_and_ended_titles():
    titles = titles_of([5, 6], [7], [8, 9, 1]).select(np.array([2, 0]))
    assert [titles[index].tolist() for index in range(2)] == [[8, 9, 1], [5, 6]]
    ended = titles.ended(3)
    assert [ended[index].tolist() for index in range(2)] == [[8, 9, 1, 3], [5, 6, 3]]


def test_tokenize_titles_adds_no_bos():
    """Also where the tokenizer would open and close every text."""
    tokenizer = word_tokenizer(["Emma"])
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)],
    )
    assert len(tokenizer("Emma")["input_ids"]) == 3
    assert tokenize_titles(["Emma"], tokenizer).ids.tolist() == [1]


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, "<|end|>", "<s>"])
def test_special_token_text_in_a_title_never_becomes_the_token(tokenizer, token):
    special = tokenizer.convert_tokens_to_ids(token)
    title = f"Life {token} Death"
    assert special in tokenizer(title)["input_ids"]
    tokens = tokenize_titles(["Emma", title], tokenizer)
    assert special not in tokens.ids
    assert tokenizer.decode(tokens[1]) == title
    # The tokenizer itself still reads prompts.
    assert tokenizer(token, add_special_tokens=False)["input_ids"] == [special]


def test_special_token_that_is_also_a_word_is_refused():
    tokenizer = word_tokenizer(["Life", "</s>", "Death"])
    with pytest.raises(ValueError, match=r"The title 'Life </s> Death' holds the special token '</s>'"):
        tokenize_titles(["Life", "Life </s> Death", "Death"], tokenizer)


@pytest.mark.parametrize("title", ["I <think> therefore", "<think>", "<think> twice", "I am <think>"])
def test_added_token_in_a_title_is_refused(tokenizer, title):
    tokenizer.add_tokens(["<think>"])
    assert tokenizer.convert_tokens_to_ids("<think>") not in tokenizer.all_special_ids
    with pytest.raises(ValueError, match=f"The title '{title}' holds the special token '<think>'"):
        tokenize_titles(["Emma", title, "Persuasion"], tokenizer)
    assert len(tokenize_titles(["Emma", "I < think > therefore"], tokenizer)) == 2


def test_title_of_no_tokens_is_refused():
    tokenizer = word_tokenizer(["Emma"])
    title = "\u200b"
    assert title.strip()
    assert tokenizer(title, add_special_tokens=False)["input_ids"] == []
    with pytest.raises(ValueError, match="tokenizes to nothing") as error:
        tokenize_titles(["Emma", title, "Emma"], tokenizer)
    assert repr(title) in str(error.value)


def test_unknown_words_are_text():
    tokens = tokenize_titles(["Emma", "Emma Persuasion"], word_tokenizer(["Emma"]))
    assert tokens[1].tolist() == [1, 0]


def test_runs_of_spaces_are_text(tokenizer):
    import copy

    spaced = copy.deepcopy(tokenizer)
    spaced.add_tokens(["  "])
    assert len(tokenize_titles(["The  Hobbit"], spaced)) == 1


def test_unknown_text_must_not_end_the_turn():
    """Where one token is both unknown and end of text, a title that the vocabulary lacks is refused."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"</s>": 0, "Emma": 1}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="</s>")
    with pytest.raises(ValueError, match="書"):
        tokenize_titles(["Emma", "書"], tokenizer)
