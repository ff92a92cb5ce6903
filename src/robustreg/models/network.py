"""What all networks here share: normalisation first, and a clear word about inputs of the wrong shape."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor, nn

from .normalize import Statistics, normalization


class Network(nn.Module, ABC):
    """Maps `x` [B, *shape] in pixel scale 0-1 to logits [B, K]; subclasses define `logits`.

    Attributes:
        input_shape: of one sample; None stands for any size.
        normalize: the first layer.
    """

    def __init__(self, input_shape: tuple[int | None, ...], normalize: Statistics) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.normalize = normalization(normalize)
        means = getattr(self.normalize, "mean", ())
        if len(input_shape) == 3 and len(means) > 1 and len(means) != input_shape[0]:
            raise ValueError(
                f"normalize={normalize!r} has {len(means)} channels, the model has {input_shape[0]}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K].

        Raises:
            ValueError: `x` does not have the shape that the network was made for.
        """
        if not self.accepts(tuple(x.shape[1:])):
            expected = ", ".join("any" if n is None else str(n) for n in self.input_shape)
            raise ValueError(f"{type(self).__name__} takes inputs [B, {expected}], got {list(x.shape)}")
        return self.logits(self.normalize(x))

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether samples of this shape can go in."""
        if len(shape) != len(self.input_shape):
            return False
        return all(wanted is None or n == wanted for n, wanted in zip(shape, self.input_shape, strict=True))

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the normalised input."""


class FlatNetwork(Network):
    """A network on vectors: inputs of any shape with the right number of values are flattened."""

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether samples of this shape have as many values as there are input units."""
        return math.prod(shape) == self.input_shape[0]
