"""Residual networks for small images: ResNet-18, PreActResNet-18, wide residual networks; CIFAR stems."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..registry import closest
from .activations import activation as make_activation
from .initialisation import construction, initialise_, kaiming
from .network import Network
from .normalize import Statistics

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(channels, 16), channels),
}
Block = Callable[[int, int, int, str, str], nn.Module]


def _norm(name: str, channels: int) -> nn.Module:
    if name not in NORMS:
        near = closest(str(name), NORMS)
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(f"unknown norm {name!r}; {hint}there are {', '.join(NORMS)}")
    return NORMS[name](channels)


def _conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """conv, norm, activation, conv, norm, plus the shortcut, activation. He et al., 2015."""

    def __init__(self, before: int, after: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(before, after, 3, stride), _norm(norm, after)
        self.conv2, self.norm2 = _conv(after, after, 3), _norm(norm, after)
        self.activation = make_activation(activation)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and before == after
            else nn.Sequential(_conv(before, after, 1, stride), _norm(norm, after))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H / stride, W / stride]."""
        out = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        result: Tensor = self.activation(out + self.shortcut(x))
        return result


class PreActBlock(nn.Module):
    """norm, activation, conv, twice, plus the shortcut. He et al., Identity Mappings, 2016.

    A shortcut that changes the shape starts after the first activation; any other is the raw input.
    """

    def __init__(self, before: int, after: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(norm, before), _conv(before, after, 3, stride)
        self.norm2, self.conv2 = _norm(norm, after), _conv(after, after, 3)
        self.activation = make_activation(activation)
        self.shortcut = None if stride == 1 and before == after else _conv(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H / stride, W / stride]."""
        ready = self.activation(self.norm1(x))
        carried = x if self.shortcut is None else self.shortcut(ready)
        out: Tensor = carried + self.conv2(self.activation(self.norm2(self.conv1(ready))))
        return out


@dataclass(frozen=True)
class Architecture:
    """What tells one residual network from another.

    Attributes:
        block: of every stage.
        stem: channels of the 3x3 convolution before the stages.
        widths: channels of each stage; all but the first stage halve the image.
        blocks: how many blocks each stage has.
        preact: blocks normalise their input, so the last output is normalised as well; otherwise the stem's
            is.
    """

    block: Block
    stem: int
    widths: tuple[int, ...]
    blocks: int
    preact: bool


class ResidualNetwork(Network):
    """Stem, stages of residual blocks, average pooling, a linear layer; images [C, H, W] of any size."""

    def __init__(
        self,
        plan: Architecture,
        in_channels: int,
        num_classes: int,
        activation: str,
        norm: str,
        normalize: Statistics,
    ) -> None:
        super().__init__((in_channels, None, None), normalize)
        after_stem = [] if plan.preact else [_norm(norm, plan.stem), make_activation(activation)]
        self.stem = nn.Sequential(_conv(in_channels, plan.stem, 3), *after_stem)
        channels = plan.stem
        blocks: list[nn.Module] = []
        for stage, width in enumerate(plan.widths):
            for position in range(plan.blocks):
                stride = 2 if stage and not position else 1
                blocks.append(plan.block(channels, width, stride, activation, norm))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        end = [_norm(norm, channels), make_activation(activation)] if plan.preact else []
        self.end = nn.Sequential(*end)
        self.linear = nn.Linear(channels, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the normalised input."""
        out: Tensor = self.linear(self.end(self.blocks(self.stem(x))).mean((2, 3)))
        return out


def resnet18(
    in_channels: int = 3,
    num_classes: int = 10,
    width: float = 1.0,
    activation: str = "relu",
    norm: str = "batch",
    normalize: Statistics = None,
    seed: int = 0,
) -> ResidualNetwork:
    """ResNet-18 with a 3x3 stem for small images, 11 173 962 parameters at width 1.

    Source: He et al., Deep Residual Learning, 2015, in the form usual on CIFAR.

    Args:
        in_channels: C of the images [C, H, W], of any size.
        num_classes: K.
        width: multiplies the channels 64, 128, 256, 512 of the stages.
        activation: by name, see `ACTIVATIONS`.
        norm: "batch", or "group", which treats each sample on its own and is cheaper under penalties.
        normalize: statistics of the first layer.
        seed: of the initial weights: convolutions N(0, 2 / fan_out), the rest PyTorch's default.

    Returns:
        A network [B, C, H, W] -> [B, K].
    """
    plan = Architecture(BasicBlock, *_channels(width), blocks=2, preact=False)
    with construction(seed) as generator:
        net = ResidualNetwork(plan, in_channels, num_classes, activation, norm, normalize)
        initialise_(net, generator, conv=kaiming)
    return net


def preact_resnet18(
    in_channels: int = 3,
    num_classes: int = 10,
    width: float = 1.0,
    activation: str = "relu",
    norm: str = "batch",
    normalize: Statistics = None,
    seed: int = 0,
) -> ResidualNetwork:
    """PreActResNet-18 with a 3x3 stem for small images, 11 172 170 parameters at width 1.

    Source: He et al., Identity Mappings, 2016, in the form of the adversarial training literature (Wong et
    al. 2020, Rice et al. 2020), with a normalisation before the pooling. Some code lacks that one and has
    1024 parameters less.

    Args:
        in_channels: C of the images [C, H, W], of any size.
        num_classes: K.
        width: multiplies the channels 64, 128, 256, 512 of the stages.
        activation: by name, see `ACTIVATIONS`.
        norm: "batch", or "group", which treats each sample on its own and is cheaper under penalties.
        normalize: statistics of the first layer.
        seed: of the initial weights: convolutions N(0, 2 / fan_out), the rest PyTorch's default.

    Returns:
        A network [B, C, H, W] -> [B, K].
    """
    plan = Architecture(PreActBlock, *_channels(width), blocks=2, preact=True)
    with construction(seed) as generator:
        net = ResidualNetwork(plan, in_channels, num_classes, activation, norm, normalize)
        initialise_(net, generator, conv=kaiming)
    return net


def wide_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    depth: int = 28,
    width: int = 10,
    activation: str = "relu",
    norm: str = "batch",
    normalize: Statistics = None,
    seed: int = 0,
) -> ResidualNetwork:
    """A wide residual network WRN-depth-width: 36 479 194 parameters for 28-10, 46 160 474 for 34-10.

    Source: Zagoruyko and Komodakis, Wide Residual Networks, 2016, without dropout, as in TRADES (Zhang et al.
    2019).

    Args:
        in_channels: C of the images [C, H, W], of any size.
        num_classes: K.
        depth: 6 n + 4 for n blocks in each of the three stages.
        width: multiplies the channels 16, 32, 64 of the stages; the stem keeps 16.
        activation: by name, see `ACTIVATIONS`.
        norm: "batch", or "group", which treats each sample on its own and is cheaper under penalties.
        normalize: statistics of the first layer.
        seed: of the initial weights: convolutions N(0, 2 / fan_out), the rest PyTorch's default.

    Returns:
        A network [B, C, H, W] -> [B, K].

    Raises:
        ValueError: a depth that is not 6 n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"the depth of a wide_resnet must be 6 n + 4 (10, 16, 22, 28, 34, ...), got {depth}")
    plan = Architecture(
        PreActBlock, 16, (16 * width, 32 * width, 64 * width), blocks=(depth - 4) // 6, preact=True
    )
    with construction(seed) as generator:
        net = ResidualNetwork(plan, in_channels, num_classes, activation, norm, normalize)
        initialise_(net, generator, conv=kaiming)
    return net


def _channels(width: float) -> tuple[int, tuple[int, ...]]:
    """Stem and stages of the 18-layer networks, their 64, 128, 256, 512 channels times `width`."""
    if not width > 0:
        raise ValueError(f"width multiplies the channels and must be above 0, got {width}")
    base = max(1, round(64 * width))
    return base, (base, 2 * base, 4 * base, 8 * base)
