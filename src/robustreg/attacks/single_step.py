"""Single-step attacks: noise, one gradient, one step.

Most of them are a steepest step from another start, so they are functions that say which; the two that change the
gradient before the step are points of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import Clip, Point, Steepest, Uniform, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class Rademacher(Point):
    """The sample plus a random corner: every feature is moved up or down by the same amount.

    For ``linf`` the amount is ``scale * eps``, as ``alpha * sign(N(0, I))`` in R-FGSM; for other norms it is such that
    the perturbation has length ``scale * eps``.

    Args:
        threat: norm, radius and box.
        number: of the draw: equal points share theirs, another number makes another.
        scale: length of the perturbation as a multiple of ``eps``.
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
            raise ValueError(f"scale is the length as a multiple of eps and must be >= 0, got {self.scale}")

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Random signs ``[B, ...]``."""
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
        return (2 * signs - 1).to(x.dtype)

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus its corner."""
        step = self.scale * self.threat.steepest(probe.noise(self))
        return clipped(probe.x + step, probe.x, self.threat, self.clip)


def RS_FGSM(
    threat: Threat, step: float = 1.25, loss: Loss = "ce", mode: Mode = "eval", number: int = 0
) -> Steepest:
    """Fast gradient step from a uniform start (Wong, Rice & Kolter 2020), kept within the threat.

    Args:
        threat: norm, radius and box.
        step: length of the step as a multiple of ``eps``.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        number: of the start's draw.
    """
    start = Uniform(threat, number, 1.0, "box")
    return Steepest(threat, start, step, loss, mode, "threat")


def R_FGSM(
    threat: Threat, alpha: float = 0.5, loss: Loss = "ce", mode: Mode = "eval", number: int = 0
) -> Steepest:
    """A random corner of size ``alpha``, then a fast gradient step with what is left of ``eps`` (Tramer et al. 2018).

    Args:
        threat: norm, radius and box.
        alpha: size of the corner as a multiple of ``eps``, in [0, 1].
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        number: of the corner's draw.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the part of eps that the random start takes, in [0, 1], got {alpha}")
    start = Rademacher(threat, number, alpha, "box")
    return Steepest(threat, start, 1.0 - alpha, loss, mode, "threat")


def N_FGSM(
    threat: Threat,
    k: float = 2.0,
    step: float = 1.0,
    loss: Loss = "ce",
    mode: Mode = "eval",
    number: int = 0,
) -> Steepest:
    """Noise of ``k`` times the radius, then a fast gradient step, not projected (de Jorge et al. 2022).

    It is made for training: its perturbations are up to ``(k + step) * eps`` long, outside the threat.

    Args:
        threat: norm, radius and box.
        k: radius of the uniform noise as a multiple of ``eps``.
        step: length of the step as a multiple of ``eps``.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        number: of the noise's draw.
    """
    start = Uniform(threat, number, k, "box")
    return Steepest(threat, start, step, loss, mode, "box")


@dataclass(frozen=True)
class ZeroGrad(Point):
    """A steepest step from a random start with the sample's smallest gradient entries set to zero.

    Entries below the sample's ``quantile`` of ``|g|`` are the ones whose sign is least certain (Golgooni et al. 2021).

    Args:
        threat: ball and box.
        quantile: of a sample's ``|g|``, linearly interpolated; entries strictly below it are zeroed.
        scale: length of the step as a multiple of ``eps``.
        start: where the gradient is taken; by default uniform in the ball.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        clip: ``"threat"`` keeps the point in ball and box.
    """

    threat: Threat
    quantile: float = 0.35
    scale: float = 2.0
    start: Point | None = None
    loss: Loss = "ce"
    mode: Mode = "eval"
    clip: Clip = "threat"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"quantile must lie in [0, 1], got {self.quantile}")

    def parts(self) -> Iterator[Point]:
        """The start."""
        yield self._start()

    def locate(self, probe: Probe) -> Tensor:
        """The start plus the step."""
        g = numerics.upcast(probe.grad(self._start(), self.loss, self.mode))
        rows = numerics.flatten(g).abs()
        uncertain = rows < quantile(rows, self.quantile).unsqueeze(1)
        g = torch.where(uncertain.reshape(g.shape), 0.0, g)
        z = probe.at(self._start()) + (self.scale * self.threat.steepest(g)).to(probe.x.dtype)
        return clipped(z, probe.x, self.threat, self.clip)

    def _start(self) -> Point:
        return Uniform(self.threat, 0, 1.0, "box") if self.start is None else self.start


@dataclass(frozen=True)
class MultiGrad(Point):
    """A step from the sample where the gradients at several random points agree on the sign, and nowhere else.

    For ``linf`` it is ``sign(sum_k sign(g_k))`` where at least ``agree`` of the signs are the same (Golgooni et al.
    2021); for other norms the mean of the gradients, masked alike, is what the steepest step is taken along.

    Args:
        threat: ball and box.
        samples: number of random points, uniform in the ball.
        agree: how many signs must be the same; by default all.
        scale: length of the step as a multiple of ``eps``.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradients, once for each point.
        clip: ``"threat"`` keeps the point in ball and box.
    """

    threat: Threat
    samples: int = 3
    agree: int | None = None
    scale: float = 2.0
    loss: Loss = "ce"
    mode: Mode = "eval"
    clip: Clip = "threat"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)
        if self.samples < 1:
            raise ValueError(f"MultiGrad needs samples >= 1, got {self.samples}")
        if self.agree is not None and not self.samples < 2 * self.agree <= 2 * self.samples:
            raise ValueError(f"agree must be a majority of the {self.samples} samples, got {self.agree}")

    def parts(self) -> Iterator[Point]:
        """The random points."""
        yield from self.starts()

    def starts(self) -> list[Point]:
        """The random points, each with a draw of its own."""
        return [Uniform(self.threat, number, 1.0, "box") for number in range(self.samples)]

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus the step."""
        gradients = [numerics.upcast(probe.grad(start, self.loss, self.mode)) for start in self.starts()]
        votes = torch.stack([g.sign() for g in gradients]).sum(0)
        mean = torch.stack(gradients).mean(0).abs()
        needed = 2 * (self.samples if self.agree is None else self.agree) - self.samples
        # a mean that cancels to 0 under a majority still has the majority's sign
        size = torch.where(mean > 0, mean, torch.finfo(mean.dtype).tiny)
        g = torch.where(votes.abs() >= needed, votes.sign() * size, 0.0)
        z = probe.x + (self.scale * self.threat.steepest(g)).to(probe.x.dtype)
        return clipped(z, probe.x, self.threat, self.clip)


@dataclass(frozen=True)
class IFGSM(Point):
    """``steps`` steepest steps of ``eps / steps`` each from the sample, within the box: never further than ``eps``.

    Args:
        threat: norm, radius and box.
        steps: number of steps.
        last: attack only the last so many labelled samples, and give their rows alone, last sample first; None for all.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradients.
    """

    threat: Threat
    steps: int = 10
    last: int | None = None
    loss: Loss = "ce"
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.steps < 1:
            raise ValueError(f"IFGSM needs steps >= 1, got {self.steps}")
        if self.last is not None and self.last < 1:
            raise ValueError(f"last is a number of samples from 1, or None for all, got {self.last}")

    def locate(self, probe: Probe) -> Tensor:
        """The end of the steps, ``[B, ...]`` or ``[last, ...]``."""
        rows = None if self.last is None else last_labelled(probe.labels(), self.last)
        x = z = probe.x if rows is None else probe.x[rows]
        step = self.threat.with_eps(self.threat.eps / self.steps)
        for i in range(self.steps):
            _, _, g = probe.ascend(z, rows, self.loss, self.mode, self, i, point=self)
            assert g is not None  # asked for by default
            z = self.threat.project(z + step.steepest(g), x)  # in bfloat16 rounding adds up to more than eps
        return z


def last_labelled(y: Tensor, n: int) -> Tensor:
    """The indices ``[n]`` of the last ``n`` labelled samples, last first; unlabelled ones only where there are fewer.

    On the device and without waiting for it, so that it can be part of a compiled step.
    """
    place = torch.arange(1, y.shape[0] + 1, device=y.device)
    return torch.where(y >= 0, place, 0).topk(min(n, y.shape[0])).indices


def quantile(rows: Tensor, q: float) -> Tensor:
    """The ``q``-quantile of each row ``[B, D]``, linearly interpolated, ``[B]``: ``torch.quantile`` of any size."""
    place = q * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    low, high = (rows.kthvalue(k + 1, dim=1).values for k in (below, above))
    return torch.lerp(low, high, place - below)
