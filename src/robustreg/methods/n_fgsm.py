"""Single-step adversarial training with much noise and no projection: N-FGSM (de Jorge et al. 2022)."""

from __future__ import annotations

from robustreg.attacks.single_step import N_FGSM
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="n_fgsm",
    title="adversarial training with one step from strong noise, not projected",
    citation=(
        "P. de Jorge, A. Bibi, R. Volpi, A. Sanyal, P. H. S. Torr, G. Rogez, P. K. Dokania, Make Some Noise: Reliable "
        "and Efficient Single-Step Adversarial Training, NeurIPS 2022, arXiv 2202.01181"
    ),
    equations=(
        "eta ~ U(-k eps, k eps), x + eta clipped to the box",
        "delta = eta + alpha sign grad CE(x + eta), x + delta clipped to the box, not to eps",
        "mean CE(x + delta, y)",
    ),
    settings=(
        Setting(
            "CIFAR-10, CIFAR-100",
            {
                "network": "PreActResNet-18",
                "k": 2,
                "alpha": "eps",
                "epochs": 30,
                "batch": 128,
                "learning rate": "cyclic, largest 0.2",
                "weight decay": 5e-4,
            },
            "the authors' code",
        ),
        Setting(
            "SVHN",
            {"k": "2 (3 at eps 12/255)", "learning rate": "largest 0.05", "warm-up": "of eps, 5 epochs"},
            "the authors' code",
        ),
        Setting("WRN-28-10", {"k": "2 (4 at eps 16/255)", "dropout": 0.3}, "the authors' code"),
    ),
    published=(
        Published(
            "CIFAR-10, PreActResNet-18, eps 8/255: clean, PGD-50 with 10 restarts",
            "80.6, 48.1 %",
            False,
            "the paper",
        ),
        Published(
            "CIFAR-10, ResNet-18, eps 8/255, 100 epochs, label smoothing 0.4 and weight averaging: clean, PGD-50, "
            "AutoAttack",
            "78.59, 53.07, 47.77 %",
            True,
            "FastAT Benchmark, arXiv 2604.22853",
        ),
    ),
    changes=(
        "the step is found in training mode, as in the code; mode='eval' or 'batch' is the alternative",
    ),
    compared=(Compared("pdejorge/N-FGSM", 3e-16, 4e-13),),
)


@described_by(CARD)
def n_fgsm(threat: Threat, k: float = 2.0, step: float = 1.0, *, mode: Mode = "train") -> Objective:
    """N-FGSM: the loss at one steepest step from noise of ``k`` times the radius, without projection.

    Args:
        threat: norm, radius and box.
        k: radius of the noise as a multiple of ``eps``.
        step: length of the step as a multiple of ``eps``.
        mode: the mode in which the step is found.
    """
    return Objective.of(CrossEntropy(at=N_FGSM(threat, k, step, mode=mode)))
