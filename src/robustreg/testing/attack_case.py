"""An attack to check, found in its two roles: called as an attack, and as a training point of a term."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustreg.points import Point, draw_per_sample
from robustreg.probe import Probe
from robustreg.streams import Stream
from robustreg.testing import networks
from robustreg.testing.networks import Batch
from robustreg.testing.steps import PROGRESS, SEED, Case
from robustreg.threat import Threat

Role = Literal["attack", "training point"]
ROLES: tuple[Role, ...] = ("attack", "training point")


@dataclass(frozen=True)
class AttackCase(Case):
    """A point to check.

    Attributes:
        ball: whether its points must lie in the threat's ball.
        box: whether they must lie in its box.
    """

    subject: Point
    ball: bool
    box: bool

    def fresh(self) -> Point:
        """A copy with a memory of its own."""
        return copy.deepcopy(self.subject)

    @property
    def claimed(self) -> Threat | None:
        """The threat that its points are held to, if any."""
        own = getattr(self.subject, "threat", None)
        threat = own if isinstance(own, Threat) else self.threat
        if self.ball:
            return threat if self.box else Threat(threat.norm, threat.eps, None)
        # a radius that no point of any use exceeds leaves the box alone to be checked
        return threat.with_eps(1e6) if self.box else None

    @cached_property
    def for_training_only(self) -> bool:
        """Whether it looks at the progress of training or at the samples' places, which an attack is not told."""
        probe = self.probe(networks.smooth(self.shape, self.classes), self.batch(), "training point")
        with suppress(Exception):  # one that cannot be found at all is a matter for the checks
            probe.at(self.fresh())
        return self.subject.reads_index or probe.asked.progress

    def find(self, role: Role, net: nn.Module, batch: Batch, point: Point | None = None) -> Tensor:
        """The points of a batch; what is for training only is told what it needs, and searches like an attack."""
        point = self.fresh() if point is None else point
        if role == "attack" and not self.for_training_only:
            return point(net, batch.x, batch.y, generator=torch.Generator().manual_seed(SEED))
        return self.probe(net, batch, role).at(point)

    def probe(self, net: nn.Module, batch: Batch, role: Role) -> Probe:
        """A probe on which the point can be located."""
        return Probe(
            net,
            batch.x,
            batch.y,
            stream=Stream(SEED),
            threat=self.threat,
            progress=PROGRESS,
            index=batch.index,
            attacking=role == "attack",
        )

    def with_draws(
        self, net: nn.Module, batch: Batch, places: Tensor, seed: int = 0, at_once: int | None = None
    ) -> Tensor:
        """The attack on some samples, each with the draws that belong to it."""
        some, point = batch.rows(places), self.fresh()
        noise = draw_per_sample(point, some.x, [100 + int(i) for i in places])
        generator = torch.Generator().manual_seed(seed)
        if not self.for_training_only:
            return point(net, some.x, some.y, generator=generator, noise=noise, at_once=at_once)
        stream = Stream.from_generator(generator)
        probe = Probe(
            net,
            some.x,
            some.y,
            stream=stream,
            noise=noise,
            progress=PROGRESS,
            index=some.index,
            attacking=True,
        )
        return probe.at(point)


def claims(point: Point, inside: bool | None) -> tuple[bool, bool]:
    """Whether a point claims to be in the ball and in the box of its threat.

    With a field ``clip`` it is what that says. Otherwise a point with a threat of its own is held to it, as an
    evaluation holds it, and one without claims nothing.
    """
    if inside is not None:
        return inside, inside
    clip = getattr(point, "clip", None)
    if clip is not None:
        return clip == "threat", clip in ("threat", "box")
    held = isinstance(getattr(point, "threat", None), Threat)
    return held, held


def runs_in_training(value: Any) -> bool:
    """Whether the point, or one that it is made of, searches in ``"train"`` mode, which updates statistics."""
    return any(getattr(part, "mode", None) == "train" for part in _dataclasses(value))


def _dataclasses(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for f in dataclasses.fields(value):
            yield from _dataclasses(getattr(value, f.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from _dataclasses(part)
