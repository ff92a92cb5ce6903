"""Consistency: the prediction should be the same at the sample and at an adversarial point beside it.

Every method of this kind is **weight x discrepancy x adversary**: TRADES is ``Consistency(PGD(threat, loss="kl"))``,
ALP has squared logits, GAT squared probabilities, NuAT the nuclear norm; MART, ARoW and CoW weight the samples,
``weighted(Consistency(adversary), by=Vulnerability(adversary))``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg.attacks.stack import stacked_logits
from robustreg.discrepancies import Discrepancy, between, check_discrepancy
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term


@dataclass(frozen=True)
class Consistency(Term):
    """How far the prediction at an adversarial point is from the one at the sample.

    The adversarial point is a constant. Gradient flows through both predictions, as in TRADES: with a target that is
    held constant the clean prediction is not moved towards the adversarial one, and robustness suffers.

    Args:
        adversary: the point whose prediction is to agree with the reference's.
        discrepancy: ``"kl"``, ``"reverse_kl"``, ``"js"``, ``"squared_logits"``, ``"mean_squared_logits"``,
            ``"squared_probabilities"``, ``"soft_cross_entropy"``, ``"logit_variance"``, ``"nuclear"``, or any function
            of the two batches of logits (see ``robustreg.discrepancies``).
        reference: the point whose prediction is to be kept.
        detach_reference: hold the reference's prediction constant (VAT, UAT).
        mode: the mode in which the network is run at both points.
        reference_mode: the mode at the reference, where it differs.
        joint: both points in one forward of ``2 B`` rows, the reference's first: with BatchNorm in training mode the
            statistics are those of both. A ``JointLoss`` at the same ``Stack`` shares it.
    """

    adversary: Point | None = None
    discrepancy: Discrepancy = "kl"
    reference: Point = CLEAN
    detach_reference: bool = False
    mode: Mode = "train"
    reference_mode: Mode | None = None
    joint: bool = False

    def __post_init__(self) -> None:
        check_discrepancy(self.discrepancy)
        check_mode(self.mode)
        if self.reference_mode is not None:
            check_mode(self.reference_mode)
            if self.joint:
                raise ValueError(
                    "a joint forward has one mode: joint=True and reference_mode exclude each other"
                )

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``; a scalar for the discrepancy ``"nuclear"``, which is a quantity of the whole batch."""
        if self.adversary is None:
            raise ValueError(f"the term {self.name} needs an adversary: pass a point such as PGD(threat)")
        if self.joint:
            reference, other = stacked_logits(probe, (self.reference, self.adversary), self.mode)
        else:
            reference = probe.logits(self.reference, self.reference_mode or self.mode)
            other = probe.logits(self.adversary, self.mode)
        return between(self.discrepancy)(reference.detach() if self.detach_reference else reference, other)


@dataclass(frozen=True)
class Confidence(Term):
    """``p_y(x')`` per sample: how much the network believes the label at a point (CoW's weight, at the sample)."""

    at: Point = CLEAN
    mode: Mode = "train"

    needs = frozenset({"labels"})

    def __post_init__(self) -> None:
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [0, 1]; 0 for samples without a label."""
        believed = torch.exp(-probe.loss(self.at, "ce", self.mode))
        return torch.where(probe.labels() >= 0, believed, 0.0)
