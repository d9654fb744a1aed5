"""Title states: the titles among folded tokens, and views of a backbone's first layers."""

import pytest
import torch
from item_parts import plain_model
from torch import nn

from patchrec_hf.runtime.title_states import first_layers, folded_titles, title_differences


def test_folded_titles_by_hand():
    """Rows 0 and 1 are residuals. The second patch is a session of two titles, of two tokens and of one."""
    is_title = torch.tensor([False, False, True, True, True])
    rows = torch.tensor([2, 3, 0, 2, 3, 1, 4, 0, 0])
    divisors = torch.tensor([2, 2, 1, 4, 4, 2, 2, 0, 0])  # the last two are padding
    marks = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0, 0])
    titles = folded_titles(is_title, rows, torch.tensor([0, 3]), divisors, marks)
    assert titles.tokens.tolist() == [[2, 3], [4, -1]]
    assert titles.kinds.tolist() == [0, 0, 1]
    assert titles.patches.tolist() == [0, 1, 1]
    assert titles.sizes.tolist() == [1, 2, 2]
    alone = folded_titles(is_title, rows[:3], torch.tensor([0]), divisors[:3], None)
    assert (alone.tokens.tolist(), alone.sizes.tolist()) == ([[2, 3]], [1])


def test_no_titles():
    empty = torch.empty(0, dtype=torch.int64)
    titles = folded_titles(torch.tensor([True]), empty, empty, empty, empty)
    assert [len(part) for part in titles] == [0, 0, 0, 0]
    model = plain_model().model.language_model
    assert title_differences(model, 1, torch.zeros(3, 32), titles.tokens).shape == (0, 32)


def test_a_view_changes_nothing():
    model = plain_model().model.language_model
    view = first_layers(model, 1)
    assert (len(view.layers), len(model.layers)) == (1, 2)
    assert view.layers[0] is model.layers[0]
    assert view.norm is model.norm


@torch.no_grad()
def test_padding_changes_nothing():
    model = plain_model().model.language_model
    rows = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    both = title_differences(model, 1, rows, torch.tensor([[1, 2, 3, 4], [5, 0, -1, -1]]))
    alone = title_differences(model, 1, rows, torch.tensor([[5, 0]]))
    torch.testing.assert_close(both[1], alone[0], rtol=1e-4, atol=1e-5)


def test_a_backbone_whose_layers_are_not_its_own():
    model = plain_model().model.language_model
    model.layers = nn.Sequential(*model.layers)
    with pytest.raises(ValueError, match="has 2 layers, in 0 lists of its own"):
        first_layers(model, 1)
