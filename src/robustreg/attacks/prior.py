"""Steps that begin where an earlier one of the same sample ended: prior-guided initialisation (FGSM-PGI)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.single_step import Rademacher
from robustreg.losses import Loss, check_loss
from robustreg.memory import Memory
from robustreg.modes import Mode, check_mode
from robustreg.points import Clip, Point, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat

Prior = Literal["momentum", "epoch", "batch"]


class Perturbations(Memory):
    """For every place in the data a perturbation, a momentum where there is one, and how often the place was seen.

    It grows to the largest place that occurs: one or two tensors of the size of the data, which checkpoints hold too.
    """

    def __init__(self) -> None:
        self.deltas: Tensor | None = None
        self.momenta: Tensor | None = None
        self.visits: Tensor | None = None

    def recall(self, places: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Perturbations and momenta ``[B, ...]`` at places ``[B]``, and visits ``[B]``; zeros where there are none."""
        zeros, never = torch.zeros_like(like), torch.zeros_like(places)
        if self.visits is None or self.deltas is None or self.deltas.shape[1:] != like.shape[1:]:
            return zeros, zeros, never
        held = places < len(self.visits)
        rows = torch.where(held, places, 0).to(self.visits.device)

        def of(table: Tensor, otherwise: Tensor) -> Tensor:
            found = table[rows].to(otherwise)
            return torch.where(numerics.as_rows(held, found), found, otherwise)

        momenta = zeros if self.momenta is None else of(self.momenta, zeros)
        return of(self.deltas, zeros), momenta, of(self.visits, never)

    def keep(self, places: Tensor, deltas: Tensor, momenta: Tensor | None, visits: Tensor) -> None:
        """Take note of perturbations ``[B, ...]``, their momenta if they have any, and visits ``[B]``."""
        size = int(places.max()) + 1 if places.numel() else 0
        self.deltas = _written(self.deltas, size, places, deltas)
        self.visits = _written(self.visits, size, places, visits.to(torch.int32))
        if momenta is not None:
            self.momenta = _written(self.momenta, size, places, momenta)

    def state_dict(self) -> dict[str, Any]:
        """The tables."""
        return {name: table for name, table in vars(self).items() if table is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        # copies, because the tables are written in place
        self.deltas, self.momenta, self.visits = (
            state[name].clone() if name in state else None for name in ("deltas", "momenta", "visits")
        )


@dataclass(frozen=True)
class PriorStart(Point):
    """The sample with the perturbation that is remembered of it; random signs where none is.

    X. Jia et al., "Prior-Guided Adversarial Initialization for Fast Adversarial Training", ECCV 2022. ``PriorStep`` at
    this start takes the notes. With ``"momentum"`` and ``"epoch"`` it needs to know which samples these are. It has a
    state of up to twice the size of the data, so it belongs to one objective; in a distributed run each process
    remembers the samples that it has seen itself. **A perturbation is remembered pixel by pixel**: where samples are
    flipped or cropped at random it lands on another part of the picture, as it does in the authors' code.

    Args:
        threat: norm, radius and box.
        prior: ``"momentum"``, a step from the last start along all gradients so far (FGSM-MEP); ``"epoch"``, the last
            perturbation of the sample (FGSM-EP); ``"batch"``, that of the sample in the same row of the last batch
            (FGSM-BP), for which nothing need be known of the samples.
        reset: forget a sample after so many visits, which are epochs where every sample occurs once in each; None
            never. ``"batch"`` does not.
        number: of the draw of random signs.
        clip: ``"none"``, as the authors' code; ``"box"`` keeps the point within the threat's bounds.
    """

    threat: Threat
    prior: Prior = "momentum"
    reset: int | None = 40
    number: int = 0
    clip: Clip = "none"
    memory: Perturbations = field(default_factory=Perturbations, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check_clip(self.clip)
        if self.prior not in ("momentum", "epoch", "batch"):
            raise ValueError(f"prior must be 'momentum', 'epoch' or 'batch', got {self.prior!r}")
        if self.reset is not None and self.reset < 1:
            raise ValueError(f"reset is a number of visits from 1, or None, got {self.reset}")

    @property
    def reads_index(self) -> bool:
        """Whether it remembers samples, and not rows of the batch."""
        return self.prior != "batch"

    def parts(self) -> Iterator[Point]:
        """The random signs."""
        yield self._fresh()

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus what is remembered."""
        delta, _, visits = self.recall(probe)
        fresh = self.threat.steepest(probe.noise(self._fresh()))
        new = numerics.as_rows(visits == 0, delta)
        return clipped(probe.x + torch.where(new, fresh, delta), probe.x, self.threat, self.clip)

    def places(self, probe: Probe) -> Tensor:
        """Where each sample's row is in the memory, ``[B]``."""
        if self.reads_index:
            return probe.sample_index()
        return torch.arange(probe.x.shape[0], device=probe.x.device)

    def recall(self, probe: Probe) -> tuple[Tensor, Tensor, Tensor]:
        """Perturbation, momentum ``[B, ...]`` and visits ``[B]`` of each sample; visits 0 where it starts anew."""
        delta, momentum, visits = self.memory.recall(self.places(probe).to(probe.x.device), probe.x)
        if self.reset is not None and self.prior != "batch":
            old = visits >= self.reset
            visits = torch.where(old, 0, visits)
            momentum = torch.where(numerics.as_rows(old, momentum), 0.0, momentum)
        return delta, momentum, visits

    def _fresh(self) -> Point:
        return Rademacher(self.threat, self.number, 1.0, "none")


@dataclass(frozen=True)
class PriorStep(Point):
    """A steepest step from a ``PriorStart``, kept within the threat; where the next one starts is noted after the step.

    With ``"momentum"`` that is ``start + eps e(m)``, kept within the threat, with ``m`` the sample's gradients so far:
    ``m <- decay m + g / ||g||_1``, the norm being that of the whole batch's gradient, as in the authors' code.
    Otherwise it is the point itself.

    Args:
        threat: norm, radius and box.
        start: where the step begins.
        scale: length of the step as a multiple of ``eps``.
        decay: of the momentum.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
    """

    threat: Threat
    start: PriorStart
    scale: float = 1.0
    decay: float = 0.3
    loss: Loss = "ce"
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"decay is a factor per visit and must lie in [0, 1], got {self.decay}")

    def locate(self, probe: Probe) -> Tensor:
        """The start plus the step."""
        g = probe.grad(self.start, self.loss, self.mode)
        z = self._step(probe, g)
        probe.defer(lambda: self._note(probe, g, z), memory=self.start.memory)
        return z

    def _step(self, probe: Probe, along: Tensor) -> Tensor:
        z = probe.at(self.start) + self.scale * self.threat.steepest(along)
        return self.threat.project(z, probe.x)

    def _note(self, probe: Probe, g: Tensor, z: Tensor) -> None:
        _, momentum, visits = self.start.recall(probe)
        following, summed = z, None
        if self.start.prior == "momentum":
            total = numerics.upcast(g).abs().sum()
            summed = (self.decay * momentum + g / torch.where(total > 0, total, 1.0)).to(g.dtype)
            following = self._step(probe, summed)
        self.start.memory.keep(self.start.places(probe), following - probe.x, summed, visits + 1)


def _written(table: Tensor | None, size: int, places: Tensor, rows: Tensor) -> Tensor:
    """A table ``[N, ...]`` with rows ``[B, ...]`` at places ``[B]``, made or made longer where they need it."""
    if table is None or table.shape[1:] != rows.shape[1:]:
        table = rows.new_zeros(0, *rows.shape[1:])
    table = table.to(rows.device)
    if len(table) < size:
        table = torch.cat([table, table.new_zeros(size - len(table), *table.shape[1:])])
    table[places.to(rows.device)] = rows.to(table.dtype)
    return table
