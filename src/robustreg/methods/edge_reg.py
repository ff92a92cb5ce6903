"""Robustness from gradients that look like edges: EdgeReg (Rodriguez-Munoz, Wang & Torralba 2024)."""

from __future__ import annotations

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.grad_norm import CITATION
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.edges import EdgeAlignment
from robustreg.schedules import Ramp
from robustreg.terms import CrossEntropy

CARD = Card(
    name="edge_reg",
    title="natural training with a logit gradient that is shaped like the image's edges",
    citation=CITATION,
    equations=(
        "c ~ softmax(z / T),  s = grad_x z_c,  e(x) = G * ||Sobel(G * x)||_2",
        "mean CE(f(x), y) + a(t) MSE(s / rms(s), e / rms(e))",
        "a(t) = min(1 + 0.09 epoch, 19)",
    ),
    settings=(
        Setting(
            "ImageNet",
            {"network": "Swin-B", "epochs": 100, "T": 0.5, "sigma": 1, "a": "1 to 10"},
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "ImageNet, Swin-B, eps 4/255: clean, AutoAttack", "76.80, 35.02 %", True, "the authors' README"
        ),
    ),
    changes=(
        "the gradient is that of pixels; the authors differentiate with respect to the normalised input, which weights "
        "the channels by their standard deviations",
        "the weight is a function of progress: 1 to 10 over training, as in the authors' 100 epochs",
        "mixup and cutmix, part of the authors' recipe, are not",
    ),
    compared=(
        Compared(
            "adriarm/robustness_input_gradients",
            5e-16,
            8e-13,
            "inputs that are not normalised; the code's filters in float64",
        ),
    ),
)


@described_by(CARD)
def edge_reg(
    start: float = 1.0,
    end: float = 10.0,
    *,
    temperature: float = 0.5,
    sigma: float = 1.0,
    mode: Mode = "train",
) -> Objective:
    """EdgeReg: cross-entropy plus the squared distance of the normalised logit gradient from the image's edges.

    Args:
        start: weight of the penalty at the start of training.
        end: weight at its end, linear in between.
        temperature: of the class whose logit is differentiated.
        sigma: variance of the blur.
        mode: the mode in which the network is run.
    """
    return CrossEntropy(mode=mode) + Ramp(start, end) * EdgeAlignment(temperature, sigma, mode=mode)
