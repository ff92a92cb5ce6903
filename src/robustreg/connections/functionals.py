"""What regularisers penalise, as functions of a trained network: one value a sample, whatever it was trained with.

They are the library's own terms, run in evaluation mode and float64, so that training with one and measuring it are the
same formula. Two more are not penalised by anybody: the input gradient and the curvature without the factor that comes
from the probabilities (claims I1b and I6), which tells what the network's slopes do from what its confidence does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustreg.attacks import PGD, Virtual
from robustreg.connections.case import Case
from robustreg.connections.quantities import spectral, wrong
from robustreg.penalties import (
    AnchoredCrossLipschitz,
    Consistency,
    CrossLipschitz,
    Curvature,
    Energy,
    FisherTrace,
    GradAlign,
    GradientNorm,
    JacobianNorm,
    LinearityGap,
    SatR1,
    SatR2,
    SatR3,
)
from robustreg.terms import LossAt, Term, Vulnerability, weighted
from robustreg.threat import Threat

STEPS = 10
FLOOR = 0.05


@dataclass(frozen=True)
class Functional:
    """A quantity that a regulariser lowers.

    Attributes:
        key: its short name.
        title: in words.
        latex: its value at a sample.
        measure: ``[B]``, or ``[1]`` where it is a quantity of the whole batch.
    """

    key: str
    title: str
    latex: str
    measure: Callable[[Case], Tensor]

    def values(self, case: Case) -> Tensor:
        """Values ``[B]`` in float64, without a graph."""
        found = self.measure(case).detach().double().reshape(-1)
        return found.expand(len(case.x)) if found.numel() == 1 else found


def l2_threat(case: Case) -> Threat:
    """The smallest l2 ball around the case's ball, without a box: what the terms that speak of l2 are given."""
    threat, size = case.threat, case.flat.shape[1]
    grown = size ** max(0.0, 0.5 - 1 / threat.norm)
    return Threat("l2", threat.eps * grown, bounds=None)


def attack(case: Case, loss: Any = "kl") -> PGD:
    """The attack of TRADES and its relatives."""
    return PGD(case.threat, STEPS, case.threat.eps / 4, loss=loss)


def _of(term: Callable[[Case], Term]) -> Callable[[Case], Tensor]:
    """A term's values; all terms look through one probe, and so at the same attacks and gradients."""

    def values(case: Case) -> Tensor:
        with torch.enable_grad():
            found: Tensor = term(case)(case.measured(Case.probe)).detach()
        return found

    return values


def _unit(norm: str) -> GradientNorm:
    return GradientNorm(Threat(norm, 1.0, bounds=None), mode="eval")


def _energy(case: Case, points: Any) -> Term:
    several = 1 if points == "worst" else 4
    return Energy(l2_threat(case), points, samples=several, find="eval", mode="eval")


def _rise(case: Case) -> Tensor:
    return _of(lambda c: LossAt(attack(c, "ce"), mode="eval"))(case) - case.loss


def spectral_curvature(case: Case) -> Tensor:
    """``lambda_max(J^T S J)``, from the singular values of a ``C x D`` matrix."""
    off = case.jacobian - torch.einsum("bk,bkd->bd", case.p, case.jacobian)[:, None]
    return spectral(case.p.sqrt()[:, :, None] * off).square()


def gradient_without_confidence(case: Case) -> Tensor:
    """``||g||_2 / (1 - p_y)``: the length of the mean of ``J_k - J_y`` under the probabilities of the other classes."""
    others = case.logits.scatter(1, case.y[:, None], -torch.inf).softmax(1)
    mean: Tensor = torch.einsum("bk,bkd->bd", others, case.jacobian)
    length: Tensor = (mean - case.of_label(case.jacobian)).norm(dim=1)
    return length


def curvature_without_confidence(case: Case) -> Tensor:
    """``tr(J^T S J) / (1 - ||p||^2)``: half the mean of ``||J_l - J_m||^2`` under the probabilities of the pairs."""
    log_p, jacobian = case.logits.log_softmax(1), case.jacobian
    first, second = torch.triu_indices(log_p.shape[1], log_p.shape[1], offset=1, device=log_p.device)
    pairs = (log_p[:, first] + log_p[:, second]).softmax(1)
    gram = torch.einsum("bkd,bld->bkl", jacobian, jacobian)
    size = torch.einsum("bkk->bk", gram)
    apart = size[:, first] + size[:, second] - 2 * gram[:, first, second]
    half: Tensor = 0.5 * (pairs * apart).sum(1)
    return half


FUNCTIONALS: tuple[Functional, ...] = (
    Functional("gradient_l1", "input gradient, l1", r"\|g\|_1", _of(lambda c: _unit("linf"))),
    Functional("gradient_l2", "input gradient, l2", r"\|g\|_2", _of(lambda c: _unit("l2"))),
    Functional(
        "gradient_l2_squared",
        "input gradient, squared",
        r"\|g\|_2^2",
        lambda c: _of(lambda _: _unit("l2"))(c).square(),
    ),
    Functional(
        "jacobian", "Jacobian, Frobenius", r"\tfrac12\|J\|_F^2", _of(lambda c: JacobianNorm(mode="eval"))
    ),
    Functional(
        "jacobian_spectral",
        "Jacobian, spectral",
        r"\|J\|_2",
        lambda c: spectral(c.jacobian),
    ),
    Functional(
        "cross_lipschitz",
        "cross-Lipschitz",
        r"\tfrac{1}{C^2}\sum_{l,m}\|J_l-J_m\|^2",
        _of(lambda c: CrossLipschitz(mode="eval")),
    ),
    Functional(
        "anchored",
        "label-anchored cross-Lipschitz",
        r"\tfrac{1}{C-1}\sum_{k\ne y}\|J_k-J_y\|^2",
        _of(lambda c: AnchoredCrossLipschitz(mode="eval")),
    ),
    Functional(
        "anchored_probability",
        "anchored, weighted by probability",
        r"\sum_{k\ne y} p_k\|J_k-J_y\|^2",
        _of(lambda c: AnchoredCrossLipschitz("probability", mode="eval")),
    ),
    Functional(
        "anchored_floored",
        "anchored, weights at least 0.05",
        r"\sum_{k\ne y} \max(p_k, 0.05)\|J_k-J_y\|^2",
        _of(lambda c: AnchoredCrossLipschitz("probability", FLOOR, mode="eval")),
    ),
    Functional(
        "fisher_trace",
        "curvature, trace (Fisher)",
        r"\mathrm{tr}\,J^\top S J",
        _of(lambda c: FisherTrace(samples=None, mode="eval")),
    ),
    Functional(
        "curvature_spectral", "curvature, spectral", r"\lambda_{\max}(J^\top S J)", spectral_curvature
    ),
    Functional(
        "cure",
        "curvature along the sign (CURE)",
        r"\|\nabla L(x+hv) - \nabla L(x)\|_2^2",
        _of(lambda c: Curvature(l2_threat(c).eps, mode="eval")),
    ),
    Functional(
        "energy_segment",
        "energy of the segment",
        r"\|r\|\int_0^1\|\nabla L(x+tr)\|\,dt",
        _of(lambda c: _energy(c, "segment")),
    ),
    Functional(
        "energy_ball",
        "energy of the ball",
        r"\epsilon\,\mathbb{E}_u\|\nabla L(x+u)\|",
        _of(lambda c: _energy(c, "ball")),
    ),
    Functional(
        "energy_worst",
        "energy of the steepest point",
        r"\epsilon\max_u\|\nabla L(x+u)\|",
        _of(lambda c: _energy(c, "worst")),
    ),
    Functional(
        "vat",
        "VAT's divergence",
        r"\mathrm{KL}(p(x)\,\|\,p(x+r_{\mathrm{vadv}}))",
        _of(lambda c: Consistency(Virtual(l2_threat(c), mode="eval"), mode="eval")),
    ),
    Functional(
        "trades",
        "TRADES's divergence",
        r"\mathrm{KL}(p(x)\,\|\,p(x'))",
        _of(lambda c: Consistency(attack(c), mode="eval")),
    ),
    Functional(
        "arow",
        "ARoW's divergence",
        r"(1-p_y(x'))\,\mathrm{KL}(p(x)\,\|\,p(x'))",
        _of(
            lambda c: weighted(Consistency(attack(c), mode="eval"), by=Vulnerability(attack(c), mode="eval"))
        ),
    ),
    Functional(
        "alp",
        "squared distance of the logits",
        r"\|z(x)-z(x')\|_2^2",
        _of(lambda c: Consistency(attack(c), "squared_logits", mode="eval")),
    ),
    Functional(
        "llr",
        "linearity gap (LLR)",
        r"|L(x+d)-L(x)-d\cdot g|",
        _of(lambda c: LinearityGap(c.threat, mode="eval")),
    ),
    Functional(
        "sat_r1",
        "SAT-R1: single-step against multi-step",
        r"\|z(x_{\mathrm{FGSM}})-z(x_{\mathrm{IFGSM}})\|^2",
        _of(lambda c: SatR1(c.threat, samples=None, mode="eval")),
    ),
    Functional(
        "sat_r2",
        "SAT-R2: with and without a noisy start",
        r"\|z(x_{\mathrm{FGSM}})-z(x_{\mathrm{RFGSM}})\|^2",
        _of(lambda c: SatR2(c.threat, mode="eval")),
    ),
    Functional(
        "sat_r3",
        "SAT-R3: small step against large",
        r"[\ell_{\mathrm{low}}-0.4\,\ell_{\mathrm{high}}]_+",
        _of(lambda c: SatR3(c.threat, mode="eval")),
    ),
    Functional(
        "grad_align",
        "turn of the gradient (GradAlign)",
        r"1-\cos(\nabla L(x),\nabla L(x+u))",
        _of(lambda c: GradAlign(c.threat, mode="eval")),
    ),
    Functional("pgd", "rise of the loss under PGD", r"L(x')-L(x)", _rise),
    Functional("confidence", "the label's missing probability", r"1-p_y", wrong),
    Functional(
        "gradient_free",
        "input gradient without its factor",
        r"\|g\|_2\,/\,(1-p_y)",
        gradient_without_confidence,
    ),
    Functional(
        "curvature_free",
        "curvature without its factor",
        r"\mathrm{tr}(J^\top S J)\,/\,(1-\|p\|^2)",
        curvature_without_confidence,
    ),
)
