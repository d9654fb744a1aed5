"""Small things that most tests need: a catalog, a tokenizer, a processor and a tiny model."""

import atexit
import copy
import gc
import os
import shutil
import tempfile

from processes import TEST_TIMEOUT


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # where the tests' own servers are
os.environ["PYTEST_TIMEOUT"] = str(TEST_TIMEOUT)
os.environ["PATCHREC_HF_CACHE"] = tempfile.mkdtemp(prefix="patchrec_hf_tests_")

import datasets
import pytest
import torch
from datasets import Dataset
from tiers import load_profile
from transformers.utils import logging

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecForCausalLM,
    PatchRecProcessor,
)
from patchrec_hf.runtime.attention import register_chunk_attention
from patchrec_hf.runtime.trie import build_trie
from patchrec_hf.tiny import build_tiny_backbone


pytest_plugins = ["cpu_times", "families", "sixty_users", "small_baselines", "trainer_parts"]


atexit.register(shutil.rmtree, os.environ["PATCHREC_HF_CACHE"], ignore_errors=True)
datasets.disable_progress_bars()
# Tiny models gain nothing from a second thread, and lose much where other processes are at work.
torch.set_num_threads(1)

TITLES = {
    10: "Emma",
    11: "Persuasion",
    12: "Typhoon",
    13: "Typhoon and Other Stories",
    14: "Poems",
    15: "Poems",
    16: "The Time Machine",
    17: "The Time Traders",
    18: "A Study in Scarlet",
    19: "The Sign of the Four (Sherlock Holmes, #2)",
    20: "The Hound of the Baskervilles (Sherlock Holmes, #3)",
    21: "Ozma of Oz (Oz, #3)",
}
ITEM_IDS = list(TITLES)


def pytest_configure(config):
    load_profile(is_fast="not slow" in config.option.markexpr)


def pytest_collection_finish():
    """accelerate collects garbage after each training, which takes long if it looks at all that imports have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def kept_verbosity():
    """Scripts that a test calls set the verbosity for their own process, and Trainer's bars follow it."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="session")
def catalog():
    return Catalog.from_titles(TITLES)


@pytest.fixture(scope="session")
def tokenizer(catalog):
    return build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)[1]


@pytest.fixture(scope="session")
def processor(catalog, tokenizer):
    return PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, layout=ItemPatchLayout(2), max_history=8)


@pytest.fixture(scope="session")
def unchanged_model(catalog, tokenizer):
    """The tiny model, which no test may change: copying it takes a fraction of the time that making it takes."""
    backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    return PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()


@pytest.fixture
def model(unchanged_model):
    return copy.deepcopy(unchanged_model)


@pytest.fixture(scope="session")
def rows():
    """Fourteen example rows with one target each; the histories have 3 to 9 items."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for user in range(14):
        length = 4 + user % 7
        order = torch.randperm(len(ITEM_IDS), generator=generator)[:length].tolist()
        rows.append({"user_id": user, "item_ids": [ITEM_IDS[i] for i in order], "target_positions": [length - 1]})
    return Dataset.from_list(rows)


@pytest.fixture
def prompts(processor, rows):
    return PatchDataCollator(processor).encode_rows(list(rows)[:5])


@pytest.fixture
def trie(processor):
    return build_trie(processor.title_tokens, processor.prompt.end_of_turn_id)


@pytest.fixture
def with_attention(model):
    def switch(implementation):
        register_chunk_attention()
        model.set_attn_implementation(implementation)
        return model

    return switch
