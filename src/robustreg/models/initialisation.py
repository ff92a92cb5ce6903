"""Initial weights from a generator of their own, with the global random state left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

Scheme = Callable[[Tensor, Generator], None]


@contextmanager
def construction(seed: int) -> Iterator[Generator]:
    """Build layers inside, on the CPU, and initialise them from the generator that this gives.

    PyTorch's layers draw initial weights from the global generator while they are made; that is put back
    afterwards, whatever happens. Inside it is seeded too, so that a user's own layers are reproducible as
    well.
    """
    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        with torch.device("cpu"):
            yield Generator().manual_seed(seed)
    finally:
        torch.default_generator.set_state(state)


def torch_default(weight: Tensor, generator: Generator) -> None:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what PyTorch itself gives linear and convolutional layers."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def kaiming(weight: Tensor, generator: Generator) -> None:
    """N(0, 2 / fan_out). He et al., Delving Deep into Rectifiers, 2015."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)


def uniform(limit: float) -> Scheme:
    """U(-limit, limit) for every weight."""

    def draw(weight: Tensor, generator: Generator) -> None:
        nn.init.uniform_(weight, -limit, limit, generator=generator)

    return draw


def initialise_(
    net: nn.Module,
    generator: Generator,
    conv: Scheme = torch_default,
    linear: Scheme = torch_default,
    zero_bias: bool = False,
) -> None:
    """Initialise every linear and convolutional layer in order of definition; norm layers are 1 and 0
    already.

    Args:
        net: the network, changed in place.
        generator: all draws come from it.
        conv: for the weights of convolutions.
        linear: for the weights of linear layers.
        zero_bias: zeros, instead of PyTorch's U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    """
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            (linear if isinstance(layer, nn.Linear) else conv)(layer.weight, generator)
            if layer.bias is not None:
                limit = 0.0 if zero_bias else 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.bias, -limit, limit, generator=generator)
