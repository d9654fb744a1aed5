"""The sizes that an estimate of memory is made of, computed by hand."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from patchrec_hf.training.memory_sizes import BatchShape, ModelSize, WeightMemory


def parameter(*shape, dtype=torch.float32, trained=True):
    return torch.nn.Parameter(torch.zeros(*shape, dtype=dtype), requires_grad=trained)


def test_sizes_are_read_from_the_configuration():
    llama = LlamaConfig(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=5, head_dim=8)
    size = ModelSize.from_config(llama)
    assert (size.query, size.key, size.layers, size.intermediate) == (32, 16, 5, llama.intermediate_size)
    gpt2 = ModelSize.from_config(GPT2Config(n_embd=24, n_head=4, n_layer=2, vocab_size=99))
    assert (gpt2.query, gpt2.key, gpt2.intermediate, gpt2.layers, gpt2.vocabulary) == (24, 24, 96, 2, 99)


def test_adamw_keeps_two_numbers_for_each_trained_weight():
    parameters = [parameter(10), parameter(5, trained=False), parameter(4, dtype=torch.bfloat16)]
    assert WeightMemory.of(parameters) == WeightMemory(68, 48, 96)
    assert WeightMemory.of(parameters, uses_autocast=True).half_copies == 30


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adamw_torch_fused", 80),
        ("paged_adamw_32bit", 80),
        ("adamw_bnb_8bit", 20),
        ("adamw_torch_4bit", 10),
        ("adafactor", 0),
        ("sgd", 0),
        ("paged_lion_8bit", 10),
        ("lion_32bit", 40),
        ("stable_adamw", 80),
    ],
)
def test_other_optimizers_keep_other_numbers(optimizer, expected):
    assert WeightMemory.of([parameter(10)], optimizer).optimizer == expected


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, (400, 400, 800)), (1, (400, 400, 200)), (2, (400, 100, 200)), (3, (100, 100, 200))],
)
def test_processes_share_what_is_sharded(stage, expected):
    shared = WeightMemory.of([parameter(100)], num_processes=4, sharding=stage)
    assert (shared.weights, shared.gradients, shared.optimizer) == expected


def test_the_shape_of_a_padded_batch():
    batch = {
        "input_ids": torch.zeros(2, 5),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "shift_labels": torch.tensor([[3, 4], [5, -100]]),
    }
    assert BatchShape.from_batch(batch) == BatchShape(2, 5, labels=3, is_padded=True)
    batch["choice_token_ids"] = torch.zeros(1, 7)
    assert BatchShape.from_batch(batch).choice_tokens == 7
    batch["attention_mask"][:] = 1
    assert not BatchShape.from_batch(batch).is_padded


def test_the_shape_of_a_packed_batch():
    batch = {
        "input_ids": torch.zeros(1, 6),
        "shift_labels": torch.zeros(1, 0),
        "chunk_ancestors": torch.zeros(3, 4),
        "item_targets": torch.tensor([[7, -100]]),
        "candidate_items": torch.zeros(1, 9),
    }
    expected = BatchShape(1, 6, item_targets=1, candidates=9, chunks=3, ancestors=4)
    assert BatchShape.from_batch(batch) == expected
    assert expected.positions == 6
