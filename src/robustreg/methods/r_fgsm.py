"""Adversarial training with a random corner and a step: R-FGSM (Tramer et al. 2018)."""

from __future__ import annotations

from robustreg.attacks.single_step import R_FGSM
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="r_fgsm",
    title="adversarial training with a random corner, then one step with the rest of the budget",
    citation=(
        "F. Tramer, A. Kurakin, N. Papernot, I. Goodfellow, D. Boneh, P. McDaniel, Ensemble Adversarial Training: "
        "Attacks and Defenses, ICLR 2018, arXiv 1705.07204"
    ),
    equations=(
        "x' = clip(x + alpha sign(N(0, I)))",
        "x^ = clip(x' + (eps - alpha) sign grad CE(x', y)),  mean CE(x^, y)",
    ),
    settings=(
        Setting("general", {"alpha": "eps / 2"}, "the paper, recalled"),
        Setting("MNIST, for evaluation", {"eps": 0.3, "alpha": 0.01}, "code of val-iisc/SAT-Rx"),
        Setting("CIFAR-10, for evaluation", {"eps": "8/255", "alpha": "2/255"}, "code of val-iisc/SAT-Rx"),
    ),
    published=(
        Published(
            "CIFAR-10, ResNet-18, eps 8/255: clean, FGSM, PGD-20, AutoAttack",
            "89.24, 49.94, 35.02, 33.16 %",
            True,
            "table of the GAT paper (Sriramanan et al., NeurIPS 2020)",
        ),
    ),
    changes=(
        "the loss is that of the adversarial samples alone; the paper mixes it with the clean loss and with other "
        "networks' adversarial samples (recalled, not seen)",
    ),
    compared=(Compared("val-iisc/SAT-Rx, tools/attacks.py", 2e-16, 8e-13),),
)


@described_by(CARD)
def r_fgsm(threat: Threat, alpha: float | None = None, *, mode: Mode = "eval") -> Objective:
    """R-FGSM: the loss at one steepest step of ``eps - alpha`` from a random corner of size ``alpha``.

    Args:
        threat: norm, radius and box.
        alpha: size of the corner, on the pixel scale; by default half of ``eps``.
        mode: the mode in which the step is found.
    """
    share = 0.5 if alpha is None else alpha / threat.eps if threat.eps else 0.0
    return Objective.of(CrossEntropy(at=R_FGSM(threat, share, mode=mode)))
