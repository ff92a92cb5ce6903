"""Points: rules for where to look around a sample, as frozen values.

A ``Point`` says *where*, not *what*: ``Clean()``, ``Uniform(threat)``, ``Steepest(threat)``. Two equal points are
the same point: a probe finds it once, runs the network there once, and everybody shares. Attacks are points, and any
point called with a model and data is an ordinary attack: ``Steepest(threat)(model, x, y) -> x_adv``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor

from robustreg.heap import keep_heap
from robustreg.losses import Loss, check_labels, check_loss, needs_labels
from robustreg.modes import Mode, Model, check_mode, out_of_inference
from robustreg.streams import Stream, content_key, derive_seed
from robustreg.threat import Threat

if TYPE_CHECKING:
    from robustreg.probe import Probe

Found = Callable[[Tensor, Tensor], object]
"""What a search tells of samples that it has fooled: their places ``[b]`` and points ``[b, ...]``."""

P = TypeVar("P", bound="Point")
Clip = Literal["threat", "box", "none"]


def check_clip(clip: str) -> None:
    """Refuse a clip that does not exist."""
    if clip not in get_args(Clip):
        raise ValueError(f"clip must be one of {', '.join(get_args(Clip))}, got {clip!r}")


class Point:
    """A rule for where to look. Subclasses are frozen dataclasses that implement ``locate``.

    Attributes:
        asks_network: whether finding the point may run the network.
    """

    asks_network: ClassVar[bool] = True

    def locate(self, probe: Probe) -> Tensor:
        """The coordinates ``[B, ...]`` of this point for the probe's batch, without a graph."""
        raise NotImplementedError

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """The random numbers behind this point for a batch ``x [B, ...]``; only random points have any."""
        raise NotImplementedError(f"{type(self).__name__} is not a random point")

    def parts(self) -> Iterator[Point]:
        """The points that this one is built from (its dataclass fields, unless a subclass knows better)."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Point):
                yield value

    def sources(self) -> Iterator[Point]:
        """Every random point in this one, itself included: the points whose ``draw`` will be called."""
        if type(self).draw is not Point.draw:
            yield self
        for part in self.parts():
            yield from part.sources()

    @property
    def key(self) -> str:
        """The name of this point by its content, equal in every process: it names the point's random stream."""
        known: str | None = self.__dict__.get("_key")
        if (
            known is None
        ):  # kept with the point, so that it goes when the point goes and takes its memories along
            known = content_key(self)
            object.__setattr__(self, "_key", known)
        return known

    @property
    def reads_labels(self) -> bool:
        """Whether finding this point needs labels."""
        loss = getattr(self, "loss", None)
        return (loss is not None and needs_labels(loss)) or any(p.reads_labels for p in self.parts())

    @property
    def refills(self) -> bool:
        """Whether it can be given more samples than go through the network together, see ``at_once`` of a call.

        Those beyond wait until others are fooled and leave: the network's batches stay full.
        """
        return False

    @property
    def reads_index(self) -> bool:
        """Whether finding this point needs to know which samples of the data these are."""
        return any(p.reads_index for p in self.parts())

    def threats(self) -> Iterator[Threat]:
        """Every threat in this point and its parts."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Threat):
                yield value
            elif isinstance(value, Point):
                yield from value.threats()

    def with_threat(self: P, threat: Threat) -> P:
        """This point under another threat, its parts included."""
        changes: dict[str, Any] = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Threat):
                changes[f.name] = threat
            elif isinstance(value, Point):
                changes[f.name] = value.with_threat(threat)
        return dataclasses.replace(self, **changes) if changes else self  # type: ignore[type-var]

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Mapping[Point, Tensor] | None = None,
        found: Found | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """Find the point as an ordinary attack.

        Args:
            model: maps ``[B, ...]`` to logits ``[B, C]``; its flags, statistics and gradients stay as they are.
            x: clean samples ``[B, ...]``.
            y: labels ``[B]``; not needed by points that read none.
            generator: source of randomness, moved by one draw; without it ``torch.initial_seed()`` decides.
            noise: the draws of the random points inside, as ``draw_per_sample`` makes them.
            found: called with the places ``[b]`` of samples, and their points ``[b, ...]``, as soon as a long search
                has fooled the model there: what an interruption need not cost. Not every point calls it.
            at_once: how many samples go through the model together; all by default. Only points that say ``refills``
                take more of them than that.

        Returns:
            The points ``[B, ...]``, without a graph, of x's dtype and device.

        Raises:
            ValueError: inputs outside the threat's bounds or not finite; labels missing or of the wrong shape;
                more samples than ``at_once`` for a point that takes all together.
            TypeError: inputs or labels of the wrong type.
        """
        from robustreg.probe import Probe, check_samples

        check_samples(x)
        if y is not None:
            check_labels(x, y)
        elif self.reads_labels:
            raise ValueError(f"{type(self).__name__} needs labels y to attack with the loss that it climbs")
        for threat in dict.fromkeys(self.threats()):
            threat.check_input(x)
        if at_once is not None and len(x) > at_once and not self.refills:
            raise ValueError(
                f"{type(self).__name__} takes all samples together: give it at most {at_once}, or leave at_once out"
            )
        keep_heap()
        with out_of_inference(x, y) as (x, y):
            stream = Stream.from_generator(generator)
            probe = Probe(
                model, x, y, stream=stream, noise=noise, attacking=True, found=found, at_once=at_once
            )
            return probe.at(self)


def draw_per_sample(point: Point, x: Tensor, seeds: Sequence[int]) -> dict[Point, Tensor]:
    """The draws of every random point inside ``point``, each sample from its own seed.

    With them an attack gives a sample the same start whatever batch the sample travels in.
    """
    draws: dict[Point, Tensor] = {}
    for source in dict.fromkeys(point.sources()):
        rows = [
            source.draw(
                x[i : i + 1], torch.Generator(device=x.device).manual_seed(derive_seed(seed, source.key))
            )
            for i, seed in enumerate(seeds)
        ]
        draws[source] = torch.cat(rows) if rows else torch.empty_like(x)
    return draws


@dataclass(frozen=True)
class Clean(Point):
    """The sample itself."""

    asks_network = False

    def locate(self, probe: Probe) -> Tensor:
        """``x``."""
        return probe.x


CLEAN = Clean()


@dataclass(frozen=True)
class Uniform(Point):
    """A point drawn uniformly from the ball around the sample, then clipped as ``clip`` says.

    Args:
        threat: the ball and the box.
        number: of the draw: equal points share theirs, another number makes another.
        scale: the ball's radius as a multiple of ``threat.eps`` (N-FGSM starts from 2).
        clip: ``"box"`` keeps the point within the threat's bounds, ``"none"`` does not.
    """

    threat: Threat
    number: int = 0
    scale: float = 1.0
    clip: Clip = "box"

    asks_network = False

    def __post_init__(self) -> None:
        check_clip(self.clip)
        if not self.scale >= 0:
            raise ValueError(
                f"scale is the ball's radius as a multiple of eps and must be >= 0, got {self.scale}"
            )

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A perturbation ``[B, ...]`` uniform in the ball of radius ``scale * eps``."""
        threat = self.threat if self.scale == 1.0 else self.threat.with_eps(self.scale * self.threat.eps)
        return threat.random(x, generator)

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus its draw."""
        return clipped(probe.x + probe.noise(self), probe.x, self.threat, self.clip)


@dataclass(frozen=True)
class Gaussian(Point):
    """The sample with isotropic normal noise of standard deviation ``std`` per feature (pixel scale 0-1).

    It is not a worst case within any ball, so evaluations report it beside the attacks and never in the worst case.
    """

    std: float
    number: int = 0
    bounds: tuple[float, float] | None = None

    asks_network = False

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std must be >= 0, got {self.std}")

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Standard normal numbers ``[B, ...]``."""
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus noise, within ``bounds`` if there are any."""
        noisy = probe.x + self.std * probe.noise(self)
        return noisy if self.bounds is None else noisy.clamp(*self.bounds)


@dataclass(frozen=True)
class Steepest(Point):
    """One step along the steepest ascent direction of the loss in the threat's norm.

    ``start + scale * e`` with ``e = eps * sign(g) * (|g| / ||g||_{p*})^{1/(p-1)}`` (Lyu et al. 2015), ``g`` the
    gradient of the loss at ``start``: the fast gradient sign method for ``p = inf``, the normalised gradient for
    ``p = 2``. The point is a constant: no gradient flows through it.

    Args:
        threat: norm and radius.
        start: where the gradient is taken; a random start makes R-FGSM and its kin.
        scale: length of the step as a multiple of ``eps``; negative descends.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        clip: ``"none"`` is the mathematics; ``"box"`` keeps the point in the bounds, ``"threat"`` in ball and box.
    """

    threat: Threat
    start: Point = CLEAN
    scale: float = 1.0
    loss: Loss = "ce"
    mode: Mode = "eval"
    clip: Clip = "none"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)

    def locate(self, probe: Probe) -> Tensor:
        """The start plus the step."""
        z = probe.at(self.start) + self.scale * self.threat.steepest(self.gradient(probe))
        return clipped(z, probe.x, self.threat, self.clip)

    def gradient(self, probe: Probe) -> Tensor:
        """The gradient ``[B, ...]`` along which the step goes."""
        return probe.grad(self.start, self.loss, self.mode)


@dataclass(frozen=True)
class Along(Point):
    """The point ``start + t * (end - start)`` on the line through two points."""

    start: Point = CLEAN
    end: Point = CLEAN
    t: float = 0.5

    def locate(self, probe: Probe) -> Tensor:
        """Linear interpolation; ``t`` may lie outside [0, 1]."""
        start = probe.at(self.start)
        return start + self.t * (probe.at(self.end) - start)


def clipped(z: Tensor, x: Tensor, threat: Threat, clip: Clip) -> Tensor:
    """``z`` within the threat around ``x``, within its box, or as it is."""
    if clip == "threat":
        return threat.project(z, x)
    return threat.clip(z) if clip == "box" else z


def FGSM(
    threat: Threat, start: Point = CLEAN, step: float = 1.0, loss: Loss = "ce", mode: Mode = "eval"
) -> Steepest:
    """The fast gradient method in the threat's norm, kept within the threat (Goodfellow et al. 2015 for ``linf``).

    ``FGSM(threat, start=Uniform(threat), step=1.25)`` is RS-FGSM (Wong et al. 2020).
    """
    return Steepest(threat, start=start, scale=step, loss=loss, mode=mode, clip="threat")
