"""Regularisers for single-step adversarial training: SAT-R1, SAT-R2 and SAT-R3 (Vivek & Babu 2020)."""

from __future__ import annotations

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.single_step import Budget, JointLoss, SatR1, SatR2, SatR3
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CITATION = (
    "B. S. Vivek, R. V. Babu, Regularizers for Single-step Adversarial Training, arXiv 2002.00614, 2020; "
    "code val-iisc/SAT-Rx"
)
CODE = "the authors' code"
MNIST: dict[str, object] = {"network": "LeNet+", "epochs": 20, "batch": 32, "eps": 0.3}
CIFAR: dict[str, object] = {"network": "WRN-28-10", "epochs": 100, "batch": 64, "eps": "8/255"}
SCHEDULE = Setting(
    "all",
    {
        "optimizer": "SGD, momentum 0.9, weight decay 5e-4",
        "learning rate": "lr0, divided by 5 after the epochs of index E/4, E/2 and 3E/4",
        "validation": "10k images of the training set; the epoch of highest accuracy under IFGSM with 3 steps",
        "augmentation": "CIFAR crop and flip, MNIST none; no mean or std",
    },
    CODE,
)
RELATIVE = Published(
    "CIFAR-10, ResNet-18, eps 8/255, the regulariser of R2 (R-MGM) in the setting of other authors: clean, FGSM, "
    "PGD-20, AutoAttack",
    "82.29, 55.04, 46.23, 43.72 %",
    True,
    "table of the GAT paper (Sriramanan et al., NeurIPS 2020)",
)
UNSEEN = "the paper's text was not to be had; losses and hyperparameters are those of the authors' code"
ADVERSARIAL_ONLY = (
    "as in the code there is no clean loss and no clean training forward: BatchNorm's running statistics are those of "
    "adversarial batches"
)


@described_by(
    Card(
        name="sat_r1",
        title="single-step adversarial training whose multi-step attack must land on the same logits",
        citation=CITATION,
        equations=(
            "a_i = FGSM(x_i; eps), i < B;  b = IFGSM_T(x_{B-1}; eps), T steps of eps / T",
            "mean_i CE(z(a_i), y_i) + lambda ||z(a_{B-1}) - z(b)||_2^2,  one forward on [a_0 .. a_{B-1}, b]",
        ),
        settings=(
            Setting("MNIST", {**MNIST, "lr0": 0.01, "lambda": 0.2, "T": 10}, CODE),
            Setting("CIFAR-10", {**CIFAR, "lr0": 0.1, "lambda": 0.2, "T": 3}, CODE),
            SCHEDULE,
        ),
        changes=(
            UNSEEN,
            "the multi-step attack is made for one sample of the batch, as in the code; samples=n takes more, None "
            "all. The sample is the last labelled one",
            ADVERSARIAL_ONLY + ", and of one row more than the batch has",
        ),
        compared=(Compared("val-iisc/SAT-Rx", 4e-16, 4e-13),),
    )
)
def sat_r1(threat: Threat, lam: float = 0.2, steps: int = 10, *, samples: int | None = 1) -> Objective:
    """SAT-R1: ``CE(z(a)) + lam ||z(a_last) - z(b)||^2`` with ``a`` from FGSM and ``b`` from IFGSM on one sample.

    Args:
        threat: norm, radius and box.
        lam: weight of the regulariser.
        steps: of the multi-step attack, ``eps / steps`` each.
        samples: of each batch that the multi-step attack is made for; None for all.
    """
    penalty = SatR1(threat, steps, samples)
    return JointLoss(penalty.stack(threat)) + lam * penalty


@described_by(
    Card(
        name="sat_r2",
        title="single-step adversarial training whose step from a noisy start must land on the same logits",
        citation=CITATION,
        equations=(
            "eta = alpha sign(N(0, I)),  [a, a'] = clip([x, x + eta] + eps sign grad CE)",
            "mean CE(z(a), y) + lambda mean ||z(a) - z(a')||_2^2,  one forward on [a, a']",
            "sign of the gradient constant:  E ||z(a) - z(a')||^2 = alpha^2 ||J||_F^2",
        ),
        settings=(
            Setting("MNIST", {**MNIST, "lr0": 0.01, "lambda": 5, "alpha": 0.01}, CODE),
            Setting("CIFAR-10", {**CIFAR, "lr0": 0.1, "lambda": 25, "alpha": "2/255"}, CODE),
            SCHEDULE,
        ),
        published=(RELATIVE,),
        changes=(
            UNSEEN,
            "cross-entropy on the FGSM half only, as in the code",
            "the step from the noisy start is the whole eps, as in the code, so that a' is up to eps + alpha away; "
            "budget='eps_minus_alpha' is the usual R-FGSM",
            "the noisy start is not clipped before its gradient is taken, as in the code of R2 (that of R3 clips it)",
            "the two halves of the attack are separate evaluation forwards, which give the same numbers as one of both",
            ADVERSARIAL_ONLY,
        ),
        compared=(Compared("val-iisc/SAT-Rx", 2e-16, 0.0),),
    )
)
def sat_r2(
    threat: Threat,
    lam: float = 5.0,
    alpha: float | None = None,
    *,
    budget: Budget = "full",
    clip_start: bool = False,
    joint: bool = True,
) -> Objective:
    """SAT-R2: ``CE(z(a)) + lam ||z(a) - z(a')||^2`` with ``a`` from FGSM and ``a'`` from a noisy start.

    Args:
        threat: norm, radius and box.
        lam: weight of the regulariser.
        alpha: size of the noise, on the pixel scale; by default ``eps / 30`` (0.01 for ``eps`` 0.3).
        budget: of the step from the noisy start: all of ``eps``, or ``eps - alpha``.
        clip_start: keep the noisy start within the box.
        joint: one training forward for both halves, as the code.
    """
    penalty = SatR2(threat, _relative(alpha, threat, 1 / 30), budget, clip_start, joint)
    stack = penalty.stack(threat)
    loss = JointLoss(stack) if joint else CrossEntropy(at=stack.points[0])
    return loss + lam * penalty


@described_by(
    Card(
        name="sat_r3",
        title="single-step adversarial training in which a small step must not cost more than a share of the full one",
        citation=CITATION,
        equations=(
            "x' = clip(x + alpha sign(N(0, I))),  s = sign grad CE(x')",
            "a_low = clip(x' + eps_low s),  a_high = clip(x' + eps_high s),  one forward on [a_low, a_high]",
            "l_high + lambda relu(l_low - tau l_high),  l the mean CE of the batch",
        ),
        settings=(
            Setting(
                "MNIST", {**MNIST, "lr0": 0.05, "lambda": 1, "tau": 0.4, "eps_low": 0.1, "alpha": 0.01}, CODE
            ),
            Setting(
                "CIFAR-10",
                {**CIFAR, "lr0": 0.1, "lambda": 1, "tau": 0.6, "eps_low": "2/255", "alpha": "2/255"},
                CODE,
            ),
            SCHEDULE,
        ),
        changes=(
            UNSEEN,
            "the hinge is on the means over the batch, as in the code, so the term is a scalar",
            "both steps are whole, from a clipped noisy start and without projection, as in the code: a_high is up to "
            "eps + alpha away; budget='eps_minus_alpha' shortens both by alpha",
            "the loss of an active hinge has weight 1 - lambda tau at the full step, so lambda tau > 1 would lower it",
            ADVERSARIAL_ONLY,
        ),
        compared=(Compared("val-iisc/SAT-Rx", 4e-16, 1e-13, "hinge on and off"),),
    )
)
def sat_r3(
    threat: Threat,
    lam: float = 1.0,
    tau: float = 0.4,
    eps_low: float | None = None,
    alpha: float | None = None,
    *,
    budget: Budget = "full",
    clip_start: bool = True,
    joint: bool = True,
) -> Objective:
    """SAT-R3: ``l_high + lam relu(l_low - tau l_high)``, the mean losses after a full and a small step.

    Args:
        threat: norm, radius and box; its ``eps`` is ``eps_high``.
        lam: weight of the regulariser.
        tau: the share of the full step's loss that the small step's may have.
        eps_low: the small step, on the pixel scale; by default ``eps / 3`` (0.1 for ``eps`` 0.3).
        alpha: size of the noise, on the pixel scale; by default ``eps / 30`` (0.01 for ``eps`` 0.3).
        budget: of the steps: all of ``eps`` and ``eps_low``, or both shortened by ``alpha``.
        clip_start: keep the noisy start within the box, as the code.
        joint: one training forward for both halves, as the code.
    """
    low = _relative(eps_low, threat, 1 / 3)
    penalty = SatR3(threat, tau, low, _relative(alpha, threat, 1 / 30), budget, clip_start, joint)
    stack = penalty.stack(threat)
    loss = JointLoss(stack, part=1) if joint else CrossEntropy(at=stack.points[1])
    return loss + lam * penalty


def _relative(length: float | None, threat: Threat, default: float) -> float:
    """A length on the pixel scale as a multiple of ``eps``."""
    if length is None:
        return default
    if threat.eps == 0:
        raise ValueError(f"a length of {length} cannot be told as a multiple of eps = 0")
    return length / threat.eps
