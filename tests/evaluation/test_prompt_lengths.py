"""Histories that a model cannot rank for are named before any is ranked."""

import numpy as np
import pytest
from conftest import ITEM_IDS, TITLES
from datasets import Dataset

from patchrec_hf import BOOK_PROMPT, Catalog, ItemPatchLayout, PatchRecForCausalLM, PatchRecProcessor, evaluate_model
from patchrec_hf.evaluation.prompt_lengths import check_prompt_lengths, encode_prompt, prompt_problem
from patchrec_hf.tiny import build_tiny_backbone


def test_the_prompt_and_the_longest_title_must_fit(processor, rows):
    depth = processor.trie.max_depth
    longest = max(
        encode_prompt(processor, processor.catalog.indices_of(row["item_ids"][:-1]), None, 0, None).prompt_length
        for row in rows
    )
    check_prompt_lengths(rows, processor, longest + depth, depth)
    check_prompt_lengths(rows, processor, None, depth)
    message = (
        rf"takes {longest} tokens, and {longest + depth} with the longest title of the catalog \(item 20, 'The Ho"
    )
    with pytest.raises(ValueError, match=message):
        check_prompt_lengths(rows, processor, longest + depth - 1, depth)
    with pytest.raises(
        ValueError, match=r"Lower the processor's `max_history` \(now 8\).*This is row \d+ of the data"
    ):
        check_prompt_lengths(rows, processor, longest + depth - 1, depth)


def test_items_need_no_room_for_titles(processor, rows):
    check_prompt_lengths(rows, processor, 130, None)
    prompt = processor.encode(np.arange(8))
    length = prompt.history_end + 1
    assert prompt_problem(prompt, processor, length, None) is None
    assert f"takes {length} tokens, but the model reads at most {length - 1}" in prompt_problem(
        prompt, processor, length - 1, None
    )


def test_an_evaluation_names_a_title_before_it_ranks(monkeypatch):
    catalog = Catalog.from_titles({**TITLES, 99: "A very long title " * 30})
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=32, vocab_size=400, max_position_embeddings=150)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, ItemPatchLayout(2), max_history=8)
    rows = Dataset.from_list([{"user_id": 0, "item_ids": ITEM_IDS[:7], "target_positions": [6]}])
    monkeypatch.setattr(PatchRecForCausalLM, "forward", lambda *_, **__: pytest.fail("the model has read something"))
    with pytest.raises(ValueError, match=r"item 99, 'A very long.*Shorten this title, or leave its item out"):
        evaluate_model(model, processor, rows, show_progress=False)
