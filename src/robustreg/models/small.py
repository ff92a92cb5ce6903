"""Small convolutional networks: one for the digits and MNIST on a CPU, and those of papers on MNIST."""

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


class StridedConv(_Sequential):
    """Two strided 4x4 convolutions, one hidden linear layer."""


class FourConv(_Sequential):
    """Twice two 3x3 convolutions and max-pooling, two hidden linear layers with dropout between them."""


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


def strided_conv(
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: int = 28,
    activation: str = "relu",
    normalize: Statistics = None,
    seed: int = 0,
) -> StridedConv:
    """Convolutions 4x4 of stride 2 with 16 and 32 channels, linear of 100, linear; 166 406 parameters on MNIST.

    Source: the MNIST network of Wong, Rice and Kolter, Fast is better than free, 2020 (their code).

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
        raise ValueError(f"strided_conv halves images twice and needs at least 4x4 pixels, got {image_size}")
    with construction(seed) as generator:
        layers: list[nn.Module] = []
        for before, after in ((in_channels, 16), (16, 32)):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), make_activation(activation)]
        layers += [nn.Flatten(), nn.Linear(32 * (image_size // 4) ** 2, 100), make_activation(activation)]
        layers += [nn.Linear(100, num_classes)]
        net = StridedConv((in_channels, image_size, image_size), layers, normalize)
        initialise_(net, generator)
    return net


def four_conv(
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: int = 28,
    dropout: float = 0.5,
    activation: str = "relu",
    normalize: Statistics = None,
    seed: int = 0,
) -> FourConv:
    """Convolutions 3x3 of 32, 32, 64 and 64 channels, linear of 200 and 200, linear; 312 202 parameters on MNIST.

    Convolutions are not padded; 2x2 max-pooling follows the second and the fourth, dropout the first linear
    layer. Source: the MNIST network of Carlini and Wagner 2017, in the form of TRADES (Zhang et al. 2019), whose
    code starts the convolutions from N(0, 2 / fan_in) and the last layer from zero. Max-pooling makes it unfit for
    `torch.compile` with penalties.

    Args:
        in_channels: C of the images [C, image_size, image_size].
        num_classes: K.
        image_size: height and width, at least 16.
        dropout: share of the first linear layer's outputs that are dropped in training.
        activation: by name, see `ACTIVATIONS`.
        normalize: statistics of the first layer.
        seed: of the initial weights, PyTorch's default distribution.

    Returns:
        A network [B, C, H, W] -> [B, K].
    """
    if image_size < 16:
        raise ValueError(f"four_conv needs images of at least 16x16 pixels, got {image_size}")
    with construction(seed) as generator:
        layers: list[nn.Module] = []
        for before, after in ((in_channels, 32), (32, 64)):
            for channels in (before, after):
                layers += [nn.Conv2d(channels, after, 3), make_activation(activation)]
            layers += [nn.MaxPool2d(2)]
        size = ((image_size - 4) // 2 - 4) // 2
        layers += [nn.Flatten(), nn.Linear(64 * size**2, 200), make_activation(activation)]
        layers += [nn.Dropout(dropout), nn.Linear(200, 200), make_activation(activation)]
        layers += [nn.Linear(200, num_classes)]
        net = FourConv((in_channels, image_size, image_size), layers, normalize)
        initialise_(net, generator)
    return net
