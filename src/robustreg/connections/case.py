"""A case: a network and some samples, with what the claims speak of, each computed once, in float64.

Derivatives here are taken by autograd, one row of the Jacobian after another, where the operators use ``torch.func``:
claims should hold on networks with any ``autograd.Function``, of which ``torch.func`` takes only the newer form, and
its ``vmap`` over the rows was faster on small networks only and twice as slow on a convolutional one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustreg.losses import check_labels
from robustreg.modes import running
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.streams import Stream
from robustreg.terms import Term
from robustreg.threat import Threat


@dataclass(frozen=True, eq=False)
class Displaced(Point):
    """The end of a case's displacement."""

    end: Tensor

    def content_key(self) -> str:
        """Its displacement names no random stream."""
        return "Displaced()"

    def locate(self, probe: Probe) -> Tensor:
        """``x + d``."""
        return self.end


class TwiceDifferentiable(nn.Module):
    """A network by operations that have second derivatives.

    Attention is computed by its definition, as faster kernels are not differentiated twice; neither is PyTorch's
    ``hardsigmoid``, whose first derivative is one of float32 besides. Constant logits get a graph to the input.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH), _ByRelu6():
            logits: Tensor = self.net(x)
        if x.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            logits = logits + 0.0 * x.flatten(1).sum(1, keepdim=True)
        return logits


class _ByRelu6(TorchFunctionMode):
    """``hardsigmoid(x) = relu6(x + 3) / 6``."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.hardsigmoid:
            return torch.nn.functional.relu6(args[0] + 3.0) / 6.0
        return func(*args, **(kwargs or {}))


class Changed(nn.Module):
    """A function of another network's logits and of its inputs."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        """The changed logits."""
        return self.change(self.net(x), x)


@dataclass
class Case:
    """A network in evaluation mode and float64, and labelled samples.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, C]``. A float64 copy is used; the network itself is left alone. One
            logit ``f``, positive for class 1, is read as the two logits ``(0, f)``: their cross-entropy is its
            logistic loss.
        x: samples ``[B, ...]``.
        y: labels ``[B]``, all there.
        threat: norm and radius of claims that speak of a ball.
        radius: the largest l2 length of the displacement ``d`` of claims that speak of a segment or of an order.
        seed: of the random directions.

    Raises:
        TypeError, ValueError: labels that are not class numbers of the network, one for each sample; logits that are
            not finite or not ``[B, C]``; a network with an operation that has no second derivative.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat = field(default_factory=lambda: Threat("linf", 0.1, bounds=None))
    radius: float = 1e-2
    seed: int = 0
    _measured: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_labels(self.x, self.y)
        if not len(self.x):
            raise ValueError("the claims need at least one sample, got none")
        if (self.y < 0).any():
            raise ValueError("the claims speak of labelled samples, but some labels are -1")
        copied = copy.deepcopy(self.model).double().eval().requires_grad_(False)
        self.model = copied if isinstance(copied, TwiceDifferentiable) else TwiceDifferentiable(copied)
        self.x = self.x.detach().double()
        self._check_logits()

    def _check_logits(self) -> None:
        found = self.logits
        if found.ndim != 2 or found.shape[0] != self.x.shape[0]:
            raise ValueError(
                f"the network must give logits [B, C] with B = {self.x.shape[0]}, got {list(found.shape)}"
            )
        if not found.isfinite().all():
            bad = int((~found.isfinite().all(1)).sum())
            raise ValueError(f"the network's logits are not finite on {bad} of {len(found)} samples")
        if found.shape[1] == 1:
            self.model = Changed(self.model, _as_two_logits).eval()
            del self.__dict__["logits"]
        self._check_derivatives()
        if int(self.y.max()) >= self.logits.shape[1]:
            raise ValueError(
                f"the labels must be below {self.logits.shape[1]}, the number of the network's classes, "
                f"got {int(self.y.max())}"
            )

    def _check_derivatives(self) -> None:
        """Ask for a second derivative once, rather than in the middle of the work."""
        u = self.x[:1].detach().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.logits_at(u).square().sum(), u, create_graph=True)
            try:
                torch.autograd.grad(g.sum(), u)
            except RuntimeError as error:
                raise ValueError(f"the network cannot be differentiated twice: {error}") from error

    def at_radius(self, radius: float) -> Case:
        """The same case with another radius; the network is shared, not copied again."""
        other = self._copy(keep=_WITHOUT_RADIUS)
        other.radius = radius
        return other

    def changed(self, change: Callable[[Tensor, Tensor], Tensor]) -> Case:
        """The same samples under a function of the logits ``[B, C]`` and the inputs, which has no randomness."""
        other = self._copy(keep={"direction"})
        other.model = Changed(self.model, change).eval()
        return other

    def _copy(self, keep: set[str]) -> Case:
        """A copy with the network shared, without what was computed but for some of it."""
        other = copy.copy(self)
        for name in other.__dict__.keys() - self._fields() - keep:
            del other.__dict__[name]
        other._measured = {}
        return other

    def measured(self, measure: Callable[[Case], Any]) -> Any:
        """A quantity or condition that several claims ask for, once."""
        if measure not in self._measured:
            self._measured[measure] = measure(self)
        return self._measured[measure]

    def _fields(self) -> set[str]:
        return {f.name for f in dataclasses.fields(self)}

    # -- at the sample ---------------------------------------------------------------------------------------------

    @cached_property
    def logits(self) -> Tensor:
        """``z [B, C]``."""
        return self.logits_at(self.x)

    @cached_property
    def p(self) -> Tensor:
        """``softmax(z) [B, C]``."""
        return self.logits.softmax(1)

    @cached_property
    def p_y(self) -> Tensor:
        """The label's probability ``[B]``."""
        return self.of_label(self.p)

    @cached_property
    def loss(self) -> Tensor:
        """Cross-entropy ``L [B]``."""
        return self.loss_at(self.x)

    @cached_property
    def jacobian(self) -> Tensor:
        """``J [B, C, D]``."""
        return self.jacobian_at(self.x)

    @cached_property
    def centred(self) -> Tensor:
        """``J_c = J - mean_k J_k``, ``[B, C, D]``."""
        return self.jacobian - self.jacobian.mean(1, keepdim=True)

    @cached_property
    def gradient(self) -> Tensor:
        """``g``, the loss's input gradient, ``[B, D]``."""
        return self.loss_gradient_at(self.x)

    @cached_property
    def hessian(self) -> Tensor:
        """``J^T S J``, ``[B, D, D]``: the loss's Hessian where the logits are affine."""
        # from differences to the mean row: the difference of second moments cancels where a network is confident
        off = self.jacobian - torch.einsum("bk,bkd->bd", self.p, self.jacobian)[:, None]
        return torch.einsum("bk,bkd,bke->bde", self.p, off, off)

    # -- along a displacement --------------------------------------------------------------------------------------

    @cached_property
    def direction(self) -> Tensor:
        """Random unit vectors ``[B, D]``, the same at every radius."""
        generator = torch.Generator().manual_seed(self.seed)
        v = torch.randn(self.flat.shape, generator=generator, dtype=torch.float64).to(self.x.device)
        unit: Tensor = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
        return unit

    @property
    def displacement(self) -> Tensor:
        """``d = radius * direction``, ``[B, D]``."""
        return self.radius * self.direction

    @property
    def end(self) -> Tensor:
        """``x + d``, shaped like x."""
        return self.x + self.displacement.reshape(self.x.shape)

    @property
    def displaced(self) -> Point:
        """``x + d`` as a point."""
        return Displaced(self.end)

    # -- what the library computes ---------------------------------------------------------------------------------

    def term(self, term: Term) -> Tensor:
        """A term's values ``[B]`` (``[1]`` for a quantity of the batch) on this network, as training would see them."""
        with torch.enable_grad():
            values = term(self.probe()).detach()
        return values.reshape(-1)

    def probe(self) -> Probe:
        """A probe of the samples, whose random draws are the same every time."""
        return Probe(self.model, self.x, self.y, stream=Stream(self.seed), threat=self.threat)

    def found(self, point: Point) -> Tensor:
        """Where a point is, ``[B, ...]``, with the draws that the terms have."""
        return self.probe().at(point)

    # -- how ---------------------------------------------------------------------------------------------------------

    @property
    def flat(self) -> Tensor:
        """``x`` as rows ``[B, D]``."""
        return self.x.flatten(1)

    def logits_at(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]``; with a graph to ``x`` where it wants one."""
        with running(self.model, "eval"):
            logits: Tensor = self.model(x)
        return logits

    def loss_at(self, x: Tensor) -> Tensor:
        """Cross-entropy ``[B]``."""
        return torch.nn.functional.cross_entropy(self.logits_at(x), self.y, reduction="none")

    def jacobian_at(self, x: Tensor) -> Tensor:
        """``J [B, C, D]`` at x, row by row."""
        u = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits_at(u)
            rows = [
                torch.autograd.grad(z.sum(), u, retain_graph=True)[0].flatten(1) for z in logits.unbind(1)
            ]
        return torch.stack(rows, 1)

    def gradient_of(self, value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The input gradient ``[B, D]`` of a per-sample function of the logits."""
        u = x.detach().requires_grad_()
        with torch.enable_grad():
            total = value(self.logits_at(u)).sum()
            (g,) = torch.autograd.grad(total, u)
        return g.flatten(1)

    def loss_gradient_at(self, x: Tensor) -> Tensor:
        """The loss's input gradient ``[B, D]``."""
        return self.gradient_of(lambda z: torch.nn.functional.cross_entropy(z, self.y, reduction="none"), x)

    def of_label(self, rows: Tensor) -> Tensor:
        """The label's entry of ``[B, C, ...]``."""
        return rows[torch.arange(rows.shape[0], device=rows.device), self.y]


_WITHOUT_RADIUS = {"logits", "p", "p_y", "loss", "jacobian", "centred", "gradient", "hessian", "direction"}


def _as_two_logits(z: Tensor, x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(z), z], 1)
