"""Small models of the neural baselines."""

import pytest
from datasets import Dataset
from transformers import BertConfig, BertModel, set_seed

from patchrec_hf.baselines import Caser, GRU4Rec, LinRec, Mamba4Rec, MoRec, SASRec


NAMES = ("GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec")
CLASSES = {"GRU4Rec": GRU4Rec, "Caser": Caser, "SASRec": SASRec, "LinRec": LinRec, "Mamba4Rec": Mamba4Rec}


@pytest.fixture
def make_baseline(catalog, tokenizer):
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
