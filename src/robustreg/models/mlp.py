"""Multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .activations import activation as make_activation
from .initialisation import construction, initialise_
from .network import FlatNetwork
from .normalize import Statistics


class MLP(FlatNetwork):
    """Linear layers with an activation between them."""

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        num_classes: int,
        activation: str,
        norm: str | None,
        normalize: Statistics,
    ) -> None:
        super().__init__((in_features,), normalize)
        sizes = [in_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            normed = [] if norm is None else [nn.BatchNorm1d(after)]
            layers += [nn.Linear(before, after), *normed, make_activation(activation)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the normalised input."""
        out: Tensor = self.layers(x.flatten(1))
        return out


def mlp(
    in_features: int = 784,
    num_classes: int = 10,
    hidden: Sequence[int] = (1200, 1200),
    activation: str = "relu",
    norm: str | None = None,
    normalize: Statistics = None,
    seed: int = 0,
) -> MLP:
    """A perceptron `in_features -> hidden ... -> num_classes`.

    The defaults are the 784-1200-1200-10 network of permutation-invariant MNIST, 2 395 210 parameters; with
    `activation="sigmoid"` it stands for the sigmoid MLP of the gradient regularisation family (Lyu, Huang,
    Liang, ICDM 2015), whose own sizes are not known.

    Args:
        in_features: values in one sample; inputs [B, ...] of any shape with so many are flattened.
        num_classes: K.
        hidden: units of each hidden layer; empty gives softmax regression.
        activation: by name, see `ACTIVATIONS`.
        norm: "batch" normalises before every activation; None does not.
        normalize: statistics of the first layer.
        seed: of the initial weights, PyTorch's default distribution.

    Returns:
        A network [B, ...] -> [B, K].

    Raises:
        ValueError: another norm.
    """
    if norm not in (None, "batch"):
        raise ValueError(f"the norm of an mlp must be 'batch' or None, got {norm!r}")
    with construction(seed) as generator:
        net = MLP(in_features, hidden, num_classes, activation, norm, normalize)
        initialise_(net, generator)
    return net
