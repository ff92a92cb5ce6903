"""The geometry of allowed perturbations: an l_p ball of radius eps around a sample, in a box of valid inputs.

Nobody else in the library writes a sign, a clamp or a norm of a perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from robustreg import bounds as box
from robustreg import numerics
from robustreg.bounds import Bound
from robustreg.projection import project_l1, project_l2, project_lp

__all__ = ["Threat", "steepest_direction"]


class Threat:
    """All perturbations of l_p length at most eps that keep the input inside its bounds.

    Immutable, and hashable by value: two threats with the same norm, eps and bounds are the same threat, also
    when their bounds are different tensors of equal content. `repr` tells apart whatever `==` tells apart.

    Every method takes batches `[B, ...]` of any shape (images, tabular rows, embeddings) in any floating
    point dtype and works per sample. Perturbations have the dtype and device of the input; lengths `[B]`
    are float32, or float64 for float64. Everything but `check_input` runs under
    `torch.compile(fullgraph=True)`; `random` does so without a generator, which torch cannot trace.

    Args:
        norm: "linf" (or "inf"), "l2", "l1", "l1.5", ..., or the exponent p as a number in [1, inf].
        eps: the radius, in the units of the input (pixel scale 0-1), finite and >= 0.
        bounds: (lower, upper) valid inputs; each a number or, per feature, a tensor that broadcasts to
            `x[0]`, best on the device of x. Infinite sides are open. `None` means no box at all.

    Raises:
        ValueError: p < 1, eps negative or not finite, lower > upper, or a value of another type.
    """

    def __init__(
        self, norm: str | float, eps: float, bounds: tuple[Bound, Bound] | None = (0.0, 1.0)
    ) -> None:
        self._p = _parse_norm(norm)
        self._eps = _parse_eps(eps)
        self._bounds = box.parse(bounds)
        sides = None if self._bounds is None else tuple(box.content(b) for b in self._bounds)
        self._key = (self._p, self._eps, sides)
        self._hash = hash(self._key)
        self._frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        if "_frozen" in self.__dict__:
            raise AttributeError(f"a Threat cannot be changed: make a new one instead of setting {name!r}")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Threat) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # Hashes of strings differ between processes, so a copy must compute its own.
        return Threat, (self._p, self._eps, self._bounds)

    def __repr__(self) -> str:
        if self._bounds is None:
            sides = ", bounds=None"
        elif self._has_default_bounds:
            sides = ""
        else:
            sides = f", bounds=({box.show(self._bounds[0])}, {box.show(self._bounds[1])})"
        return f"Threat({self.name!r}, eps={self._eps!r}{sides})"

    @property
    def norm(self) -> float:
        """The exponent p, `math.inf` for the max-norm."""
        return self._p

    @property
    def eps(self) -> float:
        """The radius, in the units of the input."""
        return self._eps

    @property
    def bounds(self) -> tuple[Bound, Bound] | None:
        """The box of valid inputs, (lower, upper), or None; tensors are copies."""
        if self._bounds is None:
            return None
        lower, upper = (b.clone() if isinstance(b, Tensor) else b for b in self._bounds)
        return lower, upper

    @property
    def dual(self) -> float:
        """The dual exponent p*, with 1/p + 1/p* = 1."""
        return numerics.dual_exponent(self._p)

    @property
    def name(self) -> str:
        """The norm as people write it: "linf", "l2", "l1", "l1.5"."""
        short = f"{self._p:g}"
        return f"l{short}" if float(short) == self._p else f"l{self._p!r}"

    def with_eps(self, eps: float) -> Threat:
        """Return the same threat with another radius."""
        return Threat(self._p, eps, self._bounds)

    def to_dict(self) -> dict[str, Any]:
        """Return {"norm", "eps", "bounds"} in plain JSON values, as `from_dict` reads them."""
        sides = None if self._bounds is None else [box.to_json(b) for b in self._bounds]
        return {"norm": self.name, "eps": self._eps, "bounds": sides}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Threat:
        """Return the threat that `to_dict` described.

        Raises:
            ValueError: a key is missing or unknown, or a value does not describe a threat.
        """
        keys = ["norm", "eps", "bounds"]
        if not isinstance(values, Mapping) or set(values) != set(keys):
            got = list(values) if isinstance(values, Mapping) else values
            raise ValueError(f"a threat is described by the keys {keys}, got {got!r}")
        sides = values["bounds"]
        if isinstance(sides, (list, tuple)) and len(sides) == 2:
            sides = (box.from_json(sides[0]), box.from_json(sides[1]))
        return cls(values["norm"], values["eps"], sides)

    def length(self, delta: Tensor) -> Tensor:
        """Return ||delta||_p of each sample, `[B, ...]` to `[B]`."""
        return numerics.norm(delta, self._p)

    def dual_norm(self, g: Tensor) -> Tensor:
        """Return ||g||_{p*} of each sample, `[B, ...]` to `[B]`: the largest g . d over ||d||_p <= 1."""
        return numerics.norm(g, self.dual)

    def steepest(self, g: Tensor) -> Tensor:
        """Return the perturbation of length eps along which a loss with input gradient g rises fastest.

        `g . result = eps * ||g||_{p*}`; see `steepest_direction` for the formula, ties, zeros and gradients
        that are not finite. The bounds play no part. The result is a constant: no gradient flows through it.
        """
        return (_direction(g, self._p) * self._eps).to(g.dtype)

    def project_ball(self, delta: Tensor) -> Tensor:
        """Return the nearest (Euclidean) perturbation of length at most eps; those inside keep their bits.

        Exact for p in {1, 2, inf}; otherwise numerical to 1e-6 eps, and then detached. Infinite entries
        count as very large ones (1e30), NaN stays NaN.
        """
        wide = numerics.upcast(delta)
        if self._p == math.inf:
            return delta.clamp(-self._eps, self._eps)
        return self._ball(wide).to(delta.dtype)

    def clip(self, x: Tensor) -> Tensor:
        """Return x `[B, ...]` with every value moved into the bounds."""
        numerics.upcast(x)
        if self._bounds is None:
            return x
        low, high = self._sides(self._bounds, x)
        return box.at_most(box.at_least(x, low), high)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return points near x_adv within eps of x and in the bounds, `[B, ...]`; those inside stay as they are.

        The Euclidean projection for p = inf. For other norms the projection onto the ball and then onto the
        box, which is inside both but not always the nearest such point. Without NaN,
        `contains(project(x_adv, x), x)` holds for every x within the bounds (see `check_input`). Where x
        itself is outside, the box is widened just enough to hold it: the result is still within eps of x,
        and eps = 0 gives x back.

        Raises:
            ValueError: different shapes or dtypes, or not floating point.
        """
        _check_pair(x_adv, x)
        if x_adv.dtype != x.dtype:
            raise ValueError(f"expected points of the inputs' dtype {x.dtype}, got {x_adv.dtype}")
        if self._p == math.inf:
            lower, upper = x - self._eps, x + self._eps
            if self._bounds is not None:
                low, high = self._sides(self._bounds, x)
                lower, upper = box.at_least(lower, low), box.at_most(upper, high)
                lower, upper = torch.minimum(lower, x), torch.maximum(upper, x)
            return x_adv.clamp(lower, upper)
        centre = numerics.upcast(x)
        delta = numerics.upcast(x_adv) - centre
        near = self._ball(delta)
        moved = torch.where(near == delta, x_adv, (centre + near).to(x.dtype))
        if self._bounds is None:
            return moved
        # This clip keeps the point in the ball: x is in the (widened) box, so every coordinate that the
        # clip moves comes closer to x's. No entry of |x_adv - x| grows, and so no l_p norm of it does.
        low, high = self._sides(self._bounds, x)
        return moved.clamp(box.at_most(x, low), box.at_least(x, high))

    def random(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return perturbations `[B, ...]` drawn uniformly from the ball, without regard to the bounds.

        p = inf: independent uniform entries. Otherwise eps * U^(1/d) times the direction of a vector whose
        entries have density ~ exp(-|t|^p): normal for p = 2, Laplace for p = 1 (Barthe, Guedon, Mendelson
        and Naor 2005). Uses the given generator alone, on its device, and then moves the result to like's:
        one CPU generator gives the same points on every device. None means the global generator of like's
        device. Low precision is drawn in float32 and rounded.
        """
        rows = numerics.flatten(numerics.upcast(like.detach()))
        device = like.device if generator is None else generator.device
        draws = _uniform_in_ball(self._p, rows.shape, rows.dtype, device, generator)
        return (draws * self._eps).to(like.dtype).to(like.device).reshape(like.shape)

    def contains(self, x_adv: Tensor, x: Tensor, tolerance: float | None = None) -> Tensor:
        """Return whether x_adv is within eps of x and within the bounds, `[B, ...]` to bool `[B]`.

        NaN is never inside. By default the check forgives what it costs to store x + delta in the dtype of
        the inputs, and no more: `u * (||max(|x|, |x_adv|)||_p + 4 eps)` on the length, and on the box u
        times its larger finite side, where u is the distance from 1 to the next number of the (coarser)
        dtype: 1.2e-7 for float32, 8e-3 for bfloat16. A `tolerance`, in the units of the input, replaces both.

        Raises:
            ValueError: different shapes, or not floating point.
        """
        _check_pair(x_adv, x)
        unit = max(torch.finfo(x_adv.dtype).eps, torch.finfo(x.dtype).eps)
        point, centre = numerics.upcast(x_adv), numerics.upcast(x)
        length = self.length(point - centre)
        if tolerance is None:
            reach = self.length(torch.maximum(point.abs(), centre.abs()))
            near = length <= self._eps + unit * (reach + 4 * self._eps)
        else:
            near = length <= self._eps + tolerance
        return near & self._within_bounds(point, x, unit, tolerance)

    def check_input(self, x: Tensor) -> None:
        """Check that x `[B, ...]` is floating point, finite and (to rounding) within the bounds.

        Reads values, so it belongs before the work starts, and not into compiled code.

        Raises:
            ValueError: saying what x holds, what the bounds are and what to do.
        """
        if not isinstance(x, Tensor):
            raise ValueError(f"expected the inputs as a tensor [B, ...], got {type(x).__name__}")
        if not x.is_floating_point():
            cure = "x.float() / 255" if x.dtype == torch.uint8 else "x.float()"
            raise ValueError(f"expected floating point inputs, got {x.dtype}: convert them with {cure}")
        rows = numerics.flatten(x.detach())
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0])
            raise ValueError(f"inputs hold NaN or infinite values, first in sample {first} of the batch")
        inside = self._within_bounds(numerics.upcast(x.detach()), x, torch.finfo(x.dtype).eps, None)
        if not bool(inside.all()):
            raise ValueError(self._outside_message(float(rows.min()), float(rows.max()), inside))

    @property
    def _has_default_bounds(self) -> bool:
        return self._key[2] == (0.0, 1.0)

    def _ball(self, delta: Tensor) -> Tensor:
        """`project_ball` for p < inf and delta in at least float32."""
        if self._eps < torch.finfo(delta.dtype).tiny:  # 0, also to the arithmetic that follows
            return torch.zeros_like(delta)
        rows = torch.nan_to_num(numerics.flatten(delta), nan=math.nan, posinf=1e30, neginf=-1e30)
        if rows.shape[1] == 0:
            return delta
        if self._p == 1:
            near = project_l1(rows, self._eps)
        elif self._p == 2:
            near = project_l2(rows, self._eps)
        else:
            near = project_lp(rows, self._eps, self._p)
        return near.reshape(delta.shape)

    def _sides(self, bounds: tuple[Bound, Bound], x: Tensor) -> tuple[Bound, Bound]:
        return box.fit(bounds[0], x), box.fit(bounds[1], x)

    def _within_bounds(self, point: Tensor, x: Tensor, unit: float, tolerance: float | None) -> Tensor:
        """Whether every entry of the (upcast) point lies in the bounds of x, `[B]`."""
        if self._bounds is None:
            return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        low, high = (
            torch.as_tensor(b, dtype=x.dtype, device=x.device).to(point.dtype)
            for b in self._sides(self._bounds, x)
        )
        sides = torch.maximum(_finite_size(low), _finite_size(high))
        slack = unit * sides if tolerance is None else torch.full_like(sides, tolerance)
        return numerics.flatten((point >= low - slack) & (point <= high + slack)).all(1)

    def _outside_message(self, low: float, high: float, inside: Tensor) -> str:
        if self._has_default_bounds and low >= 0 and high <= 255:
            cure = "divide by 255 or set bounds"
        else:
            cure = "scale the inputs, make the normalisation the model's first layer, or set bounds"
        sides = ", ".join(f"{b:g}" if isinstance(b, float) else box.show(b) for b in self._bounds or ())
        outside = f"{int((~inside).sum())} of {inside.numel()} samples are outside"
        message = f"inputs run from {low:g} to {high:g} but the threat's bounds are [{sides}]"
        return f"{message}: {cure} ({outside})"


def steepest_direction(g: Tensor, p: float | Tensor) -> Tensor:
    """Return the d with ||d||_p = 1 that maximises g . d, `[B, ...]` to `[B, ...]`; then g . d = ||g||_{p*}.

    A tensor `[B]` gives every sample a p of its own in [1, inf], whose values are not checked.

    `d = sign(g) * (|g| / ||g||_{p*})^(1 / (p - 1))`, 1/p + 1/p* = 1: formula (1) of Lyu, Huang and Liang
    2015, "A unified gradient regularization family for adversarial examples". p = inf: the sign; p = 2: the
    normalised gradient; p = 1: the largest entry, shared equally by exact ties (the limit p -> 1). A zero
    gradient gives zero. Gradients that are not finite still give a finite direction: NaN entries count as
    0, infinite ones as the largest finite number. The result is a constant (detached): the formula has
    infinite slopes at 0, and at a maximum of g . d the derivative of d is not needed.

    Raises:
        ValueError: p < 1 or NaN, or not one p per sample, or g is not a floating point batch.
    """
    return _direction(g, p).to(g.dtype)


def _direction(g: Tensor, p: float | Tensor) -> Tensor:
    """`steepest_direction` in at least float32."""
    g = torch.nan_to_num(numerics.upcast(g.detach()), nan=0.0)
    if isinstance(p, Tensor):
        p = numerics.one_for_each(p, g)
    wide = numerics.as_rows(p, g) if isinstance(p, Tensor) else p
    dual = numerics.dual_exponent(wide)
    if numerics.flatten(g).shape[1] == 0 or (not isinstance(p, Tensor) and p == math.inf):
        return g.sign()
    size = g.abs()
    largest = numerics.as_rows(numerics.flatten(size).amax(1), g)
    if not isinstance(p, Tensor) and p == 1:
        tied = size == largest
        return g.sign() * tied / numerics.as_rows(numerics.flatten(tied).sum(1), g)
    # With b = |g| / max|g|, formula (1) reads b^(1/(p-1)) / (sum b^(p*))^(1/p). Nothing here is first
    # rounded and then raised to a high power, so that the length is 1 to rounding for p close to 1 as well.
    b = size / torch.where(largest > 0, largest, 1.0)
    total = numerics.flatten(b.pow(dual)).sum(1).pow(1 / p)
    return g.sign() * b.pow(1 / (wide - 1)) / numerics.as_rows(torch.where(total > 0, total, 1.0), g)


def _uniform_in_ball(
    p: float, shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Draw rows `[B, D]` uniformly from the unit l_p ball."""
    if p == math.inf:
        return torch.rand(shape, generator=generator, device=device, dtype=dtype) * 2 - 1
    if p == 2:
        g = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    else:
        # |g|^p ~ Gamma(1/p), which equals U^p Gamma(1 + 1/p) in law: so g needs no draw that underflows for
        # large p.
        gamma = torch._standard_gamma(torch.full(shape, 1 + 1 / p, device=device, dtype=dtype), generator)
        sides = torch.rand(shape, generator=generator, device=device, dtype=dtype) * 2 - 1
        g = sides * gamma.pow(1 / p)
    length = numerics.norm(g, p)
    radius = torch.rand(shape[:1], generator=generator, device=device, dtype=dtype).pow(1 / max(shape[1], 1))
    return g * (radius / torch.where(length > 0, length, 1.0)).unsqueeze(1)


def _finite_size(bound: Tensor) -> Tensor:
    return torch.where(bound.isfinite(), bound.abs(), 0.0)


def _check_pair(x_adv: Tensor, x: Tensor) -> None:
    if x_adv.shape != x.shape:
        raise ValueError(f"expected points of the inputs' shape {list(x.shape)}, got {list(x_adv.shape)}")
    numerics.flatten(numerics.upcast(x_adv))
    numerics.upcast(x)


def _parse_norm(value: object) -> float:
    p = math.nan
    if isinstance(value, str):
        with suppress(ValueError):
            p = float(value.strip().lower().removeprefix("l"))
    elif box.is_number(value):
        p = float(value)
    if not p >= 1:
        raise ValueError(f'a norm is "linf", "l2", "l1", "l1.5", ... or a number in [1, inf], got {value!r}')
    return p


def _parse_eps(value: object) -> float:
    if not box.is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"eps is a finite number >= 0, got {value!r}")
    return float(value)
