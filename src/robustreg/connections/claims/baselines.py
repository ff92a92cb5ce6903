"""Identities and bounds between the regularisers of adversarial training and its baselines."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.claims.single_step import cube
from robustreg.connections.quantities import loss_rounding
from robustreg.connections.regions import AFFINE_HERE, BINARY, SAME_REGION, affine_between, codes
from robustreg.discrepancies import Discrepancy
from robustreg.penalties import Consistency, GradAlign, GradientNorm, LinearityGap
from robustreg.points import CLEAN, FGSM, Point, Uniform
from robustreg.terms import LossAt

SOURCE = "derived for the losses as their authors' code has them"
NAMES: tuple[Discrepancy, ...] = ("kl", "js", "squared_logits", "squared_probabilities")


def apart(case: Case, discrepancy: Discrepancy, at: Point | None = None) -> Tensor:
    """A consistency term between the sample and ``x + d``."""
    return case.term(Consistency(at or case.displaced, discrepancy, mode="eval"))


def _up_to(case: Case, *points: Point) -> Tensor:
    return torch.stack([affine_between(case, case.x, case.found(point)) for point in points]).all(0)


def _vanish(case: Case) -> tuple[Tensor, Tensor]:
    values = torch.stack([apart(case, name, CLEAN) for name in NAMES]).abs().amax(0)
    return values, torch.zeros_like(values)


def _positive(case: Case) -> tuple[Tensor, Tensor]:
    values = torch.stack([apart(case, name) for name in NAMES]).amin(0)
    return -values, torch.full_like(values, 1e-12)


def _nuclear_vanishes(case: Case) -> tuple[Tensor, Tensor]:
    value = apart(case, "nuclear", CLEAN)
    return value, torch.zeros_like(value)


def _nuclear_positive(case: Case) -> tuple[Tensor, Tensor]:
    value = apart(case, "nuclear")
    return -value, torch.zeros_like(value)


def _pinsker_l1(case: Case) -> tuple[Tensor, Tensor]:
    moved = (case.logits_at(case.end).softmax(1) - case.p).abs().sum(1)
    return moved.square(), 2 * apart(case, "kl")


def _norms_of_change(case: Case) -> tuple[Tensor, Tensor]:
    moved = (case.logits_at(case.end).softmax(1) - case.p).abs().sum(1)
    return apart(case, "squared_probabilities"), moved.square()


def _pinsker(case: Case) -> tuple[Tensor, Tensor]:
    return apart(case, "squared_probabilities"), 2 * apart(case, "kl")


def _against_logits(case: Case, discrepancy: Discrepancy) -> tuple[Tensor, Tensor]:
    return apart(case, discrepancy), 0.25 * apart(case, "squared_logits")


def _first_order(case: Case) -> tuple[Tensor, Tensor]:
    rise = case.term(LossAt(FGSM(cube(case)), mode="eval")) - case.loss
    return rise, case.term(GradientNorm(cube(case), mode="eval"))


def random_point(case: Case) -> Point:
    """Of the ball: the one that GradAlign draws."""
    return Uniform(cube(case), 0, 1.0, "none")


def _exact_maximiser(case: Case) -> tuple[Tensor, Tensor]:
    there, worst = (LossAt(point, mode="eval") for point in (random_point(case), FGSM(cube(case))))
    return case.term(there), case.term(worst)


def _aligned(case: Case) -> tuple[Tensor, Tensor]:
    values = case.term(GradAlign(cube(case), second=random_point(case), mode="eval"))
    return values, torch.zeros_like(values)


def _logit_gap(case: Case) -> Tensor:
    return case.logits - case.logits_at(case.end)


def _nuclear(case: Case) -> Tensor:
    """The library's term, which is divided by the batch, times the batch: ``[1]``."""
    return apart(case, "nuclear") * len(case.x)


def _nuclear_low(case: Case) -> tuple[Tensor, Tensor]:
    return _logit_gap(case).norm().reshape(1), _nuclear(case)


def _nuclear_high(case: Case) -> tuple[Tensor, Tensor]:
    gap = _logit_gap(case)
    return _nuclear(case), (min(gap.shape) ** 0.5 * gap.norm()).reshape(1)


def _llr(case: Case) -> tuple[Tensor, Tensor]:
    gap = case.term(LinearityGap(case.threat, at=case.displaced, mode="eval"))
    return gap, apart(case, "kl")


NO_KINK = Condition(
    "no kink up to the FGSM point", lambda c: (codes(c, c.x) == codes(c, c.found(FGSM(cube(c))))).all(1)
)
CUBE_REGION = Condition(
    "a gradient in float64, and one linear region up to the FGSM point and a random one",
    lambda c: (c.gradient != 0).any(1) & _up_to(c, FGSM(cube(c)), random_point(c)),
)

CLAIMS = (
    Claim(
        "M1",
        "no distance, no penalty",
        r"x' = x \Rightarrow \mathrm{KL} = \mathrm{JS} = \|z-z'\|^2 = \|p-p'\|^2 = 0",
        SOURCE,
        "derived",
        "=",
        _vanish,
    ),
    Claim(
        "M1b",
        "nor for NuAT",
        r"Z' = Z \Rightarrow \|Z - Z'\|_* = 0",
        SOURCE,
        "derived",
        "=",
        _nuclear_vanishes,
        of_the_batch=True,
    ),
    Claim(
        "M2",
        "consistency terms are not negative",
        r"\min(\mathrm{KL}, \mathrm{JS}, \|z-z'\|^2, \|p-p'\|^2) \ge 0",
        SOURCE,
        "derived",
        "<=",
        _positive,
    ),
    Claim(
        "M2b",
        "nor is NuAT's",
        r"\|Z - Z'\|_* \ge 0",
        SOURCE,
        "derived",
        "<=",
        _nuclear_positive,
        of_the_batch=True,
    ),
    Claim(
        "M3",
        "GAT is at most twice TRADES",
        r"\|p - p'\|_2^2 \le 2\,\mathrm{KL}(p \| p')",
        "Pinsker's inequality",
        "published",
        "<=",
        _pinsker,
        meaning="A small TRADES term makes a small GAT term.",
    ),
    Claim(
        "M3b",
        "as the sum of the changes is",
        r"\|p - p'\|_1^2 \le 2\,\mathrm{KL}(p \| p')",
        "Pinsker's inequality",
        "published",
        "<=",
        _pinsker_l1,
        meaning="Pinsker's inequality itself.",
    ),
    Claim(
        "M3c",
        "which is at least GAT's norm",
        r"\|p - p'\|_2^2 \le \|p - p'\|_1^2",
        SOURCE,
        "derived",
        "<=",
        _norms_of_change,
    ),
    Claim(
        "M4",
        "GAT is at most a quarter of ALP",
        r"\|p - p'\|_2^2 \le \tfrac14 \|z - z'\|_2^2",
        SOURCE,
        "derived",
        "<=",
        partial(_against_logits, discrepancy="squared_probabilities"),
        meaning="Softmax is one half Lipschitz.",
    ),
    Claim(
        "M5",
        "and so is TRADES",
        r"\mathrm{KL}(p \| p') \le \tfrac14 \|z - z'\|_2^2",
        SOURCE,
        "derived",
        "<=",
        partial(_against_logits, discrepancy="kl"),
        meaning="Pairing logits is the strongest of the three: it also sees what softmax does not.",
    ),
    Claim(
        "M6",
        "adversarial training is gradient regularisation, to first order",
        r"L(x + \epsilon\,\mathrm{sign}\,g) - L(x) = \epsilon \|g\|_1 + O(\epsilon^2)",
        "Lyu et al. 2015, equation (2)",
        "published",
        "~",
        _first_order,
        (NO_KINK,),
        order=2.0,
        meaning="The unified gradient family: the penalty and the attack are two forms of one thing.",
    ),
    Claim(
        "M7",
        "two classes: FGSM is the worst case",
        r"L(x+u) \le L(x + \epsilon\,\mathrm{sign}\,g)\quad \forall \|u\|_\infty \le \epsilon",
        SOURCE,
        "derived",
        "<=",
        _exact_maximiser,
        (BINARY, AFFINE_HERE, CUBE_REGION),
        meaning="On an affine network of two classes one step is enough.",
    ),
    Claim(
        "M8",
        "two classes: gradients are aligned",
        r"1 - \cos(\nabla L(x), \nabla L(x+u)) = 0",
        SOURCE,
        "derived",
        "=",
        _aligned,
        (BINARY, AFFINE_HERE, CUBE_REGION),
        meaning="GradAlign measures how far a network is from where one step is enough.",
    ),
    Claim(
        "M9",
        "NuAT's norm is at least the distance of the logits",
        r"\|Z - Z'\|_F \le \|Z - Z'\|_*",
        SOURCE,
        "derived",
        "<=",
        _nuclear_low,
        of_the_batch=True,
        meaning="Z holds a batch's logits: a small NuAT term makes a small ALP term.",
    ),
    Claim(
        "M9b",
        "and at most so much more",
        r"\|Z - Z'\|_* \le \sqrt{\min(B, C)}\, \|Z - Z'\|_F",
        SOURCE,
        "derived",
        "<=",
        _nuclear_high,
        of_the_batch=True,
        meaning="And the other way round: they differ in how a batch shares the distance among directions.",
    ),
    Claim(
        "M10",
        "LLR's term is TRADES's in a linear region",
        r"|L(x+d) - L(x) - d \cdot g| = \mathrm{KL}(p(x) \,\|\, p(x+d))",
        SOURCE,
        "derived",
        "=",
        _llr,
        (AFFINE_HERE, SAME_REGION),
        tolerance=1e-6,
        rounding=loss_rounding,
        meaning="Claim I11 for the terms as they are trained.",
    ),
)
