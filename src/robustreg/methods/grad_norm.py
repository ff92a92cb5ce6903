"""Robustness from natural input gradients: GradNorm for smooth networks (Rodriguez-Munoz, Wang & Torralba 2024)."""

from __future__ import annotations

import warnings

from torch import nn

from robustreg.losses import Loss, SmoothedCrossEntropy
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.gradient import Estimator, GradientNorm
from robustreg.points import CLEAN, Point, Uniform
from robustreg.schedules import Ramp
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CITATION = (
    "A. Rodriguez-Munoz, T. Wang, A. Torralba, Characterizing Model Robustness via Natural Input Gradients, ECCV "
    "2024, arXiv 2409.20139; code adriarm/robustness_input_gradients"
)

CARD = Card(
    name="grad_norm",
    title="the dual norm of the input gradient on natural samples, for networks with smooth activations",
    citation=CITATION,
    equations=(
        "w_ce CE(f(x), y) + w_gn a(t) eps mean_i ||g_i||_1,  g_i = grad_{x_i} CE(f(x_i), y_i)",
        "a(t) = min(t / 5 epochs, 1);  w_ce = w_gn = 1 is the linearised adversarial loss; w_ce + w_gn = 2 throughout",
    ),
    settings=(
        Setting(
            "ImageNet",
            {
                "network": "Swin-B from a natural checkpoint",
                "eps": "4/255",
                "w_ce": 0.8,
                "w_gn": 1.2,
                "epochs": 100,
                "optimizer": "AdamW, weight decay 0.05, 0.625e-3 per 512 samples, cosine, clip 1.0",
                "augmentation": "RandAugment, mixup 0.8, cutmix 1.0, erasing 0.25, label smoothing 0.1",
                "weights": "average with decay 0.9998",
                "mode": "eval for the whole of training",
            },
            "the authors' code",
        ),
        Setting(
            "CIFAR-10",
            {
                "network": "PreActResNet-18 with GELU, from a natural checkpoint",
                "eps": "4/255, not 8/255",
                "w_ce": 0.8,
                "w_gn": 1.2,
                "epochs": 300,
                "batch": 128,
            },
            "the authors' code",
        ),
        Setting(
            "other trade-offs, w_ce / w_gn", {"pairs": "1.2/0.8, 1/1, 0.8/1.2, 0.5/1.5"}, "the authors' code"
        ),
    ),
    published=(
        Published(
            "ImageNet, Swin-B, eps 4/255: clean, AutoAttack", "77.78, 51.58 %", True, "the authors' README"
        ),
        Published("ImageNet, Swin-L", "79.36, 53.82 %", True, "the authors' model list"),
        Published("ImageNet, ResNet-50 with GELU", "60.34, 30.00 %", True, "the authors' README"),
        Published(
            "ReLU to GELU, AutoAttack", "about +23 points (adversarial training: +1)", True, "project page"
        ),
    ),
    changes=(
        "eps is in pixels; the authors differentiate with respect to the normalised input and divide eps by 0.225",
        "labels are classes: mixup and cutmix targets are not supported, label smoothing is",
        "the network is run as its owner set it; mode='eval' is the authors' ImageNet script, which keeps BatchNorm's "
        "statistics of the natural checkpoint",
        "with ReLU the second derivative is 0 almost everywhere and only the size of the weights can be learnt from: "
        "warn_if_relu(net) says so, and estimator='forward' gives such networks a usable signal",
        "the edge-alignment variant is a method of its own, edge_reg",
    ),
    compared=(
        Compared(
            "adriarm/robustness_input_gradients",
            2e-16,
            5e-13,
            "inputs that are not normalised, after the warm-up",
        ),
    ),
)


@described_by(CARD)
def grad_norm(
    threat: Threat,
    w_ce: float = 0.8,
    w_gn: float = 1.2,
    *,
    warmup: float = 0.05,
    smoothing: float = 0.0,
    noise: float = 0.0,
    estimator: Estimator = "double",
    mode: Mode = "train",
) -> Objective:
    """GradNorm: ``w_ce CE + w_gn a(t) eps ||grad CE||_{p*}`` on natural samples.

    Args:
        threat: norm and radius.
        w_ce: weight of the loss.
        w_gn: weight of the gradient's norm; the authors keep ``w_ce + w_gn = 2``.
        warmup: share of training over which the second weight grows linearly from 0; 0 for none.
        smoothing: of the labels, for the loss and for the gradient.
        noise: radius of a uniform random start as a multiple of ``eps``, where both are taken; 0 for the sample.
        estimator: how the norm is differentiated.
        mode: the mode in which the network is run.
    """
    at: Point = Uniform(threat, scale=noise) if noise else CLEAN
    loss: Loss = SmoothedCrossEntropy(smoothing) if smoothing else "ce"
    penalty = GradientNorm(threat, estimator=estimator, at=at, loss=loss, mode=mode)
    weight = Ramp(0.0, w_gn, warmup) if warmup else w_gn
    return w_ce * CrossEntropy(at, smoothing, mode) + weight * penalty


_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)


def warn_if_relu(net: nn.Module) -> bool:
    """Warn if a network has piecewise linear activations, under which a double backward of the gradient learns little.

    Finds modules only; a network that calls ``torch.relu`` in its forward is not noticed.

    Returns:
        Whether there are any.
    """
    kinds = sorted({type(m).__name__ for m in net.modules() if isinstance(m, _KINKED)})
    if kinds:
        warnings.warn(
            f"the network has piecewise linear activations ({', '.join(kinds)}), whose second derivative is 0: "
            "penalties on input gradients train much better with GELU, SiLU or Softplus, or with "
            "estimator='forward'",
            stacklevel=2,
        )
    return bool(kinds)
