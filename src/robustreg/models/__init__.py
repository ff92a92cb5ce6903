"""Networks by name: `[B, ...]` in pixel scale 0-1 to logits `[B, K]`, normalisation as their first layer.

net = build("small_conv", shape=(1, 28, 28), activation="silu", normalize="mnist", seed=0)
"""

from __future__ import annotations

from .activations import ACTIVATIONS, activation
from .catalogue import NAMES, build, count_parameters
from .maxout import maxout_conv, maxout_mlp
from .mlp import mlp
from .normalize import STATISTICS, Normalize
from .resnet import preact_resnet18, resnet18, wide_resnet
from .small import four_conv, lenet_plus, small_conv, strided_conv

__all__ = [
    "ACTIVATIONS",
    "NAMES",
    "STATISTICS",
    "Normalize",
    "activation",
    "build",
    "count_parameters",
    "four_conv",
    "lenet_plus",
    "maxout_conv",
    "maxout_mlp",
    "mlp",
    "preact_resnet18",
    "resnet18",
    "small_conv",
    "strided_conv",
    "wide_resnet",
]
