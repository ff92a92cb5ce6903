"""Single-step training without abnormal adversarial examples: AAER (Lin, Yu & Liu 2023), from two attacks."""

from __future__ import annotations

from robustreg.attacks.single_step import N_FGSM, RS_FGSM
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.abnormal import AbnormalExamples
from robustreg.points import Point
from robustreg.schedules import Weight
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CITATION = (
    "R. Lin, C. Yu, T. Liu, Eliminating Catastrophic Overfitting Via Abnormal Adversarial Examples Regularization, "
    "NeurIPS 2023, arXiv 2404.08154; code tmllab/2023_NeurIPS_AAER"
)
PENALTY = (
    "A: samples with CE(x + eta) > CE(x + delta), N: the others;  V_S = mean_S ||z(x + eta) - z(x + delta)||_2^2",
    "mean CE(x + delta) + lam1 n_A/B [lam2 mean_A (CE(x + eta) - CE(x + delta)) + lam3 max(V_A - sg(V_N), 0)]",
)
README = "the authors' README"
TRAINING: dict[str, object] = {
    "network": "PreActResNet-18",
    "epochs": 30,
    "batch": 128,
    "learning rate": "cyclic, 0 to 0.2 to 0",
    "weight decay": 5e-4,
}
CHANGES = (
    "as in the authors' code the losses and z(x + eta) are constants, so the part with lam2 changes nothing but the "
    "value; through_loss=True lets gradient flow through the losses, as the paper's formula reads",
    "the step is found in training mode, as in the code, and shares the penalty's forward at its start; with "
    "mode='eval' the start is run in both modes",
)


def _settings(ten: tuple[str, ...], hundred: tuple[str, ...]) -> tuple[Setting, ...]:
    """lam2, lam3 for each radius on CIFAR-10 and CIFAR-100; lam1 is 1."""
    radii = ("8/255", "12/255", "16/255", "32/255")
    return tuple(
        Setting(data, {**TRAINING, "lam1": 1, **dict(zip(radii, values, strict=True))}, README)
        for data, values in (
            ("CIFAR-10, lam2 and lam3 by eps", ten),
            ("CIFAR-100, lam2 and lam3 by eps", hundred),
        )
    )


@described_by(
    Card(
        name="rs_aaer",
        title="RS-FGSM training that regularises abnormal adversarial examples",
        citation=CITATION,
        equations=("eta ~ U(-eps, eps),  delta = clip_eps(eta + 1.25 eps sign grad CE(x + eta))", *PENALTY),
        settings=_settings(
            ("2.5, 1.5", "5.0, 2.75", "7.0, 3.25", "5.75, 1.5"),
            ("3.5, 1.5", "3.5, 2.75", "6.0, 2.25", "5.0, 0.75"),
        ),
        changes=CHANGES,
        compared=(Compared("tmllab/2023_NeurIPS_AAER", 1e-15, 5e-13, "hinge on and off"),),
    )
)
def rs_aaer(
    threat: Threat,
    lam2: float = 2.5,
    lam3: float = 1.5,
    *,
    lam1: Weight = 1.0,
    step: float = 1.25,
    through_loss: bool = False,
    mode: Mode = "train",
) -> Objective:
    """AAER beside the loss at an RS-FGSM step.

    Args:
        threat: norm, radius and box.
        lam2: weight of the loss's fall at abnormal examples, within the penalty.
        lam3: weight of their logits' variation beyond that of normal ones, within the penalty.
        lam1: weight of the penalty; the authors ramp it up over 20 epochs where training is long.
        step: length of the step as a multiple of ``eps``.
        through_loss: let gradient flow through the losses.
        mode: the mode in which the step is found.
    """
    return _aaer(RS_FGSM(threat, step, mode=mode), lam1, lam2, lam3, through_loss)


@described_by(
    Card(
        name="n_aaer",
        title="N-FGSM training that regularises abnormal adversarial examples",
        citation=CITATION,
        equations=(
            "eta ~ U(-2 eps, 2 eps),  delta = eta + eps sign grad CE(x + eta), not clipped to eps",
            *PENALTY,
        ),
        settings=_settings(
            ("1.5, 0.15", "5.0, 0.55", "8.5, 1.5", "2.75, 0.75"),
            ("1.5, 0.15", "3.5, 0.3", "6.0, 0.5", "3.5, 0.5"),
        ),
        published=(
            Published(
                "CIFAR-10, ResNet-18, eps 8/255, 100 epochs, label smoothing 0.4 and weight averaging: clean, PGD-50, "
                "AutoAttack",
                "77.67, 52.37, 47.38 %",
                True,
                "FastAT Benchmark, arXiv 2604.22853",
            ),
        ),
        changes=CHANGES,
        compared=(Compared("tmllab/2023_NeurIPS_AAER", 1e-15, 5e-13, "hinge on and off"),),
    )
)
def n_aaer(
    threat: Threat,
    lam2: float = 1.5,
    lam3: float = 0.15,
    *,
    lam1: Weight = 1.0,
    k: float = 2.0,
    step: float = 1.0,
    through_loss: bool = False,
    mode: Mode = "train",
) -> Objective:
    """AAER beside the loss at an N-FGSM step.

    Args:
        threat: norm, radius and box.
        lam2: weight of the loss's fall at abnormal examples, within the penalty.
        lam3: weight of their logits' variation beyond that of normal ones, within the penalty.
        lam1: weight of the penalty; the authors ramp it up over 20 epochs where training is long.
        k: radius of the noise as a multiple of ``eps``.
        step: length of the step as a multiple of ``eps``.
        through_loss: let gradient flow through the losses.
        mode: the mode in which the step is found.
    """
    return _aaer(N_FGSM(threat, k, step, mode=mode), lam1, lam2, lam3, through_loss)


def _aaer(attack: Point, lam1: Weight, lam2: float, lam3: float, through_loss: bool) -> Objective:
    return CrossEntropy(at=attack) + lam1 * AbnormalExamples(attack, lam2, lam3, through_loss)
