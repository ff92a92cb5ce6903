"""Single-step training along signs that several gradients agree on: MultiGrad (Golgooni et al. 2021)."""

from __future__ import annotations

from robustreg.attacks.single_step import MultiGrad
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.zero_grad import CITATION
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="multi_grad",
    title="FGSM training along the signs on which the gradients at several random points agree",
    citation=CITATION,
    equations=(
        "delta_k ~ U(-eps, eps),  g_k = grad CE(x + delta_k),  k = 1 .. N",
        "s_j = sign g_1j where all sign g_kj are equal, else 0",
        "delta = clip_eps(2 eps s), x + delta clipped to the box;  mean CE(x + delta, y)",
    ),
    settings=(
        Setting("CIFAR-10", {"N": 3, "step": "2 eps", "epochs": 52, "batch": 128}, "the authors' code"),
    ),
    published=(
        Published("CIFAR-10, PreActResNet-18, eps 8/255, PGD-50", "48 to 49 %", False, "the literature"),
    ),
    changes=(
        "each random point has a forward of its own, the default of the authors' code, which can also stack them",
        "the gradients are found in training mode, as in the code; mode='eval' or 'batch' is the alternative",
    ),
    compared=(
        Compared("rohban-lab/catastrophic_overfitting", 3e-16, 0.0, "all of 3, 2 of 3 and 4 of 5 signs"),
    ),
)


@described_by(CARD)
def multi_grad(
    threat: Threat, samples: int = 3, step: float = 2.0, *, agree: int | None = None, mode: Mode = "train"
) -> Objective:
    """MultiGrad: the loss after a step from the sample where the gradients at random points agree on the sign.

    Args:
        threat: norm, radius and box.
        samples: number of random points.
        step: length of the step as a multiple of ``eps``; kept within the threat, every length from 1 is the same.
        agree: how many signs must be the same; by default all.
        mode: the mode in which the gradients are found.
    """
    return Objective.of(CrossEntropy(at=MultiGrad(threat, samples, agree, step, mode=mode)))
