"""Small convolutional networks: one for the digits and MNIST on a CPU, and LeNet+."""

from __future__ import annotations

from torch import Tensor, nn

from .activations import activation as make_activation
from .initialisation import construction, initialise_
from .network import Network
from .normalize import Statistics


class _Sequential(Network):
    def __init__(
        self, input_shape: tuple[int | None, ...], layers: list[nn.Module], normalize: Statistics
    ) -> None:
        super().__init__(input_shape, normalize)
        self.layers = nn.Sequential(*layers)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the normalised input."""
        out: Tensor = self.layers(x)
        return out


class SmallConv(_Sequential):
    """Strided convolutions, one hidden linear layer."""


class LeNetPlus(_Sequential):
    """Two 5x5 convolutions with max-pooling, one hidden linear layer."""


def small_conv(
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: int = 8,
    width: int = 32,
    activation: str = "relu",
    normalize: Statistics = None,
    seed: int = 0,
) -> SmallConv:
    """Three 3x3 convolutions of `width`, 2 and 4 times `width` channels, a linear layer of 4 `width`, a
    linear one.

    159 626 parameters on 8x8 grey images, 356 234 on 28x28. The last two convolutions have stride 2, and on
    images larger than 16 pixels the first one as well. There is no max-pooling and no batch normalisation, so
    the network compiles with penalties of any order and treats each sample on its own. Ours.

    Args:
        in_channels: C of the images [C, image_size, image_size].
        num_classes: K.
        image_size: height and width.
        width: channels of the first convolution.
        activation: by name, see `ACTIVATIONS`.
        normalize: statistics of the first layer.
        seed: of the initial weights, PyTorch's default distribution.

    Returns:
        A network [B, C, H, W] -> [B, K].
    """
    channels = [in_channels, width, 2 * width, 4 * width]
    strides = [2 if image_size > 16 else 1, 2, 2]
    layers: list[nn.Module] = []
    size = image_size
    with construction(seed) as generator:
        for before, after, stride in zip(channels[:-1], channels[1:], strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), make_activation(activation)]
            size = -(-size // stride)
        layers += [
            nn.Flatten(),
            nn.Linear(channels[-1] * size * size, 4 * width),
            make_activation(activation),
        ]
        layers += [nn.Linear(4 * width, num_classes)]
        net = SmallConv((in_channels, image_size, image_size), layers, normalize)
        initialise_(net, generator)
    return net


def lenet_plus(
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: int = 28,
    activation: str = "relu",
    normalize: Statistics = None,
    seed: int = 0,
) -> LeNetPlus:
    """LeNet+: conv 5x5 of 32 and of 64 channels, each with 2x2 max-pooling, linear of 1024, linear.

    3 274 634 parameters on 28x28 grey images. Source: the MNIST network of Vivek and Babu, Regularizers for
    Single-step Adversarial Training, 2020 (their code), which is that of Madry et al. 2018. Max-pooling makes
    it unfit for `torch.compile` with penalties.

    Args:
        in_channels: C of the images [C, image_size, image_size].
        num_classes: K.
        image_size: height and width, at least 4.
        activation: by name, see `ACTIVATIONS`.
        normalize: statistics of the first layer.
        seed: of the initial weights, PyTorch's default distribution.

    Returns:
        A network [B, C, H, W] -> [B, K].
    """
    if image_size < 4:
        raise ValueError(f"lenet_plus halves images twice and needs at least 4x4 pixels, got {image_size}")
    with construction(seed) as generator:
        layers: list[nn.Module] = []
        for before, after in ((in_channels, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 5, padding=2), make_activation(activation), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(64 * (image_size // 4) ** 2, 1024), make_activation(activation)]
        layers += [nn.Linear(1024, num_classes)]
        net = LeNetPlus((in_channels, image_size, image_size), layers, normalize)
        initialise_(net, generator)
    return net
