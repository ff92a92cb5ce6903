"""Adversarial examples at which the loss is lower than where the attack began: the regulariser of AAER.

R. Lin, C. Yu and T. Liu, "Eliminating Catastrophic Overfitting Via Abnormal Adversarial Examples Regularization",
NeurIPS 2023, arXiv 2404.08154. **What is known:** the abstract and the authors' code, which this term follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg.discrepancies import squared_logits
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.penalties.alignment import start_of
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.terms import Term


@dataclass(frozen=True)
class AbnormalExamples(Term):
    """How much lower the loss is at abnormal adversarial examples, and how much more their logits vary.

    A sample is abnormal if ``L(start) > L(end)``, the loss fell from the start of an attack's step to its end. With
    ``n_A`` abnormal and ``n_N`` normal samples of ``B`` the term's mean is

    ``n_A/B [by_loss mean_A (L(start) - L(end)) + by_variation max(V_A - sg(V_N), 0)]``,

    ``V_S = mean_S ||sg(z(start)) - z(end)||_2^2``, and 0 if all samples or none are abnormal. The values are per
    sample, 0 for the normal ones, and depend on the rest of the batch through ``V_N`` and through whether ``V_A``
    exceeds it. The number of abnormal samples is a constant.

    Args:
        adversary: the attack; its step is found where its ``start`` is, and shares the forward there.
        by_loss: weight of the loss's fall, the authors' ``lambda_2``.
        by_variation: weight of the logits' variation, their ``lambda_3``.
        through_loss: let gradient flow through the losses, as the paper's formula reads. In the authors' code both are
            constants, and the first part changes nothing but the value.
        start: of the step; by default the first point that the attack is built from.
        loss: ``L``.
        mode: the mode in which the network is run at both points.
    """

    adversary: Point | None = None
    by_loss: float = 1.5
    by_variation: float = 0.15
    through_loss: bool = False
    start: Point | None = None
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)

    @property
    def needs(self) -> frozenset[str]:
        """Labels, and an adversary where there is none."""
        return super().needs | {"labels"}

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``; 0 for normal samples and for those without a label."""
        if self.adversary is None:
            raise ValueError(f"the term {self.name} needs an adversary: pass a point such as RS_FGSM(threat)")
        first = start_of(self.adversary) if self.start is None else self.start
        end, start = probe.logits(self.adversary, self.mode), probe.logits(first, self.mode)
        function = probe.loss_function(self.loss, self.mode)
        if self.through_loss:
            fall = function(start, None) - function(end, None)
        else:
            fall = (function(start.detach(), None) - function(end.detach(), None)).detach()
        variation = squared_logits(start.detach(), end)
        labelled = probe.labels() >= 0
        abnormal, normal = labelled & (fall.detach() > 0), labelled & (fall.detach() <= 0)
        usual = _mean(variation.detach(), normal)
        excess = torch.where(_mean(variation.detach(), abnormal) > usual, variation - usual, 0.0)
        values = self.by_loss * fall + self.by_variation * excess
        return torch.where(abnormal & normal.any(), values, 0.0)


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """The mean over some of the samples; 0 where there are none."""
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)
