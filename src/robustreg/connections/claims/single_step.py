"""The three regularisers for single-step adversarial training, on networks where they can be computed by hand.

B. S. Vivek, R. V. Babu, "Regularizers for Single-step Adversarial Training", 2020 (arXiv 2002.00614). The statements
are ours: what the terms are where the network is affine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.quantities import squared
from robustreg.connections.regions import BINARY, affine_between
from robustreg.penalties import SatR1, SatR2, SatR3
from robustreg.points import Point
from robustreg.threat import Threat

SOURCE = "derived for the terms of Vivek & Babu 2020 (arXiv 2002.00614)"
TAU = 0.4


def cube(case: Case) -> Threat:
    """The linf ball of the case's radius, without a box."""
    return Threat("linf", case.radius, bounds=None)


def r1(case: Case) -> SatR1:
    """SAT-R1 of every sample."""
    return SatR1(cube(case), steps=5, samples=None, mode="eval")


def r2(case: Case) -> SatR2:
    """SAT-R2."""
    return SatR2(cube(case), mode="eval")


def r3(case: Case) -> SatR3:
    """SAT-R3 with the share of the full step's loss at which its hinge is on the edge."""
    return SatR3(cube(case), tau=1.0, alpha=0.0, mode="eval")


def _points(case: Case, points: tuple[Point, ...]) -> list[Tensor]:
    probe = case.probe()
    return [probe.at(point) for point in points]


def _affine_among(case: Case, points: tuple[Point, ...]) -> Tensor:
    ends = _points(case, points)
    there = torch.stack([affine_between(case, case.x, end) for end in ends]).all(0)
    return there & affine_between(case, ends[0], ends[-1])


def _same_sign(case: Case) -> Tensor:
    """The noise does not change the sign of the gradient: both steps are the same, and the points the noise apart."""
    single, noisy = _points(case, r2(case).stack(cube(case)).points)
    apart = (noisy - single).flatten(1).abs()
    alpha = r2(case).alpha * case.radius
    return ((apart - alpha).abs() <= 1e-9 * case.radius).all(1)


def _r2(case: Case) -> tuple[Tensor, Tensor]:
    single, noisy = _points(case, r2(case).stack(cube(case)).points)
    change = torch.einsum("bkd,bd->bk", case.jacobian_at(single), (noisy - single).flatten(1))
    return case.term(r2(case)), squared(change)


def _r2_mean(case: Case) -> tuple[Tensor, Tensor]:
    """Over the two signs of every pixel, by the identity that their products average out."""
    alpha = r2(case).alpha * case.radius
    eye = alpha * torch.eye(case.flat.shape[1], dtype=torch.float64, device=case.x.device)
    means = torch.einsum("bkd,de->bke", case.jacobian, eye).square().sum((1, 2))
    return means, alpha**2 * squared(case.jacobian)


def _r1(case: Case) -> tuple[Tensor, Tensor]:
    values = case.term(r1(case))
    return values, torch.zeros_like(values)


def _r3(case: Case) -> tuple[Tensor, Tensor]:
    value = case.term(r3(case))
    return value, torch.zeros_like(value)


def _r1_one_step(case: Case) -> tuple[Tensor, Tensor]:
    values = case.term(SatR1(cube(case), steps=1, samples=None, mode="eval"))
    return values, torch.zeros_like(values)


def _r2_without_noise(case: Case) -> tuple[Tensor, Tensor]:
    values = case.term(SatR2(cube(case), alpha=0.0, mode="eval"))
    return values, torch.zeros_like(values)


def _r3_one_point(case: Case) -> tuple[Tensor, Tensor]:
    """Both steps whole: the hinge leaves a share of the mean loss at their point."""
    term = SatR3(cube(case), tau=TAU, low=1.0, alpha=0.0, mode="eval")
    end = _points(case, term.stack(cube(case)).points)[1]
    return case.term(term), (1 - TAU) * case.loss_at(end).mean().reshape(1)


def _r3_by_hand(case: Case) -> tuple[Tensor, Tensor]:
    """The loss with the term beside it, from the mean losses at its two points."""
    term = SatR3(cube(case), tau=TAU, mode="eval")
    low, high = (case.loss_at(end).mean() for end in _points(case, term.stack(cube(case)).points))
    return high + case.term(term), torch.maximum(high, (1 - TAU) * high + low).reshape(1)


CLAIMS = (
    Claim(
        "S1",
        "R2 is a Jacobian penalty",
        r"R_2 = \|J \eta\|_2^2,\quad \eta = \alpha\,\mathrm{sign}(n)",
        SOURCE,
        "derived",
        "=",
        _r2,
        (
            Condition(
                "one linear region around both steps", lambda c: _affine_among(c, r2(c).stack(cube(c)).points)
            ),
            Condition("the noise changes no sign of the gradient", _same_sign),
        ),
        tolerance=1e-6,
        meaning="Where no sign flips, R2 sees the Jacobian along the noise.",
    ),
    Claim(
        "S2",
        "of Frobenius norm, in the mean over the noise",
        r"\mathbb{E}\,\|J\eta\|_2^2 = \alpha^2 \|J\|_F^2",
        SOURCE,
        "derived",
        "=",
        _r2_mean,
        meaning="SAT-R2 and Jacobian regularisation are one penalty, but for the sign flips.",
    ),
    Claim(
        "S3",
        "R1 vanishes where the network is affine",
        r"R_1 = \|z(x_{\mathrm{FGSM}}) - z(x_{\mathrm{IFGSM}})\|_2^2 = 0",
        SOURCE,
        "derived",
        "=",
        _r1,
        (
            BINARY,
            Condition(
                "one linear region around both attacks",
                lambda c: _affine_among(c, r1(c).stack(cube(c)).points),
            ),
        ),
        meaning="R1 is what single-step attacks miss: it is zero where they miss nothing.",
    ),
    Claim(
        "S4",
        "R3 rests where the loss grows with the step",
        r"R_3 = [\ell(x_{\mathrm{low}}) - \ell(x_{\mathrm{high}})]_+ = 0",
        SOURCE,
        "derived",
        "=",
        _r3,
        (
            BINARY,
            Condition(
                "one linear region around both steps", lambda c: _affine_among(c, r3(c).stack(cube(c)).points)
            ),
        ),
        of_the_batch=True,
        meaning="With a share of one the hinge is active only if a larger step finds a smaller loss: masked gradients.",
    ),
    Claim(
        "S5",
        "R1 of one step is nothing",
        r"T = 1 \Rightarrow R_1 = 0",
        SOURCE,
        "derived",
        "=",
        _r1_one_step,
    ),
    Claim(
        "S6",
        "and so is R2 without noise",
        r"\alpha = 0 \Rightarrow R_2 = 0",
        SOURCE,
        "derived",
        "=",
        _r2_without_noise,
    ),
    Claim(
        "S7",
        "R3 of equal steps is a share of the loss",
        r"x_{\mathrm{low}} = x_{\mathrm{high}} \Rightarrow R_3 = (1-\tau)\, \ell",
        SOURCE,
        "derived",
        "=",
        _r3_one_point,
        of_the_batch=True,
        meaning="With a share below one the hinge is active where the loss hardly grows: it asks for growth.",
    ),
    Claim(
        "S8",
        "what R3's hinge does to the loss",
        r"\ell_{\mathrm{high}} + R_3 "
        r"= \max(\ell_{\mathrm{high}},\ (1-\tau)\, \ell_{\mathrm{high}} + \ell_{\mathrm{low}})",
        SOURCE,
        "derived",
        "=",
        _r3_by_hand,
        of_the_batch=True,
        meaning="Where it is active, the full step counts less and the small one in full.",
    ),
)
