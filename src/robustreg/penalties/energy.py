"""Energy regularisation: how steep the loss is in the neighbourhood of a sample, not only at it.

S. Zhang, K. Huang, Z. Xu, "On Model Robustness Against Adversarial Examples", arXiv 1911.06479, 2019, and their
"Re-thinking model robustness from stability", Machine Learning 111(7), 2022.

**What is known** are the abstracts: robustness is approached as the stability of the loss in a small neighbourhood; an
energy describes it ("the total variation in a small neighbourhood"); reducing it guarantees robustness; adversarial
training under the l2 norm and VAT minimise a lower bound of it, which can leave the neighbourhood not robust enough.

**What is inferred** is the formula. With ``D(u)`` the loss at ``x + u`` or the divergence ``KL(p(x) || p(x + u))``, the
energies here are those that make these statements theorems for every network, in any norm:

    D(r) - D(0)  <=  ||r||_p int_0^1 ||grad D(t r)||_{p*} dt  <=  eps max_{||u||_p <= eps} ||grad D(u)||_{p*}

On the left the increment that adversarial training (or VAT) lowers, which can vanish while the loss moves in between;
in the middle the energy of the segment, on the right that of the worst point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from robustreg.attacks.largest_gradient import LargestGradient
from robustreg.attacks.virtual import Virtual
from robustreg.losses import Loss, check_labels, check_loss, needs_labels
from robustreg.modes import Mode, Model, check_mode, out_of_inference
from robustreg.penalties.gradient import Estimator, GradientNorm
from robustreg.points import CLEAN, Along, Clip, Point, Steepest, Uniform, check_clip
from robustreg.probe import Probe, check_samples
from robustreg.streams import Stream
from robustreg.terms import Term
from robustreg.threat import Threat

Points = Literal["segment", "ball", "worst", "centre"]
Quadrature = Literal["midpoint", "end"]


@dataclass(frozen=True)
class Energy(Term):
    """``eps * mean_k ||grad D(u_k)||_{p*}^q`` per sample, over points ``u_k`` around it.

    The points are constants; the gradients at them are differentiated with respect to the parameters. With
    ``points="centre"`` and ``power=1`` it is :class:`~robustreg.penalties.gradient.GradientNorm`.

    Args:
        threat: norm ``p`` and radius ``eps``; the papers speak of l2.
        points: ``"segment"``: ``K`` points on the way from the sample to an adversarial point, the total variation
            along it (then the length of the way stands for ``eps``); ``"ball"``: ``K`` uniform draws; ``"worst"``: the
            point with the largest gradient; ``"centre"``: the sample.
        power: ``q``: 1, or 2 for the Dirichlet energy, ``eps * mean ||grad D||^2``.
        divergence: ``D``: ``"ce"`` for the loss, ``"kl"`` for the label-free divergence from the clean prediction (a
            constant), or any other loss.
        samples: ``K``.
        estimator: ``"double"`` differentiates the gradient again; ``"central"`` is a difference quotient along it,
            without a double backward, its parameter gradient off by O(h^2). See ``GradientNorm``.
        step: ``h`` of the difference, as a fraction of ``eps``.
        end: another point in place of the segment's end (the steepest step for ``"ce"``, VAT's for ``"kl"``) or in
            place of the worst point.
        iterations: ascent steps to the worst point.
        quadrature: where on the segment: ``"midpoint"``: ``t = (k - 1/2) / K``; ``"end"``: ``t = k / K``, with one
            sample the gradient at the adversarial point.
        find: the mode in which the points are found.
        mode: the mode in which their gradients are taken. By default neither updates BatchNorm's statistics.
        clip: ``"none"`` is the mathematics; ``"box"`` keeps the points within the bounds.
    """

    threat: Threat | None = None
    points: Points = "segment"
    power: int = 1
    divergence: Loss = "ce"
    samples: int = 1
    estimator: Estimator = "double"
    step: float = 0.01
    end: Point | None = None
    iterations: int = 1
    quadrature: Quadrature = "midpoint"
    find: Mode = "batch"
    mode: Mode = "batch"
    clip: Clip = "none"

    def __post_init__(self) -> None:
        check_loss(self.divergence)
        check_mode(self.find)
        check_mode(self.mode)
        check_clip(self.clip)
        if self.points not in ("segment", "ball", "worst", "centre"):
            raise ValueError(f"points must be 'segment', 'ball', 'worst' or 'centre', got {self.points!r}")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {self.power!r}")
        if self.estimator not in ("double", "central"):
            raise ValueError(f"estimator must be 'double' or 'central', got {self.estimator!r}")
        if self.quadrature not in ("midpoint", "end"):
            raise ValueError(f"quadrature must be 'midpoint' or 'end', got {self.quadrature!r}")
        if self.samples < 1 or self.iterations < 1:
            raise ValueError(f"samples and iterations must be >= 1, got {self.samples} and {self.iterations}")
        if self.samples > 1 and self.points in ("worst", "centre"):
            raise ValueError(f"points={self.points!r} is one point, so samples must be 1, got {self.samples}")
        if self.end is not None and self.points in ("ball", "centre"):
            raise ValueError(f"points={self.points!r} has no end to choose")
        if self.points == "centre" and self.divergence == "kl":
            raise ValueError(
                "points='centre' with divergence='kl' is always 0: that gradient vanishes at the sample"
            )
        if not self.step > 0:
            raise ValueError(
                f"step is the length of the finite difference and must be positive, got {self.step}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """A threat where there is none; labels where the divergence or a point reads them."""
        reads_labels = needs_labels(self.divergence) or (self.end is not None and self.end.reads_labels)
        return frozenset(
            ({"labels"} if reads_labels else set()) | ({"threat"} if self.threat is None else set())
        )

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``, on the scale of the loss."""
        threat = self.threat or probe.required_threat()
        # of length 1, so that an energy of radius 0 is no division by 0
        unit, step = threat.with_eps(1.0), self.step * threat.eps or self.step
        gradients = [
            GradientNorm(
                unit, estimator=self.estimator, step=step, at=at, loss=self.divergence, mode=self.mode
            )(probe)
            for at in self.around(threat)
        ]
        mean = torch.stack([g.square() if self.power == 2 else g for g in gradients]).mean(0)
        return self._length(probe, threat) * mean

    def around(self, threat: Threat) -> list[Point]:
        """The points at which gradients are taken."""
        if self.points == "centre":
            return [CLEAN]
        if self.points == "ball":
            return [Uniform(threat, number, 1.0, self.clip) for number in range(self.samples)]
        if self.points == "worst":
            return [self._worst(threat)]
        offset = 0.5 if self.quadrature == "midpoint" else 0.0
        end = self._end(threat)
        return [Along(CLEAN, end, (k - offset) / self.samples) for k in range(1, self.samples + 1)]

    def _length(self, probe: Probe, threat: Threat) -> Tensor | float:
        if self.points != "segment":
            return threat.eps
        return threat.length(probe.at(self._end(threat)) - probe.x)

    def _end(self, threat: Threat) -> Point:
        if self.end is not None:
            return self.end
        return adversarial_point(threat, self.divergence, self.find, self.clip)

    def _worst(self, threat: Threat) -> Point:
        if self.end is not None:
            return self.end
        return worst_point(threat, self.divergence, self.iterations, self.find, self.clip)


def adversarial_point(threat: Threat, divergence: Loss, mode: Mode, clip: Clip) -> Point:
    """Where one step of adversarial training goes, or of VAT where the divergence needs no label."""
    if divergence == "kl":
        return Virtual(threat, mode=mode, clip=clip)
    return Steepest(threat, CLEAN, 1.0, divergence, mode, clip)


def worst_point(threat: Threat, divergence: Loss, iterations: int, mode: Mode, clip: Clip) -> Point:
    """Steps of ascent on the gradient's norm: from the sample, or from beside it where the gradient there is 0."""
    point: Point = Uniform(threat, 0, 0.1, "none") if divergence == "kl" else CLEAN
    for _ in range(iterations):
        point = LargestGradient(threat, point, 0.1, divergence, mode, clip)
    return point


@dataclass(frozen=True)
class Energies:
    """How steep the loss is around each sample; every field is per sample ``[B]``, on the scale of the loss.

    Attributes:
        increment: ``D(r) - D(0)``, what adversarial training (or VAT) lowers: a lower bound of ``segment``.
        centre: ``eps ||grad D(0)||``, the first-order increase.
        ball: ``eps`` times the mean gradient norm over the ball.
        segment: the variation of ``D`` along the way to ``r``.
        worst: ``eps`` times the largest gradient norm that was found, on the segment, in the ball and by ascent: an
            estimate of the local Lipschitz constant from below. Where ``D(0) + worst < log 2`` held for the true
            maximum and ``D`` the cross-entropy, no adversarial example would exist.
    """

    increment: Tensor
    centre: Tensor
    ball: Tensor
    segment: Tensor
    worst: Tensor

    def means(self) -> dict[str, float]:
        """The means over the batch, by name."""
        return {f.name: float(getattr(self, f.name).mean()) for f in fields(self)}


def energies(
    model: Model,
    x: Tensor,
    y: Tensor | None,
    threat: Threat,
    *,
    divergence: Loss = "ce",
    samples: int = 16,
    iterations: int = 3,
    end: Point | None = None,
    mode: Mode = "eval",
    clip: Clip = "none",
    generator: torch.Generator | None = None,
    noise: Mapping[Point, Tensor] | None = None,
) -> Energies:
    """The four energies of a model around a batch, as diagnostics: nothing is differentiated by the parameters.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, C]``; left as it is.
        x: samples ``[B, ...]``.
        y: labels ``[B]``; None with ``divergence="kl"``.
        threat: norm and radius.
        divergence: ``D``, as in :class:`Energy`.
        samples: midpoints on the segment, and draws in the ball.
        iterations: ascent steps to the worst point.
        end: the segment's end, as in :class:`Energy`.
        mode: the mode in which the network is run.
        clip: whether points stay within the bounds.
        generator: source of randomness, moved by one draw; without it ``torch.initial_seed()`` decides.
        noise: the draws of the points in the ball, ``Uniform(threat, number, clip=clip)`` with numbers from 0, where
            they are made beforehand.

    Raises:
        ValueError: labels missing or of the wrong shape, inputs outside the threat's bounds or not finite.
    """
    check_samples(x)
    if y is not None:
        check_labels(x, y)
    threat.check_input(x)
    along = Energy(threat, "segment", 1, divergence, samples, end=end, find=mode, clip=clip)
    ball = Energy(threat, "ball", 1, divergence, samples, clip=clip)
    last = along._end(threat)
    with out_of_inference(x, y) as (x, y):
        stream = Stream.from_generator(generator)
        probe = Probe(model, x, y, stream=stream, threat=threat, noise=noise, attacking=True)
        probe.asking = "energies()"

        def look(point: Point) -> tuple[Tensor, Tensor]:
            z = probe.at(point)
            _, value, g = probe.ascend(z, None, divergence, mode, point, point=point)
            assert g is not None  # asked for by default
            return value, threat.dual_norm(g)

        start, centre = look(CLEAN)
        on_segment = torch.stack([look(point)[1] for point in along.around(threat)])
        in_ball = torch.stack([look(point)[1] for point in ball.around(threat)])
        ascents = [worst_point(threat, divergence, i, mode, clip) for i in range(1, iterations + 1)]
        steep = torch.stack([look(point)[1] for point in (last, *ascents)])
        return Energies(
            increment=look(last)[0] - start,
            centre=threat.eps * centre,
            ball=threat.eps * in_ball.mean(0),
            segment=threat.length(probe.at(last) - probe.x) * on_segment.mean(0),
            worst=threat.eps * torch.cat([centre[None], on_segment, in_ball, steep]).amax(0),
        )
