"""Fast adversarial training from a random start: RS-FGSM, or FBF (Wong, Rice & Kolter 2020)."""

from __future__ import annotations

from robustreg.attacks.single_step import RS_FGSM
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="rs_fgsm",
    title="adversarial training with one step from a random start",
    citation=(
        "E. Wong, L. Rice, J. Z. Kolter, Fast is better than free: Revisiting adversarial training, ICLR 2020, "
        "arXiv 2001.03994; code locuslab/fast_adversarial"
    ),
    equations=(
        "delta_0 ~ U(-eps, eps), x + delta_0 clipped to the box",
        "delta = clip_eps(delta_0 + 1.25 eps sign grad CE(x + delta_0)), x + delta clipped to the box",
        "mean CE(x + delta, y)",
    ),
    settings=(
        Setting(
            "CIFAR-10",
            {
                "network": "PreActResNet-18",
                "eps": "8/255",
                "step": "10/255",
                "epochs": 15,
                "learning rate": "cyclic, 0 to 0.2 at mid-training to 0",
                "weight decay": 5e-4,
                "precision": "fp16",
            },
            "the authors' code",
        ),
        Setting(
            "MNIST",
            {
                "network": "conv16 4x4 /2, conv32 4x4 /2, FC100, FC10",
                "eps": 0.3,
                "step": 0.375,
                "epochs": 10,
                "optimizer": "Adam 5e-3, cyclic",
                "batch": 100,
            },
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10, eps 8/255, clean and robust, 12 minutes", "86.06, 46.06 %", True, "the authors' README"
        ),
        Published(
            "CIFAR-10, ResNet-18, clean, PGD-20, AutoAttack",
            "82.83, 46.41, 43.12 %",
            True,
            "table of the GAT paper (Sriramanan et al., NeurIPS 2020)",
        ),
        Published(
            "CIFAR-10, ResNet-18, 100 epochs, label smoothing 0.4 and weight averaging: clean, PGD-50, AutoAttack",
            "77.66, 48.27, 43.09 % (+-5.3)",
            True,
            "FastAT Benchmark, arXiv 2604.22853",
        ),
    ),
    changes=(
        "the step is found in training mode, as in the code, so BatchNorm's statistics see the start points too; "
        "mode='eval' or 'batch' leaves them out",
        "the authors' inputs are normalised and eps is scaled with them; here eps is in pixels",
    ),
    compared=(Compared("locuslab/fast_adversarial, CIFAR10", 2e-16, 4e-13, "one eps for all channels"),),
)


@described_by(CARD)
def rs_fgsm(threat: Threat, step: float = 1.25, *, mode: Mode = "train") -> Objective:
    """RS-FGSM: the loss at one steepest step from a uniform start, kept within the threat.

    Args:
        threat: norm, radius and box.
        step: length of the step as a multiple of ``eps``. With 1.25 the mean of ``delta * sign(g)`` is 0.859375 eps.
        mode: the mode in which the step is found.
    """
    return Objective.of(CrossEntropy(at=RS_FGSM(threat, step, mode=mode)))
