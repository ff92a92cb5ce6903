"""Single-step training without the gradient's small entries: ZeroGrad (Golgooni et al. 2021)."""

from __future__ import annotations

from robustreg.attacks.single_step import ZeroGrad
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CITATION = (
    "Z. Golgooni, M. Saberi, M. Eskandar, M. H. Rohban, ZeroGrad: Mitigating and Explaining Catastrophic Overfitting "
    "in FGSM Adversarial Training, arXiv 2103.15476, 2021; code rohban-lab/catastrophic_overfitting"
)

CARD = Card(
    name="zero_grad",
    title="RS-FGSM training whose step leaves out each sample's smallest gradient entries",
    citation=CITATION,
    equations=(
        "delta_0 ~ U(-eps, eps),  g = grad CE(x + delta_0),  g_j = 0 where |g_j| < the q-quantile of the sample's |g|",
        "delta = clip_eps(delta_0 + 2 eps sign g), x + delta clipped to the box;  mean CE(x + delta, y)",
    ),
    settings=(
        Setting(
            "CIFAR-10",
            {"network": "PreActResNet-18", "q": 0.35, "step": "2 eps"},
            "a later paper's code (SORA)",
        ),
        Setting("CIFAR-100", {"q": 0.45}, "a later paper's code (SORA)"),
        Setting("SVHN", {"q": 0.7, "epochs": 15, "learning rate": 0.01}, "the authors' code"),
        Setting(
            "CIFAR-10, defaults",
            {
                "q": 0.4,
                "step": "2 eps",
                "epochs": 52,
                "learning rate": "0.1, 0.01 from epoch 50",
                "batch": 128,
            },
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10, ResNet-18, eps 8/255, 100 epochs, label smoothing 0.4 and weight averaging: clean, PGD-50, "
            "AutoAttack",
            "75.85, 51.06, 45.94 % (+-2.2)",
            True,
            "FastAT Benchmark, arXiv 2604.22853",
        ),
        Published(
            "CIFAR-10, eps 8/255 and 16/255: clean / PGD-50",
            "84.16 / 48.32, 75.43 / 14.66 %",
            True,
            "README of lp-FGSM (Mehouachi & Jabari)",
        ),
    ),
    changes=(
        "the step is found in training mode, as in the code; mode='eval' or 'batch' is the alternative",
    ),
    compared=(Compared("rohban-lab/catastrophic_overfitting", 2e-16, 0.0, "q 0.35 and 0.7"),),
)


@described_by(CARD)
def zero_grad(threat: Threat, q: float = 0.35, step: float = 2.0, *, mode: Mode = "train") -> Objective:
    """ZeroGrad: the loss at an RS-FGSM step without the entries of the gradient that are small for its sample.

    Args:
        threat: norm, radius and box.
        q: the quantile of ``|g|`` below which entries are left out.
        step: length of the step as a multiple of ``eps``.
        mode: the mode in which the step is found.
    """
    return Objective.of(CrossEntropy(at=ZeroGrad(threat, q, step, mode=mode)))
