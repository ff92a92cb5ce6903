"""Maxout networks with dropout and limited column norms, as their authors configured them.

Source: Goodfellow et al., Maxout Networks, 2013, by its published pylearn2 configurations. They are the
networks of the gradient regularisation family (Lyu, Huang, Liang, ICDM 2015). After each optimiser step the
weights are put back into their norm balls: call `net.constrain_()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..registry import closest
from .initialisation import construction, initialise_, uniform
from .network import FlatNetwork, Network
from .normalize import Statistics

INITIAL = 0.005  # weights start in U(-.005, .005), biases at 0
COLUMN_NORM = 1.9365


class Dropout(nn.Module):
    """Keep each value with probability `keep`, times `scale`; evaluation mode changes nothing.

    PyTorch's own dropout has `scale = 1 / keep`. Maxout networks keep .8 of their input with scale 1, so that
    the input is not rescaled, and .5 elsewhere with scale 2.
    """

    def __init__(self, keep: float, scale: float) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"dropout must keep a fraction in (0, 1], got {keep}")
        self.keep, self.scale = keep, scale

    def forward(self, x: Tensor) -> Tensor:
        """Drop values, each sample and value on its own."""
        if not self.training or self.keep == 1:
            return x
        return x * torch.rand_like(x).lt(self.keep).to(x.dtype).mul(self.scale)

    def extra_repr(self) -> str:
        """Show both numbers when the model is printed."""
        return f"keep={self.keep}, scale={self.scale}"


class LimitedLinear(nn.Linear):
    """A linear layer whose incoming weights of each output can be limited in norm."""

    def __init__(self, in_features: int, out_features: int, max_norm: float | None) -> None:
        super().__init__(in_features, out_features)
        self.max_norm = max_norm

    def constrain_(self) -> None:
        """Scale every column that is longer than `max_norm` back to it."""
        limit_columns_(self.weight, self.max_norm)


class MaxoutLinear(LimitedLinear):
    """`units` outputs [B, units], each the maximum of `pieces` linear functions of the input [B, D]."""

    def __init__(self, in_features: int, units: int, pieces: int, max_norm: float | None) -> None:
        super().__init__(in_features, units * pieces, max_norm)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Maximum over the pieces of each unit."""
        return torch.unflatten(super().forward(x), 1, (-1, self.pieces)).amax(2)


class MaxoutConv2d(nn.Conv2d):
    """`channels` maps, each the pointwise maximum of `pieces` convolutions of the input [B, C, H, W]."""

    def __init__(
        self, in_channels: int, channels: int, pieces: int, kernel: int, padding: int, max_norm: float | None
    ) -> None:
        super().__init__(in_channels, channels * pieces, kernel, padding=padding)
        self.pieces = pieces
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        """Maximum over the pieces of each channel."""
        return torch.unflatten(super().forward(x), 1, (-1, self.pieces)).amax(2)

    def constrain_(self) -> None:
        """Scale every kernel that is longer than `max_norm` back to it."""
        limit_columns_(self.weight, self.max_norm)


@torch.no_grad()
def limit_columns_(weight: Tensor, max_norm: float | None) -> None:
    """Scale each output's incoming weights `weight[i]` to an l2 norm of at most `max_norm`, in place.

    pylearn2 stores the transpose, whence "column".
    """
    if max_norm is None:
        return
    norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    scale = torch.where(norms > max_norm, max_norm / norms, 1.0)
    weight.mul_(scale.view(-1, *[1] * (weight.ndim - 1)))


class _Constrained(Network):
    """Gives a network of limited layers its `constrain_`."""

    @property
    def max_column_norm(self) -> float | None:
        """The largest limit of any layer, None when no layer has one."""
        limits = [layer.max_norm for layer in self._limited() if layer.max_norm is not None]
        return max(limits, default=None)

    def constrain_(self) -> None:
        """Put the weights of every layer back into its norm ball; to be called after each optimiser step."""
        for layer in self._limited():
            layer.constrain_()

    def _limited(self) -> list[LimitedLinear | MaxoutConv2d]:
        return [layer for layer in self.modules() if isinstance(layer, (LimitedLinear, MaxoutConv2d))]


class MaxoutMLP(FlatNetwork, _Constrained):
    """Two or more maxout layers, dropout before each layer, and a linear one."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        units: int,
        pieces: int,
        depth: int,
        input_keep: float,
        hidden_keep: float,
        max_column_norm: float | None,
        normalize: Statistics,
    ) -> None:
        super().__init__((in_features,), normalize)
        layers: list[nn.Module] = [Dropout(input_keep, 1.0)]
        for size in [in_features, *[units] * (depth - 1)]:
            layers += [
                MaxoutLinear(size, units, pieces, max_column_norm),
                Dropout(hidden_keep, 1 / hidden_keep),
            ]
        self.layers = nn.Sequential(*layers, LimitedLinear(units, num_classes, max_column_norm))

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the normalised input."""
        out: Tensor = self.layers(x.flatten(1))
        return out


def maxout_mlp(
    in_features: int = 784,
    num_classes: int = 10,
    units: int = 240,
    pieces: int = 5,
    depth: int = 2,
    input_keep: float = 0.8,
    hidden_keep: float = 0.5,
    max_column_norm: float | None = COLUMN_NORM,
    normalize: Statistics = None,
    seed: int = 0,
) -> MaxoutMLP:
    """The maxout network of permutation-invariant MNIST, 784 -> 240x5 -> 240x5 -> 10, 1 233 610 parameters.

    Source: pylearn2's configuration of Goodfellow et al. 2013 (0.94 % test error); the baseline of Lyu et al.
    2015, Table I. Raw pixels 0-1, no normalisation.

    Args:
        in_features: values in one sample; inputs [B, ...] of any shape with so many are flattened.
        num_classes: K.
        units: outputs of each hidden layer.
        pieces: linear functions that each output is the maximum of.
        depth: hidden layers.
        input_keep: fraction of the input that dropout keeps in training, with scale 1.
        hidden_keep: the same for the hidden layers, with scale 1 / hidden_keep. 1 switches dropout off.
        max_column_norm: limit that `constrain_` puts on each linear function's weights; None for no limit.
        normalize: statistics of the first layer.
        seed: of the initial weights, U(-.005, .005); biases are 0.

    Returns:
        A network [B, ...] -> [B, K].
    """
    with construction(seed) as generator:
        net = MaxoutMLP(
            in_features,
            num_classes,
            units,
            pieces,
            depth,
            input_keep,
            hidden_keep,
            max_column_norm,
            normalize,
        )
        initialise_(net, generator, linear=uniform(INITIAL), zero_bias=True)
    return net


@dataclass(frozen=True)
class Stage:
    """A maxout convolution and its max-pooling."""

    channels: int
    pieces: int
    kernel: int
    padding: int
    pool: int
    stride: int
    max_norm: float

    def out(self, size: int) -> int:
        """Height and width after this stage; windows that start inside the image count, as in pylearn2."""
        return -(-(size + 2 * self.padding - self.kernel + 1 - self.pool) // self.stride) + 1


# Stages, then (units, pieces, column norm) of a dense maxout layer where the configuration has one.
CONFIGURATIONS: dict[str, tuple[tuple[Stage, ...], tuple[int, int, float] | None]] = {
    "mnist": (
        (
            Stage(48, 2, 8, 0, 4, 2, 0.9),
            Stage(48, 2, 8, 3, 4, 2, COLUMN_NORM),
            Stage(24, 4, 5, 3, 2, 2, COLUMN_NORM),
        ),
        None,
    ),
    "cifar10": (
        (
            Stage(48, 2, 8, 4, 4, 2, 0.9),
            Stage(128, 2, 8, 3, 4, 2, COLUMN_NORM),
            Stage(128, 2, 5, 3, 2, 2, COLUMN_NORM),
        ),
        (240, 5, 1.9),
    ),
}


class MaxoutConv(_Constrained):
    """Maxout convolutions with max-pooling, dropout before each layer, and a linear one."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        config: str,
        input_keep: float,
        hidden_keep: float,
        normalize: Statistics,
    ) -> None:
        super().__init__((in_channels, image_size, image_size), normalize)
        stages, dense = CONFIGURATIONS[config]
        layers: list[nn.Module] = []
        channels, size = in_channels, image_size
        for s in stages:
            layers += [self._dropout(layers, input_keep, hidden_keep)]
            layers += [MaxoutConv2d(channels, s.channels, s.pieces, s.kernel, s.padding, s.max_norm)]
            layers += [nn.MaxPool2d(s.pool, s.stride, ceil_mode=True)]
            channels, size = s.channels, s.out(size)
            if size < 1:
                raise ValueError(
                    f"images of {image_size}x{image_size} are too small for maxout_conv {config!r}"
                )
        features = channels * size * size
        layers += [nn.Flatten(), self._dropout(layers, input_keep, hidden_keep)]
        if dense is not None:
            units, pieces, max_norm = dense
            layers += [MaxoutLinear(features, units, pieces, max_norm)]
            layers += [self._dropout(layers, input_keep, hidden_keep)]
            features = units
        self.layers = nn.Sequential(*layers, LimitedLinear(features, num_classes, COLUMN_NORM))

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the normalised input."""
        out: Tensor = self.layers(x)
        return out

    @staticmethod
    def _dropout(before: list[nn.Module], input_keep: float, hidden_keep: float) -> Dropout:
        return Dropout(hidden_keep, 1 / hidden_keep) if before else Dropout(input_keep, 1.0)


def maxout_conv(
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: int = 28,
    config: str = "mnist",
    input_keep: float = 0.8,
    hidden_keep: float = 0.5,
    normalize: Statistics = None,
    seed: int = 0,
) -> MaxoutConv:
    """The convolutional maxout networks of MNIST (0.45 % test error) and CIFAR-10 ("small", 12.93 %).

    Source: pylearn2's configurations of Goodfellow et al. 2013; the baselines of Lyu et al. 2015, Tables II
    and III. On CIFAR-10 their inputs were contrast-normalised and whitened, and the convolutions learned at
    0.05 times the rate of the other layers. Max-pooling makes these networks unfit for `torch.compile` with
    penalties.

    Args:
        in_channels: C of the images [C, image_size, image_size].
        num_classes: K.
        image_size: height and width.
        config: "mnist" (418 714 parameters) or "cifar10" (5 468 282 with 3 channels of 32x32).
        input_keep: fraction of the input that dropout keeps in training, with scale 1.
        hidden_keep: the same before the other layers, with scale 1 / hidden_keep. 1 switches dropout off.
        normalize: statistics of the first layer.
        seed: of the initial weights, U(-.005, .005); biases are 0.

    Returns:
        A network [B, C, H, W] -> [B, K].
    """
    if config not in CONFIGURATIONS:
        near = closest(str(config), CONFIGURATIONS)
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(
            f"unknown config {config!r} of maxout_conv; {hint}there are {', '.join(CONFIGURATIONS)}"
        )
    with construction(seed) as generator:
        net = MaxoutConv(in_channels, num_classes, image_size, config, input_keep, hidden_keep, normalize)
        draw = uniform(INITIAL)
        initialise_(net, generator, conv=draw, linear=draw, zero_bias=True)
    return net
