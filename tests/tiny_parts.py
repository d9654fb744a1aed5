"""The smallest model, titles and prompts that can be ranked."""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from patchrec_hf import PatchRecConfig, PatchRecForCausalLM
from patchrec_hf.runtime.encoding import EncodedHistory, TokenCounts
from patchrec_hf.runtime.title_tokens import TitleTokens


def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=1.0, max_position_embeddings=32,
    )  # fmt: skip
    return PatchRecForCausalLM(PatchRecConfig(text_config=config, patch_token_id=11), LlamaForCausalLM(config)).eval()


def title_tokens(titles):
    return TitleTokens(np.concatenate(titles), np.concatenate([[0], np.cumsum([len(title) for title in titles])]))


def plain_prompt(ids):
    empty, counts = np.empty(0, dtype=np.int64), TokenCounts(0, 0, 0)
    return EncodedHistory(np.array(ids), len(ids), empty, empty, empty, empty, counts, counts)
