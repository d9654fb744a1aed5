"""Distillation: how far a compressed history predicts from what the same history as text predicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .catalog_softmax import catalog_log_softmax
from .choice_loss import Choices, choice_cells


def twin_divergence(logits: torch.Tensor, is_teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """
    Computes the divergence of twins that predict the same labels, which is the Kullback-Leibler divergence of the
    student's distribution from the teacher's. It is multiplied by the square of the temperature, so that its gradients
    have the same size at any temperature (Hinton et al., 2015).

    Args:
        logits (`torch.Tensor` of shape `(n, V)`):
            Logits where n labels are predicted.
        is_teacher (`torch.BoolTensor` of shape `(n,)`):
            Whether a label is predicted by a teacher. The k-th label of the teachers is the k-th of the students.
        temperature (`float`, *optional*, defaults to `1.0`):
            By what logits are divided.

    Returns:
        `torch.Tensor` of shape `()`, float32: the sum over the students' labels, in nats. Teachers get no gradient.
    """
    log_probs = (logits.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * _divergence(log_probs, is_teacher)


def choice_twin_divergence(
    logits: torch.Tensor, choices: Choices, is_teacher: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """
    Computes the divergence of twins as [`twin_divergence`] does, where each label is predicted among the tokens of its
    choice.

    Args:
        logits (`torch.Tensor` of shape `(n, U)`):
            Logits of `choices.token_ids` where n labels are predicted.
        choices ([`Choices`]):
            The tokens that compete. A label has the same choice with the teacher and with the student.
        is_teacher, temperature:
            See [`twin_divergence`].

    Returns:
        `torch.Tensor` of shape `()`, float32.
    """
    rows, columns = choice_cells(choices)
    log_probs = catalog_log_softmax(logits, rows, columns, temperature)
    return temperature**2 * _divergence(log_probs, is_teacher[rows])


def _divergence(log_probs: torch.Tensor, is_teacher: torch.Tensor) -> torch.Tensor:
    teacher, student = log_probs[is_teacher].detach(), log_probs[~is_teacher]
    return F.kl_div(student, teacher, reduction="sum", log_target=True)
