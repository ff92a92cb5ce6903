"""One backward of a loss for both of its gradients: by the input, and by the parameters.

Single-step methods need the clean loss twice: its input gradient, to find the adversarial point, and its parameter
gradient, when the objective trains on the clean sample as well. Both come out of one backward. The parameter gradient
is kept, and the loss enters the objective as a value whose own backward hands it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ParameterGradient:
    """The gradient of a sum of losses by every leaf that it depends on, beside the coordinates.

    Attributes:
        leaves: parameters, or whatever else the loss depends on.
        gradients: one for each.
    """

    leaves: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def added(self, value: Tensor, summand: Tensor, factor: float, count: Tensor | int) -> Tensor:
        """``value`` with a gradient more: that of ``summand``, the sum of the losses times ``factor / count``."""
        apply: Any = _Added.apply
        with_gradient: Tensor = apply((summand, factor, count, self), value, *self.leaves)
        return with_gradient


class _Added(torch.autograd.Function):
    """The identity, with a known gradient beside; where that is differentiated again, its graph is traversed."""

    @staticmethod
    def forward(
        ctx: Any, what: tuple[Tensor, float, Tensor | int, ParameterGradient], value: Tensor, *_: Tensor
    ) -> Tensor:
        # the summand comes in a tuple, hidden from autograd: its own graph is not to be traversed
        ctx.summand, ctx.factor, ctx.count, ctx.known = what
        return value.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph=True
            return None, g, *torch.autograd.grad(ctx.summand, ctx.known.leaves, g, create_graph=True)
        share = g * ctx.factor / ctx.count
        return None, g, *((share * gradient).to(gradient.dtype) for gradient in ctx.known.gradients)


def parameter_gradient(losses: Tensor, u: Tensor) -> tuple[Tensor, ParameterGradient]:
    """The gradient of ``losses.sum()`` by the coordinates ``u``, and by everything else; the graph stays.

    Raises:
        ValueError: the losses do not depend on the coordinates.
    """
    total = losses.sum()
    leaves = tuple(leaf for leaf in _leaves(total) if leaf is not u)
    g, *gradients = torch.autograd.grad(total, (u, *leaves), retain_graph=True, allow_unused=True)
    if g is None:
        raise ValueError(NO_GRADIENT)
    # a layer's own backward may give some of its parameters nothing
    reached = [(leaf, own) for leaf, own in zip(leaves, gradients, strict=True) if own is not None]
    return g, ParameterGradient(tuple(leaf for leaf, _ in reached), tuple(own for _, own in reached))


def _leaves(value: Tensor) -> list[Tensor]:
    """The leaves of a value's graph, each once, in the order in which a walk finds them."""
    found: list[Tensor] = []
    seen = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.append(leaf)
        waiting.extend(following for following, _ in node.next_functions)
    return found


NO_GRADIENT = (
    "there is no gradient from the loss to the model's input: the logits do not depend on it through "
    "differentiable operations"
)
