import math

import pytest
import torch

from patchrec_hf.runtime.choice_loss import Choices, choice_loss


# Tokens 3, 5 and 9; the first choice is between 3 and 9, the second between 5 and 9, and the third is none.
CHOICES = Choices(
    of_labels=torch.tensor([1, 0, 0, 2]),
    starts=torch.tensor([0, 2, 4, 5]),
    columns=torch.tensor([0, 2, 1, 2, 1]),
    token_ids=torch.tensor([3, 5, 9]),
)
LABELS = torch.tensor([5, 9, 3, 5])
LOGITS = torch.tensor([[9.0, 1.0, 2.0], [0.0, 9.0, math.log(3)], [0.0, 9.0, math.log(3)], [7.0, -7.0, 7.0]])


def test_by_hand():
    scores = choice_loss(LOGITS, LABELS, CHOICES)
    first = math.log(1 + math.exp(1))  # token 5 against 9, whose logit is larger by 1
    assert scores.loss.item() == pytest.approx(first - math.log(3 / 4) - math.log(1 / 4))
    chance = math.exp(1) / (1 + math.exp(1))
    entropies = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (chance, 3 / 4, 3 / 4)]
    assert scores.entropy.item() == pytest.approx(sum(entropies), rel=1e-6)
    assert scores.num_correct.item() == 2  # 9 at the first choice, and 5, which nothing competes with


def test_the_temperature_divides_logits():
    hot = choice_loss(LOGITS, LABELS, CHOICES, temperature=2.0)
    assert hot.loss.item() == pytest.approx(choice_loss(LOGITS / 2, LABELS, CHOICES).loss.item())
    assert hot.loss.item() != pytest.approx(choice_loss(LOGITS, LABELS, CHOICES).loss.item(), abs=0.01)


def test_only_tokens_of_a_labels_choice_get_gradients():
    logits = LOGITS.clone().requires_grad_()
    choice_loss(logits, LABELS, CHOICES).loss.backward()
    chance = math.exp(1) / (1 + math.exp(1))
    expected = [[0, -chance, chance], [1 / 4, 0, -1 / 4], [-3 / 4, 0, 3 / 4], [0, 0, 0]]
    assert torch.allclose(logits.grad, torch.tensor(expected), atol=1e-6)


def test_logits_in_half_precision_are_summed_in_float32():
    logits = LOGITS.bfloat16()
    scores = choice_loss(logits, LABELS, CHOICES)
    assert scores.loss.dtype == torch.float32
    assert scores.loss.item() == choice_loss(logits.float(), LABELS, CHOICES).loss.item()


def test_without_labels_the_loss_is_0_and_has_a_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    none = torch.empty(0, dtype=torch.long)
    scores = choice_loss(logits, none, CHOICES._replace(of_labels=none))
    scores.loss.backward()
    assert [score.item() for score in scores] == [0, 0, 0]
    assert logits.grad.shape == (0, 3)
