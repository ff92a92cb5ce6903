"""Carlini-Wagner: the nearest misclassified point in l2 by gradient descent on distance and margin together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.in_box import sides
from robustreg.attacks.minimal import Closest, MinimalNorm
from robustreg.modes import Mode, check_mode
from robustreg.probe import Probe
from robustreg.threat import Threat

_PROGRESS = 0.9999  # a descent goes on while a tenth of its steps lowers the objective to this share
_LOOKS = 10
_INSIDE = 1 - 1e-6  # tanh reaches the sides of the box at infinity only
_BETAS = (0.9, 0.999)  # of Adam, and what it adds to the root
_ADAM_EPS = 1e-8


@dataclass(frozen=True)
class CarliniWagner(MinimalNorm):
    """The l2 attack of Carlini and Wagner 2017 ("Towards evaluating the robustness of neural networks", section VI).

    Adam descends ``||z - x||^2 + c * max(0, margin + confidence) / s`` with ``z = lower + (upper - lower) * (tanh(w) +
    1) / 2`` (features without two finite bounds are descended as they are and clipped), and a search finds the smallest
    ``c`` for each sample that ends in a misclassified point: ten times larger until one is found, then by halves. The
    nearest misclassified point on all paths counts.

    Ours is ``s``, the sample's margin without an attack: it makes ``c`` a squared distance and the attack blind to the
    scale of the logits. A descent ends for a sample when a tenth of the steps brought nothing, whatever the others do.

    Args:
        threat: l2, the box, and the radius when it is called as a bounded attack.
        steps: of each descent at most; each is a forward and a backward.
        binary_search_steps: number of descents.
        confidence: by how much, in units of the logits, the largest other logit must exceed the label's.
        lr: of Adam, in units of ``w``.
        initial_const: the first ``c``, in squared units of the input.
        mode: the mode in which the network is run.
    """

    threat: Threat
    steps: int = 1000
    binary_search_steps: int = 9
    confidence: float = 0.0
    lr: float = 0.01
    initial_const: float = 0.1
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.threat.norm != 2:
            raise ValueError(
                f"CarliniWagner is an l2 attack, got a threat in {self.threat.name}: use FAB there"
            )
        if self.steps < 1 or self.binary_search_steps < 1:
            raise ValueError(
                "CarliniWagner needs steps >= 1 and binary_search_steps >= 1, got "
                f"{self.steps} and {self.binary_search_steps}"
            )
        if not self.confidence >= 0:
            raise ValueError(f"confidence is a difference of logits and must be >= 0, got {self.confidence}")
        if not (self.lr > 0 and self.initial_const > 0):
            raise ValueError(f"lr and initial_const must be positive, got {self.lr} and {self.initial_const}")

    def search(self, probe: Probe, rows: Tensor, logits: Tensor, closest: Closest, bounded: bool) -> None:
        """All descents, each with the constant that the ones before suggest."""
        scale = numerics.margin(logits, probe.labels()[rows])
        scale = torch.where(scale > 0, scale, 1.0)
        const = torch.full_like(scale, self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, math.inf)
        for number in range(self.binary_search_steps):
            found = self._descend(probe, rows, const / scale, closest, bounded, number)
            high, low = torch.where(found, const, high), torch.where(found, low, const)
            const = torch.where(high.isinf(), 10 * const, (low + high) / 2)
            if bounded:
                stay = ~closest.inside(rows)
                rows, scale, const, low, high = (v[stay] for v in (rows, scale, const, low, high))
            if rows.numel() == 0:
                return

    def _descend(
        self, probe: Probe, rows: Tensor, weight: Tensor, closest: Closest, bounded: bool, number: int
    ) -> Tensor:
        """One descent with the margin's weight ``[b]``; returns which samples met a misclassified point, ``[b]``."""
        found = torch.zeros_like(probe.labels(), dtype=torch.bool)
        every = math.ceil(self.steps / _LOOKS)
        state = _Descent.start(rows, numerics.upcast(probe.x[rows]), weight, self.threat)
        for step in range(self.steps):
            z = state.point()
            low_precision = z.to(probe.x.dtype)
            logits, gap, slope = probe.ascend(
                low_precision, state.rows, "margin", self.mode, self, number, step, point=self
            )
            assert slope is not None  # asked for by default
            wrong = (logits.argmax(1) != probe.labels()[state.rows]) & (gap >= self.confidence)
            closest.offer(state.rows, low_precision, wrong)
            found[state.rows] |= wrong
            value = state.move(z, self.confidence - gap, -slope, self.lr, step)
            if (step + 1) % every == 0:
                going = value <= _PROGRESS * state.before
                state.before = value
                state.keep(going & ~closest.inside(state.rows) if bounded else going)
                if state.rows.numel() == 0:
                    break
        return found[rows]


@dataclass
class _Descent:
    """The samples that still descend, row by row.

    Attributes:
        rows: their places in the batch, ``[b]``.
        x: clean, ``[b, ...]``.
        w: the coordinates in which Adam works, ``[b, ...]``.
        first: Adam's average of the gradients.
        second: Adam's average of their squares.
        weight: of the margin, ``[b]``.
        before: the objective when it was last looked at, ``[b]``.
        middle: of the box, ``[b, ...]``; 0 where it is open.
        half: of the box's width; 1 where it is open.
        bent: the features whose coordinate is bent by tanh, so that they stay in the box.
        threat: gives the box.
    """

    rows: Tensor
    x: Tensor
    w: Tensor
    first: Tensor
    second: Tensor
    weight: Tensor
    before: Tensor
    middle: Tensor
    half: Tensor
    bent: Tensor
    threat: Threat

    @classmethod
    def start(cls, rows: Tensor, x: Tensor, weight: Tensor, threat: Threat) -> _Descent:
        """At the samples."""
        low, high = (side.expand_as(x) for side in sides(threat, x))
        bent = low.isfinite() & high.isfinite() & (low < high)
        middle, half = torch.where(bent, (low + high) / 2, 0.0), torch.where(bent, (high - low) / 2, 1.0)
        inside = ((x - middle) / half).clamp(-1, 1) * _INSIDE
        w = torch.where(bent, inside.atanh(), x)
        zero, never = torch.zeros_like(x), torch.full_like(weight, math.inf)
        return cls(rows, x, w, zero, zero, weight, never, middle, half, bent, threat)

    def keep(self, kept: Tensor) -> None:
        """Go on with these rows only."""
        if not kept.all():
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value[kept])

    def point(self) -> Tensor:
        """Where the samples are, ``[b, ...]``, in the box."""
        bent = torch.where(self.bent, self.w, 0.0).tanh()
        return self.threat.clip(torch.where(self.bent, self.middle + self.half * bent, self.w))

    def move(self, z: Tensor, margin: Tensor, slope: Tensor, lr: float, step: int) -> Tensor:
        """One step of Adam from points ``z [b, ...]`` with their margin ``[b]`` and its gradient ``[b, ...]``.

        Returns the objective at ``z``, ``[b]``.
        """
        push = torch.where(margin > 0, self.weight, 0.0)
        slope = torch.nan_to_num(numerics.upcast(slope), 0.0, 0.0, 0.0)
        bending = torch.where(self.bent, self.half * (1 - ((z - self.middle) / self.half).square()), 1.0)
        g = (2 * (z - self.x) + numerics.as_rows(push, z) * slope) * bending
        self.first = torch.lerp(g, self.first, _BETAS[0])
        self.second = torch.lerp(g.square(), self.second, _BETAS[1])
        mean, spread = (
            average / (1 - beta ** (step + 1))
            for average, beta in zip((self.first, self.second), _BETAS, strict=True)
        )
        self.w = self.w - lr * mean / (spread.sqrt() + _ADAM_EPS)
        return self.threat.length(z - self.x).square() + push * margin
