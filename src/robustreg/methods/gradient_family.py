"""The unified gradient regularisation family (Lyu, Huang & Liang 2015)."""

from __future__ import annotations

from typing import Literal

from robustreg.methods.card import Card, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.gradient import Estimator, GradientNorm, Perturbed
from robustreg.points import Clip
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

Form = Literal["perturbed", "penalty", "mixed"]

CARD = Card(
    name="gradient_family",
    title="a unified gradient regularisation family for adversarial examples",
    citation=(
        "C. Lyu, K. Huang, H.-N. Liang, A Unified Gradient Regularization Family for Adversarial Examples, "
        "ICDM 2015, pp. 301-309, doi 10.1109/ICDM.2015.84, arXiv 1511.06385"
    ),
    equations=(
        "min_theta E max_{||e||_p <= sigma} L(x + e)",
        "linearised: e = sigma sign(g) (|g| / ||g||_{p*})^{1/(p-1)},  1/p + 1/p* = 1,  g = grad_x L(x)",
        "form A, penalty:    L(x) + sigma ||grad_x L(x)||_{p*}",
        "form B, perturbed:  L(x + e), e constant",
        "form C, mixed:      alpha L(x) + (1 - alpha) L(x + e)",
    ),
    settings=(
        Setting("MNIST, convolutional maxout", {"p": "inf", "sigma": 0.1}, "a reader's notes of the paper"),
        Setting("MNIST, maxout MLP", {"p": 2, "sigma": "not seen"}, "a reader's notes of the paper"),
    ),
    published=(
        Published("MNIST maxout MLP + dropout, test error", "0.94 %", True, "Table I"),
        Published("the same with p = inf", "0.84 %", True, "Table I"),
        Published("the same with p = 2", "0.78 %", True, "Table I"),
        Published("MNIST convolutional maxout + dropout, test error", "0.45 %", True, "Table II"),
        Published("the same with p = inf, p = 2", "0.41 %, 0.39 %", True, "Table II"),
        Published(
            "CIFAR-10 convolutional maxout, 50k, without and with p = 2",
            "12.93 %, 12.28 %",
            True,
            "Table III",
        ),
    ),
    changes=(
        "the paper's text was not to be had: which of the forms its authors ran is not known. A reader's notes give "
        "the objective as form A; form B is the default here because it substitutes the min-max directly and needs no "
        "double backward",
        "x + e is not clipped to the box, as in the mathematics; clip='box' does",
        "the inner gradient is taken on the training network with the dropout masks of the clean forward, and the loss "
        "at x + e with masks of its own; same_dropout=True shares them",
    ),
)


@described_by(CARD)
def gradient_family(
    threat: Threat,
    form: Form = "perturbed",
    *,
    norm: str | float | None = None,
    sigma: float | None = None,
    alpha: float = 0.5,
    estimator: Estimator = "double",
    clip: Clip = "none",
    same_dropout: bool = False,
) -> Objective:
    """The objective of Lyu, Huang & Liang 2015 in one of its three forms, equal to first order in sigma.

    Args:
        threat: the ball to be robust in; ``p`` and ``sigma`` of the paper are its norm and radius.
        form: ``"perturbed"`` (B), ``"penalty"`` (A) or ``"mixed"`` (C).
        norm: ``p``, where it is to differ from the threat's.
        sigma: the radius, where it is to differ from ``threat.eps``.
        alpha: weight of the clean loss in the mixed form; to first order it regularises like radius
            ``(1 - alpha) * sigma``.
        estimator: how the penalty form differentiates the gradient's norm.
        clip: whether ``x + e`` is kept within the box.
        same_dropout: whether the loss at ``x + e`` uses the clean forward's dropout masks.
    """
    within = Threat(
        threat.norm if norm is None else norm, threat.eps if sigma is None else sigma, threat.bounds
    )
    perturbed = Perturbed(within, clip=clip, same_dropout=same_dropout)
    if form == "perturbed":
        return Objective.of(perturbed)
    if form == "penalty":
        return CrossEntropy() + GradientNorm(within, estimator=estimator)
    if form == "mixed":
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha is the weight of the clean loss and must lie in [0, 1], got {alpha}")
        return alpha * CrossEntropy() + (1.0 - alpha) * perturbed
    raise ValueError(f"form must be 'perturbed', 'penalty' or 'mixed', got {form!r}")
