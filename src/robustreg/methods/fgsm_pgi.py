"""Single-step training that starts where the sample's last attack ended: FGSM-PGI (Jia et al. 2022)."""

from __future__ import annotations

from robustreg.attacks.prior import Prior, PriorStart, PriorStep
from robustreg.losses import SmoothedCrossEntropy
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CODE = "the authors' code"
BENCHMARK = "FastAT Benchmark, arXiv 2604.22853"
PROTOCOL = "eps 8/255, 100 epochs, label smoothing 0.4 and weight averaging: clean, PGD-50, AutoAttack"
TRAINING: dict[str, object] = {
    "network": "ResNet-18",
    "eps": "8/255",
    "lam": 10,
    "decay": 0.3,
    "smoothing": "4/9, so that the label's target is 0.6 of 10 classes",
    "epochs": 110,
    "batch": 128,
    "learning rate": "0.1, a tenth after epochs 100 and 105",
    "weight decay": 5e-4,
}

CARD = Card(
    name="fgsm_pgi",
    title="adversarial training from the sample's own earlier perturbations, with agreement of start and end",
    citation=(
        "X. Jia, Y. Zhang, X. Wei, B. Wu, K. Ma, J. Wang, X. Cao, Prior-Guided Adversarial Initialization for Fast "
        "Adversarial Training, ECCV 2022, arXiv 2207.08859; code jiaxiaojunQAQ/FGSM-PGI"
    ),
    equations=(
        "delta = clip_eps(eta + eps sign g),  g = grad CE(x + eta),  x + delta clipped to the box",
        "mean CE(x + delta) + lam MSE(z(x + delta), z(x + eta)), the mean over samples and classes",
        "momentum (FGSM-MEP): m <- mu m + g / ||g||_1,  eta <- clip_eps(eta + eps sign m), clipped to the box",
        "epoch (FGSM-EP): eta <- delta;  batch (FGSM-BP): eta <- the delta of the last batch",
        "at first, and again after so many epochs, eta is random signs times eps and m = 0",
    ),
    settings=(
        Setting("CIFAR-10", {**TRAINING, "reset": 40}, CODE),
        Setting("CIFAR-100, TinyImageNet", {**TRAINING, "reset": 10}, CODE),
    ),
    published=(
        Published(f"CIFAR-10, ResNet-18, {PROTOCOL}", "79.72, 55.82, 49.89 %", True, BENCHMARK),
        Published(f"CIFAR-100, ResNet-18, {PROTOCOL}", "56.61, 31.85, 26.29 %", True, BENCHMARK),
        Published(f"TinyImageNet, PreActResNet-18, {PROTOCOL}", "47.89, 26.29, 19.55 %", True, BENCHMARK),
    ),
    changes=(
        "the default smoothing, 0.4, is the benchmark's; 4/9 is the code's for 10 classes",
        "the momentum's form and its constants are those of the code; that the paper has the epoch's and the batch's "
        "form beside it is recalled and was not seen",
        "a sample is forgotten after so many visits of its own, which are epochs where each epoch holds it once",
        "where samples are flipped or cropped at random, a remembered perturbation lands on another part of the "
        "picture, as in the code; without augmentation it does not",
        "the step is found in training mode, as in the code, and shares the penalty's forward at its start; with "
        "mode='eval' the start is run in both modes",
    ),
    compared=(
        Compared(
            "jiaxiaojunQAQ/FGSM-PGI, FGSM_MEP.py",
            2e-16,
            1e-12,
            "5 steps in turn; smoothing for a label's target of 0.6",
        ),
    ),
)


@described_by(CARD)
def fgsm_pgi(
    threat: Threat,
    lam: float = 10.0,
    *,
    prior: Prior = "momentum",
    decay: float = 0.3,
    reset: int | None = 40,
    smoothing: float = 0.4,
    mode: Mode = "train",
) -> Objective:
    """FGSM-PGI: the loss one step from the sample's earlier perturbation, and agreement of the logits with that start.

    It needs to know which samples a batch holds (not so ``prior="batch"``), and remembers up to two tensors of the size
    of the data.

    Args:
        threat: norm, radius and box.
        lam: weight of the mean squared difference of the logits.
        prior: ``"momentum"``, ``"epoch"`` or ``"batch"``: what a start is made from.
        decay: of the momentum.
        reset: forget a sample after so many visits; None never.
        smoothing: label smoothing, of the attack and of the loss.
        mode: the mode in which the step is found.
    """
    start = PriorStart(threat, prior, reset)
    step = PriorStep(threat, start, 1.0, decay, SmoothedCrossEntropy(smoothing), mode)
    return CrossEntropy(step, smoothing) + lam * Consistency(step, "mean_squared_logits", start)
