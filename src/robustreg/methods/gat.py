"""GAT: guided adversarial training (Sriramanan et al. 2020)."""

from __future__ import annotations

from robustreg.attacks.guided import Guided
from robustreg.attacks.pgd import PGD
from robustreg.attacks.single_step import Rademacher
from robustreg.losses import Loss
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.points import Point
from robustreg.schedules import Steps, Weight
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="gat",
    title="guided adversarial training: one step, guided by the distance from the clean probabilities",
    citation=(
        "G. Sriramanan, S. Addepalli, A. Baburaj, R. V. Babu, Guided Adversarial Attack for Evaluating and Enhancing "
        "Adversarial Defenses, NeurIPS 2020, arXiv 2011.14969"
    ),
    equations=(
        "CE(x, y) + lam ||p(x) - p(x')||_2^2",
        "x': one step of eps up CE(x', y) + lam ||p(x) - p(x')||_2^2 from random signs, network in evaluation mode; in "
        "every other step of training up CE(x', y) alone",
    ),
    settings=(
        Setting(
            "CIFAR-10, ResNet-18",
            {
                "eps": "8/255",
                "start": "4/255",
                "lam": "10, x 4 from epoch 86 on",
                "lr": "0.1, a tenth after epochs 70 and 85",
                "weight decay": 5e-4,
                "batch": 64,
                "epochs": 100,
            },
            "the authors' code",
        ),
        Setting(
            "MNIST",
            {
                "eps": 0.3,
                "start": 0.3,
                "lam": "15, x 3 after each quarter of training",
                "alternate": False,
                "epochs": 50,
                "batch": 64,
            },
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10 ResNet-18, clean / PGD-20 / GAMA / AutoAttack",
            "80.49 / 53.13 / 47.76 / 47.30 %",
            True,
            "authors' README",
        ),
    ),
    changes=(
        "the clean prediction is computed once in training mode, for attack and loss; the authors run the clean batch "
        "twice, so BatchNorm's statistics are updated twice a step here and three times there",
        "the attack sees BatchNorm's statistics from before the step; the authors' have been moved by the clean "
        "forward",
        "odd and even are counted over all of training, there within an epoch",
        "the attack's lam stays as it is when the loss's is boosted",
    ),
    compared=(Compared("val-iisc/GAMA-GAT", 2e-16, 8e-13, "odd and even steps; BatchNorm with momentum 0"),),
)


def guided_step(threat: Threat, loss: Loss) -> PGD:
    """One step of length ``eps`` from random signs of ``eps / 2``, the attack that NuAT shares."""
    return PGD(threat, 1, threat.eps or None, start=Rademacher(threat, scale=0.5), loss=loss)


@described_by(CARD)
def gat(
    threat: Threat,
    lam: float = 10.0,
    *,
    boost: float = 4.0,
    since: float = 0.86,
    alternate: bool = True,
    attack: Point | None = None,
) -> Objective:
    """GAT: ``CE(x, y) + lam ||p(x) - p(x')||^2`` at a one-step guided attack.

    Args:
        threat: the ball to be robust in.
        lam: weight of the squared distance, in the attack and in the loss.
        boost: factor on the loss's weight late in training; 1 keeps it constant, and then no progress is needed.
        since: progress from which it holds.
        alternate: leave the guidance out of the attack in every other step (CIFAR-10); MNIST's code does not.
        attack: in place of the paper's attack.
    """
    adversary = attack or guided_step(threat, Guided("squared_probabilities", lam, odd=alternate))
    weight: Weight = lam if boost == 1.0 else Steps((lam, boost * lam), (since,))
    return CrossEntropy() + weight * Consistency(adversary, "squared_probabilities")
