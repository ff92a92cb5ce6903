"""Activation functions by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..registry import closest

# Never in place: an attack or a penalty may need the values that an in-place function would overwrite.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def activation(name: str) -> nn.Module:
    """A new activation module.

    Penalties that differentiate twice are exact with every one of them, but ReLU and leaky ReLU have no
    curvature of their own: what a curvature penalty sees there comes from the loss alone.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ACTIVATIONS:
        near = closest(str(name), ACTIVATIONS)
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(f"unknown activation {name!r}; {hint}there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
