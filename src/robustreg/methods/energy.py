"""Energy regularisation (Zhang, Huang & Xu 2019)."""

from __future__ import annotations

from typing import Literal

from robustreg.methods.card import Card, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.energy import Energy, Points, adversarial_point
from robustreg.penalties.gradient import Estimator
from robustreg.points import Clip
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="energy",
    title="energy regularisation: the variation of the loss in a neighbourhood",
    citation=(
        "S. Zhang, K. Huang, Z. Xu, On Model Robustness Against Adversarial Examples, arXiv 1911.06479, 2019; by the "
        "same authors, Re-thinking model robustness from stability: a new insight to defend adversarial examples, "
        "Machine Learning 111(7):2489-2513, 2022, doi 10.1007/s10994-022-06186-9"
    ),
    equations=(
        "J = mean_L [ L(x) ] + lam * mean E(x)",
        "E(x) = ||r|| int_0^1 ||grad D(t r)|| dt,  D(u) = L(x + u), or KL(p(x) || p(x + u)) without labels",
        "estimate: eps sum_k w_k ||grad D(u_k)||^q",
        "D(r) - D(0) <= E_segment <= E_sup: adversarial training and VAT lower a lower bound",
    ),
    settings=(
        Setting("MNIST", {"p": 2, "eps": 2.1, "lam": 1.0}, "ours: the VAT authors' supervised setting"),
        Setting("MNIST, 100 labels", {"p": 2, "eps": 0.3, "lam": 1.0}, "ours: the VAT authors' setting"),
        Setting(
            "CIFAR-10, 4000 labels", {"p": 2, "eps": 10, "lam": 1.0}, "ours: the VAT authors', ZCA scale"
        ),
        Setting("SVHN, 1000 labels", {"p": 2, "eps": 2.5, "lam": 1.0}, "ours: the VAT authors' setting"),
    ),
    changes=(
        "only the abstracts of both papers were to be had: definition, hyperparameters and tables were not seen, so no "
        "published number is given. The formula is inferred: the one for which the abstracts' theorems hold for every "
        "network (see robustreg.penalties.energy)",
        "the segment is the default because adversarial training and VAT are exactly lower bounds of it; on almost "
        "linear networks it is nearly the adversarial increment: compare with points='worst'",
        "any norm, with the dual norm of the gradient; the papers speak of l2",
        "the clean loss is the base, as in VAT; base='adv' takes the loss at the adversarial point",
    ),
)


@described_by(CARD)
def energy(
    threat: Threat,
    lam: float = 1.0,
    points: Points = "segment",
    *,
    norm: str | float | None = None,
    eps: float | None = None,
    power: int = 1,
    divergence: Literal["ce", "kl"] = "ce",
    samples: int = 1,
    estimator: Estimator = "double",
    base: Literal["clean", "adv"] = "clean",
    clip: Clip = "none",
) -> Objective:
    """Cross-entropy of the labelled samples plus ``lam`` times the energy.

    Args:
        threat: the ball; its norm and radius are the energy's.
        lam: weight of the energy.
        points: ``"segment"``, ``"ball"``, ``"worst"`` or ``"centre"``.
        norm: the energy's norm, where it is to differ from the threat's.
        eps: the radius, where it is to differ from the threat's.
        power: of the gradient's norm, 1 or 2.
        divergence: ``"ce"``, or ``"kl"`` for the semi-supervised energy, averaged over all samples.
        samples: points on the segment or draws in the ball.
        estimator: ``"double"`` or ``"central"``.
        base: ``"clean"``, or ``"adv"`` for the cross-entropy at the segment's end in place of the sample.
        clip: whether the points stay within the bounds.
    """
    within = Threat(threat.norm if norm is None else norm, threat.eps if eps is None else eps, threat.bounds)
    penalty = Energy(within, points, power, divergence, samples, estimator, clip=clip)
    if base == "clean":
        return CrossEntropy() + lam * penalty
    if base == "adv":
        return CrossEntropy(at=adversarial_point(within, divergence, "batch", clip)) + lam * penalty
    raise ValueError(f"base must be 'clean' or 'adv', got {base!r}")
