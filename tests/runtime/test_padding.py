"""Padding tokens: a token of texts is none."""

from dataclasses import replace

import pytest
from conftest import TITLES
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from patchrec_hf import BOOK_PROMPT, Catalog, PatchRecProcessor, add_special_tokens
from patchrec_hf.runtime import padding
from patchrec_hf.runtime.padding import is_padding_token, is_text_token, replace_text_padding
from patchrec_hf.runtime.title_tokens import tokenize_titles
from patchrec_hf.tiny import build_tiny_backbone


BANG = Catalog.from_titles({**TITLES, 30: "Airplane!", 31: "!"})


def tiny_tokenizer(**special):
    _, tokenizer = build_tiny_backbone(BANG, vocab_size=400, hidden_size=32)
    for name, token in special.items():
        setattr(tokenizer, name, token)
    return tokenizer


def word_tokenizer(words, **special):
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


@pytest.fixture
def warned(monkeypatch):
    """The warnings, each of which is said once only."""
    messages = []
    monkeypatch.setattr(padding.logger, "warning_once", messages.append)
    return messages


@pytest.mark.parametrize("word", ["!", "a", "Ġ", "Ċ", "0"])
def test_words_are_text(word):
    tokenizer = tiny_tokenizer()
    assert is_text_token(tokenizer, tokenizer.convert_tokens_to_ids(word))
    tokenizer.pad_token = word
    assert is_text_token(tokenizer, tokenizer.pad_token_id)


def test_tokens_in_brackets_are_markup():
    """A tokenizer of whole words would read them in a text."""
    words = ["<unk>", "[PAD]", "<pad>", "<|endoftext|>", "PAD"]
    tokenizer = word_tokenizer(words)
    assert tokenizer("PAD [PAD]", split_special_tokens=True)["input_ids"] == [4, 0, 1]
    assert [is_text_token(tokenizer, token_id) for token_id in range(5)] == [False, False, False, False, True]


@pytest.mark.parametrize("word", ["[…]", "[]", "[:]", "[...]", "<>", "<|>", "<3>>", "<-->"])
def test_words_of_brackets_are_text(warned, word):
    """Vocabularies of byte-level BPE hold such words. As an added token, each is markup."""
    words = ["<unk>", word, "<|im_end|>", "<pad>", "[PAD]", "<0x0A>"]
    tokenizer = word_tokenizer(words, pad_token=word, eos_token="<|im_end|>")
    core = word_tokenizer(words)
    assert [is_text_token(core, token_id) for token_id in range(6)] == [False, True, False, False, False, False]
    core.add_tokens([AddedToken(word, special=True)])
    assert not is_text_token(core, 1)
    assert tokenizer.pad_token == word


def test_only_tokens_of_the_vocabulary_pad():
    tokenizer = tiny_tokenizer()
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        assert is_padding_token(tokenizer, token_id)
    for token_id in (-1, 0, len(tokenizer)):
        assert not is_padding_token(tokenizer, token_id)


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ((), "<|end|>"),
        (("<|finetune_right_pad_id|>",), "<|finetune_right_pad_id|>"),
        (("<|image_pad|>",), "<|end|>"),  # stands for an image
    ],
)
def test_a_word_is_replaced_and_the_log_says_so(warned, added, expected):
    words = ["<unk>", "!", "<|end|>"]
    tokenizer = word_tokenizer(words, pad_token="!", eos_token="<|end|>")
    tokenizer.add_tokens([AddedToken(token, special=True) for token in added])
    replace_text_padding(tokenizer)
    replace_text_padding(tokenizer)
    assert tokenizer.pad_token == expected
    assert len(warned) == 1
    assert f"'!', which titles may hold too. It is replaced by {expected!r}" in warned[0]


@pytest.mark.parametrize("special", [{}, {"pad_token": "<unk>"}, {"pad_token": "<pad>"}, {"pad_token": "<|end|>"}])
def test_other_padding_tokens_stay(warned, special):
    tokenizer = word_tokenizer(["<unk>", "!", "<|end|>", "<pad>"], eos_token="<|end|>", unk_token="<unk>", **special)
    replace_text_padding(tokenizer)
    assert tokenizer.pad_token == special.get("pad_token")
    assert warned == []


@pytest.mark.parametrize("special", [{}, {"eos_token": "!"}])
def test_no_other_token_can_pad(special):
    tokenizer = word_tokenizer(["<unk>", "!"], pad_token="!", **special)
    with pytest.raises(ValueError, match=r"padding token is '!', which texts hold too.*Set `tokenizer.pad_token`"):
        replace_text_padding(tokenizer)


def test_a_tokenizer_without_a_padding_token():
    tokenizer = tiny_tokenizer(pad_token=None)
    add_special_tokens(tokenizer)
    assert tokenizer.pad_token == "<|end|>"
    assert len(PatchRecProcessor(tokenizer, BANG, BOOK_PROMPT).title_tokens) == len(BANG)


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_a_word_that_begins_or_ends_texts_stands_in_no_title(role):
    tokenizer = tiny_tokenizer(**{role: "!"})
    with pytest.raises(ValueError, match=r"'Airplane!' holds the special token '!'.*Use another special token in the"):
        tokenize_titles(BANG.titles, tokenizer)


def test_unknown_words_may_be_a_word():
    assert len(tokenize_titles(BANG.titles, tiny_tokenizer(unk_token="!"))) == len(BANG)


@pytest.mark.parametrize("pad_id", [0, -1, 10_000])
def test_a_prompt_that_pads_with_a_word_or_an_unknown_id(pad_id):
    tokenizer = tiny_tokenizer()
    prompt = PatchRecProcessor(tokenizer, BANG, BOOK_PROMPT).prompt
    mended = PatchRecProcessor(tokenizer, BANG, replace(prompt, pad_id=pad_id)).prompt
    assert mended == prompt


def test_the_warning_is_said_once(caplog):
    logging.enable_propagation()
    padding.logger.warning_once.cache_clear()
    for _ in range(3):
        PatchRecProcessor(tiny_tokenizer(pad_token="!"), BANG, BOOK_PROMPT)
    logging.disable_propagation()
    assert caplog.text.count("padding token is '!'") == 1
