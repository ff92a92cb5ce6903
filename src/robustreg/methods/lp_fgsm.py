"""Single-step training in an l_p norm that each sample's gradient chooses: lp-FGSM (Mehouachi & Jabari 2025)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.adaptive import LpFGSM, LpNoise
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.points import CLEAN, Clip, Point, Uniform
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

TABLES = "the authors' README; the README of their older code has the same tables"

CARD = Card(
    name="lp_fgsm",
    title="adversarial training with one step whose l_p norm is chosen by each sample's gradient",
    citation=(
        "F. B. Mehouachi, S. E. Jabari, Adaptive Norm Selection Prevents Catastrophic Overfitting in Fast Adversarial "
        "Training, NeurIPS 2025 Workshop on Reliable ML from Unreliable Data, arXiv 2505.02360; code "
        "FaresBMehouachi/lpfgsm, older code submit-papersAnon/Lp-FGSM"
    ),
    equations=(
        "delta = eps sign(g) (|g| / ||g||_q)^(q-1),  g = grad CE(x),  1/p + 1/q = 1,  so that ||delta||_p = eps",
        "rho = |g| / ||g||_1,  PR1 = (||g||_1 / ||g||_2)^2,  dH = sum rho log rho - (1/d) sum log rho",
        "q = 1 + (tau sqrt(d / PR1) - 1) / dH, kept in [1.00098, 2]",
        "relative: tau = (1 + beta) sqrt(PR1 / d), so q = 1 + beta / dH;  absolute: tau fixed, q = 1 where it is met",
        "mean CE(x + delta, y)",
    ),
    settings=(
        Setting(
            "CIFAR-10",
            {
                "network": "WRN-28-8, dropout 0.1",
                "beta": 0.01,
                "epochs": 30,
                "batch": 128,
                "optimizer": "AdamW 1e-4 (a cyclic rate from 0.01 to 1e-4 is configured, not used)",
                "weight decay": 5e-4,
                "augmentation": "rotation 10, shifts 5/32, flip",
            },
            "the authors' notebook",
        ),
        Setting(
            "CIFAR-100",
            {"network": "WRN-28-8, dropout 0.1", "beta": 0.1, "epochs": 30, "weight decay": 5e-5},
            "the authors' notebook",
        ),
        Setting(
            "SVHN",
            {
                "network": "PreActResNet-18, dropout 0.1",
                "beta": 0.01,
                "epochs": 50,
                "images": "each divided by its largest value",
            },
            "the authors' notebook",
        ),
        Setting(
            "fixed p",
            {
                "p": "32 (CIFAR-100: 16), with noise",
                "epochs": 30,
                "batch": 1024,
                "learning rate": 1e-3,
                "weight decay": 5e-4,
            },
            "the authors' older code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10, eps 4, 8, 12, 16 of 255: clean / PGD-50",
            "88.15 / 69.53, 81.73 / 51.33, 73.34 / 41.18, 63.80 / 37.14 %",
            True,
            TABLES,
        ),
        Published(
            "CIFAR-100, eps 4, 8, 12, 16 of 255: clean / PGD-50",
            "61.36 / 45.83, 53.54 / 32.03, 47.17 / 24.51, 40.62 / 18.23 %",
            True,
            TABLES,
        ),
        Published(
            "SVHN, eps 4, 8, 12 of 255: clean / PGD-50",
            "94.36 / 77.77, 91.14 / 56.12, 89.06 / 36.88 %",
            True,
            TABLES,
        ),
        Published(
            "CIFAR-10, WRN-28-8, eps 8, 12, 16 of 255: clean / AutoAttack",
            "77.81 / 41.81, 70.88 / 31.03, 57.98 / 25.02 %",
            True,
            "README of the authors' older code; AutoAttack also in the newer README",
        ),
        Published(
            "the same, N-FGSM (k = 2)",
            "74.73 / 41.65, 62.56 / 30.17, 52.89 / 22.50 %",
            True,
            "README of the authors' older code; AutoAttack also in the newer README",
        ),
    ),
    changes=(
        "the paper was not read beyond its introduction; the formulas are those of the authors' README and code",
        "the PGD-50 tables of the two codes are equal digit for digit, and the older one has a fixed p, with noise: to "
        "which rule the numbers belong is not known",
        "the authors say that p falls where the gradient concentrates. With the rule of their code, p = 1 + dH / beta, "
        "it rises with the gap dH: many normal entries have PR1/d = 0.64, dH = log 2 and p = 70 for beta = 0.01; their "
        "cubes are more concentrated, PR1/d = 0.17, dH = 3.58, and have p = 359. p='absolute' does as they say",
        "entries of the gradient that are exactly 0 are left out of dH, PR1 and d, which then do not depend on the "
        "gradient's scale; the authors add 1e-12 to every entry of the gradient of the batch's mean loss: "
        "floor=1e-12 times the size of the batch. With ReLU, where entries are exactly 0, this is another exponent",
        "the older code's noise is a number p with noise=True: the gradient is taken at noise of l_p length eps and "
        "the step added to the uniform noise behind it",
        "x + delta is not clipped, as in the code; clip='box' or 'threat' does",
        "||delta||_p = eps moves the features by less than eps, all of them by eps d^(-1/p) where |g| is flat; "
        "rescale=True takes the radius eps d^(1/p) instead",
        "the step is found in training mode, as in the code; mode='eval' or 'batch' is the alternative",
    ),
    compared=(
        Compared("FaresBMehouachi/lpfgsm", 1e-10, 2e-08, "floor=1e-12 times the batch"),
        Compared("submit-papersAnon/Lp-FGSM", 2e-11, 5e-09, "p=32, noise=True and False"),
    ),
)


@described_by(CARD)
def lp_fgsm(
    threat: Threat,
    p: float | Literal["relative", "absolute"] = "relative",
    *,
    beta: float = 0.01,
    tau: float = 0.8,
    noise: bool = False,
    rescale: bool = False,
    floor: float = 0.0,
    clip: Clip = "none",
    mode: Mode = "train",
) -> Objective:
    """lp-FGSM: the loss at one steepest step of l_p length ``eps``, ``p`` chosen sample by sample.

    Args:
        threat: radius and box.
        p: ``"relative"`` is the authors' code, ``"absolute"`` what they say it does, a number their older code.
        beta: of the relative rule: by which share the cosine with the l2 step is to grow over the sign's.
        tau: of the absolute rule: the cosine with the l2 step that is asked for, in (0, 1].
        noise: start from uniform noise, for a number ``p`` only.
        rescale: take the radius ``eps * D^(1/p)``, ``D`` the number of features.
        floor: added to the size of every entry of the gradient before ``p`` is chosen; 0 leaves out those that are 0.
        clip: whether the point is kept within the box, or in ball and box.
        mode: the mode in which the step is found.
    """
    start: Point = CLEAN
    if noise:
        if isinstance(p, str):
            raise ValueError(f"noise=True is the older code, which needs a number p, got p={p!r}")
        start = LpNoise(threat, p)
    base = Uniform(threat, 0, 1.0, "none") if noise else None
    point = LpFGSM(
        threat, start, base, mode=mode, clip=clip, p=p, beta=beta, tau=tau, rescale=rescale, floor=floor
    )
    return Objective.of(CrossEntropy(at=point))
