"""Encoded examples as padded tensors."""

import numpy as np
import pytest
import torch
from trees import plain

from patchrec_hf.runtime.encoding import pad_histories


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_padding(processor, padding_side):
    examples = [processor.encode(np.array(history), target) for history, target in (([0, 1, 2, 3, 4], 5), ([6, 7], 8))]
    batch = pad_histories(examples, processor.prompt.pad_id, padding_side)
    assert next(iter(batch)) == "input_ids"
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        shift = batch["input_ids"].shape[1] - length if padding_side == "left" else 0
        inside = slice(shift, shift + length)
        assert batch["input_ids"][row, inside].tolist() == example.input_ids.tolist()
        assert batch["attention_mask"][row].sum() == length == batch["attention_mask"][row, inside].sum()
        supervised = batch["labels"][row] != -100
        assert batch["labels"][row, supervised].tolist() == example.input_ids[example.prompt_length :].tolist()
        kept = batch["shift_labels"][row] != -100
        positions = batch["supervised_positions"][row, kept]
        assert torch.equal(batch["labels"][row, positions + 1], batch["shift_labels"][row, kept])
        folded = batch["patch_divisors"][row] > 0
        assert folded.sum() == len(example.patch_token_ids)
        places = batch["patch_positions"][row, folded]
        assert (batch["input_ids"][row, places] == processor.prompt.patch_id).all()


def test_padding_by_hand():
    """99 fills up the tokens. Two title tokens are folded into the patch that the second example begins with."""
    examples = [plain([5, 6, 9, 1, 2], 3), plain([8, 9, 7], 2, [(0, [3, 4], 2)])]
    assert {name: tensor.tolist() for name, tensor in pad_histories(examples, 99).items()} == {
        "input_ids": [[5, 6, 9, 1, 2], [8, 9, 7, 99, 99]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
        "labels": [[-100, -100, -100, 1, 2], [-100, -100, 7, -100, -100]],
        "patch_token_ids": [[99, 99], [3, 4]],
        "patch_positions": [[0, 0], [0, 0]],
        "patch_divisors": [[0, 0], [2, 2]],
        "patch_title_starts": [[0, 0], [1, 0]],
        "supervised_positions": [[2, 3], [1, 0]],
        "shift_labels": [[1, 2], [7, -100]],
    }
    left = pad_histories(examples, 99, "left")
    assert left["input_ids"].tolist() == [[5, 6, 9, 1, 2], [99, 99, 8, 9, 7]]
    assert left["labels"].tolist() == [[-100, -100, -100, 1, 2], [-100, -100, -100, -100, 7]]
    assert left["patch_positions"].tolist() == [[0, 0], [2, 2]]
    assert left["supervised_positions"].tolist() == [[2, 3], [3, 0]]


def test_nothing_to_pad():
    with pytest.raises(ValueError, match="nothing to pad"):
        pad_histories([], 0)
