"""What all checks look at: the model, the samples, the threat, and what was measured once for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.attacks import APGD, PGD, RS_FGSM
from robustreg.evaluation.crafting import Crafter
from robustreg.evaluation.predict import correct
from robustreg.losses import Loss, labelled
from robustreg.modes import running
from robustreg.points import CLEAN, FGSM, Point, Steepest
from robustreg.streams import derive_seed
from robustreg.threat import Threat

if TYPE_CHECKING:
    from robustreg.auditing.averaging import Averages

REPEATS = 8  # a model that draws one of a few variants a call must not look the same in all of them by chance
WIDE = 10.0  # a spread of logits over the classes on which cross-entropy can aim, far from saturation


@dataclass(frozen=True)
class Budget:
    """How much work an audit does."""

    samples: int
    steps: int
    more_steps: int
    restarts: int
    queries: int
    draws: int
    substitute_steps: int


QUICK = Budget(samples=128, steps=50, more_steps=100, restarts=2, queries=500, draws=50, substitute_steps=300)
THOROUGH = Budget(
    samples=512, steps=50, more_steps=200, restarts=10, queries=5000, draws=500, substitute_steps=2000
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """An attack on the samples that are classified right: its points, what they do, and why it could not run.

    Attributes:
        points: `[n, ...]`; the samples themselves where it could not run.
        fooled: `[n]` bool; an output that is NaN is never right.
        losses: the cross-entropy at the points, `[n]`.
        problem: one sentence, or None.
    """

    points: Tensor
    fooled: Tensor
    losses: Tensor
    problem: str | None

    def or_raise(self) -> Outcome:
        """The outcome; RuntimeError with the problem where the attack could not run."""
        if self.problem is not None:
            raise RuntimeError(self.problem)
        return self


class Case:
    """A model in evaluation mode on the samples it classifies right; everything shared is computed once.

    Attributes:
        model: `[B, ...]` to logits `[B, C]`, lent as it is and put back by the audit.
        threat, seed, budget: of the audit.
        batch_size: how many samples a call of the model sees at most; what is found does not depend on it.
        all_x, all_y: every sample, `[N, ...]` and `[N]`.
        x, y: those classified right, `[n, ...]` and `[n]`: what attacks start from.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        seed: int,
        budget: Budget,
        batch_size: int,
    ) -> None:
        self.model, self.threat, self.seed, self.budget = model, threat, seed, budget
        self.batch_size = batch_size
        self.all_x, self.all_y = x, y
        self.all_logits = self.logits(x)
        self.right = correct(self.all_logits, y)
        self.x, self.y = x[self.right], y[self.right]
        self.handed_over: list[str] = []  # what layers in training mode did, as the model was handed over
        self.before_calls: nn.Module | None = None  # a copy that was asked nothing yet
        self.averages: Averages | None = None  # of a random model
        self.curve: tuple[list[float], list[Outcome]] | None = None  # PGD over eps
        self.fooling: dict[str, Tensor] = {}  # which samples each attack without a name here fooled
        self.checked, self.failed = 0, list[str]()  # checks so far, and those that could not be carried out
        self._outcomes: dict[str, Outcome] = {}

    # The network

    def logits(
        self, x: Tensor, model: Callable[[Tensor], Tensor] | None = None, *, rows: int | None = None
    ) -> Tensor:
        """Logits `[B, C]` in evaluation mode, without a graph; `rows` in place of the batch size."""
        network = self.model if model is None else model
        with running(self.model, "eval"), torch.no_grad():
            return torch.cat([network(part) for part in torch.split(x, rows or self.batch_size)])

    def gradient(
        self,
        x: Tensor,
        y: Tensor,
        loss: str = "ce",
        model: nn.Module | None = None,
    ) -> Tensor | None:
        """The input gradient `[B, ...]` of a loss in evaluation mode; None where there is no graph to the input."""
        network, parts = self.model if model is None else model, []
        for part, labels in zip(
            torch.split(x, self.batch_size), torch.split(y, self.batch_size), strict=True
        ):
            u = part.detach().clone().requires_grad_()
            with running(network, "eval"), torch.enable_grad():
                total = labelled(loss)(network(u), labels).sum()
                if not total.requires_grad:
                    return None
                found: tuple[Tensor | None, ...] = torch.autograd.grad(total, u, allow_unused=True)
            if found[0] is None:
                return None
            parts.append(found[0].detach())
        return torch.cat(parts)

    def losses(self, x: Tensor, y: Tensor, loss: str = "ce", model: nn.Module | None = None) -> Tensor:
        """A loss per sample `[B]`."""
        return labelled(loss)(self.logits(x, model), y)

    def generator(self, *key: object) -> torch.Generator:
        """Random numbers of a check's own, by the audit's seed; on the CPU, so that devices agree."""
        return torch.Generator().manual_seed(derive_seed(self.seed, "audit", *key))

    def noise(self, x: Tensor, *key: object, scale: float = 1.0) -> Tensor:
        """Points drawn uniformly from the ball, moved into the box, `[B, ...]`."""
        threat = self.threat.with_eps(scale * self.threat.eps)
        return threat.project(x + threat.random(x, self.generator(*key)), x)

    @cached_property
    def one_class(self) -> bool:
        """Whether samples of several classes, and noise, are all given the same class."""
        noise = torch.rand(self.all_x.shape, generator=self.generator("classes")).to(self.all_x)
        classes = torch.cat([self.all_logits, self.logits(self.threat.clip(noise))]).argmax(1)
        return len(torch.unique(classes)) == 1 and len(torch.unique(self.all_y)) > 1

    # Gradients

    @cached_property
    def clean_gradient(self) -> Tensor:
        """The cross-entropy's gradient at the right samples; zeros where there is none."""
        g = self.gradient(self.x, self.y)
        return torch.zeros_like(self.x) if g is None else g

    @cached_property
    def repeated(self) -> Tensor:
        """The logits of several calls with the same input, `[calls, N, C]`."""
        return torch.stack([self.logits(self.all_x) for _ in range(REPEATS)])

    @cached_property
    def changes(self) -> Tensor:
        """The samples whose logits differ between calls, beyond rounding, `[N]`."""
        change = (self.repeated - self.repeated[0]).abs().amax((0, 2))
        same = (change <= 1e-5 * spread(self.all_logits)) | (self.repeated == self.repeated[0]).all(0).all(1)
        return ~same & self.repeated.isfinite().all(0).all(1)

    @cached_property
    def random_outputs(self) -> bool:
        """Whether two calls with the same input give different logits."""
        return bool(self.changes.any())

    # Attacks

    def attacked(self, name: str) -> Outcome:
        """The outcome of an attack by name, made once: fgsm, rs_fgsm, half, pgd, scaled, more, margin, adaptive."""
        if name not in self._outcomes:
            rescaled = Scaled(self.model, WIDE / spread(self.all_logits)) if name == "scaled" else None
            self._outcomes[name] = self.attack(self._point(name), name, model=rescaled)
        return self._outcomes[name]

    def craft(
        self,
        point: Point,
        x: Tensor,
        y: Tensor,
        *key: object,
        model: nn.Module | None = None,
        rows: int | None = None,
    ) -> Tensor:
        """The points `[B, ...]` that an attack finds from x, batch by batch.

        Args:
            point: the attack.
            x, y: samples and labels.
            key: names its random numbers, of which each sample has its own, whatever its batch.
            model: another network to find the points on.
            rows: samples at a time, in place of the batch size.
        """
        network = _InBatches(self.model if model is None else model, self.batch_size)
        crafter = Crafter(" ".join(["audit", *map(str, key)]), point, self.seed)
        numbers = torch.split(torch.arange(len(x)), rows or self.batch_size)
        return torch.cat([crafter(network, x[part], y[part], part) for part in numbers])

    def attack(
        self,
        point: Point,
        *key: object,
        model: nn.Module | None = None,
        among: Tensor | None = None,
        rows: int | None = None,
    ) -> Outcome:
        """Attack the right samples.

        Args:
            point: the attack.
            key: names its random numbers.
            model: another network to find the points on.
            among: which samples to attack, `[n]` bool; the others keep their place, and the time.
            rows: samples at a time, in place of the batch size.
        """
        problem, points = None, self.x.clone()
        chosen = torch.ones_like(self.y, dtype=torch.bool) if among is None else among
        if not chosen.any():
            return self.outcome(points)
        try:
            points[chosen] = self.craft(point, self.x[chosen], self.y[chosen], *key, model=model, rows=rows)
        except Exception as error:  # a gradient that raises is what some checks are looking for
            problem = f"{type(point).__name__} could not run: {error}"
        return self.outcome(points, problem)

    def outcome(self, points: Tensor, problem: str | None = None) -> Outcome:
        """What points `[n, ...]` do to the right samples."""
        logits = self.logits(points)
        return Outcome(
            points,
            ~correct(logits, self.y),
            numerics.cross_entropy(logits, self.y),
            problem,
        )

    @cached_property
    def white_box(self) -> Tensor:
        """The right samples that gradient attacks fool, `[n]`: PGD, with more effort, on the margin, and APGD.

        What they leave standing is compared with attacks without gradients, so they had better be good: on a
        TRADES-trained network for MNIST Square found 8 % beyond PGD, most of which APGD on the margin finds, too.
        """
        names = ("pgd", "margin", "more", "adaptive")
        return torch.stack([self.attacked(name).fooled for name in names]).any(0)

    def _point(self, name: str) -> Point:
        threat, budget = self.threat, self.budget
        points: dict[str, Callable[[], Point]] = {
            "fgsm": lambda: FGSM(threat),
            "rs_fgsm": lambda: RS_FGSM(threat, step=1.0),
            "half": lambda: Steepest(threat, CLEAN, 0.5, clip="threat"),
            "pgd": lambda: climb(threat, budget.steps),
            "scaled": lambda: climb(threat, budget.steps),
            "more": lambda: climb(threat, budget.more_steps, restarts=budget.restarts),
            "margin": lambda: climb(threat, budget.steps, loss="margin"),
            "adaptive": lambda: adaptive(threat, budget.more_steps),
        }
        return points[name]()


class Scaled(nn.Module):
    """The model with its logits multiplied."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]`` in float64, where a large factor overflows nothing."""
        z: Tensor = self.model(x).double() * self.factor
        return z


class _InBatches(nn.Module):
    """A network that never sees more rows than `size`: Square asks for several points of a sample at once."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        if len(x) <= self.size:
            whole: Tensor = self.model(x)
            return whole
        return torch.cat([self.model(part) for part in torch.split(x, self.size)])


def climb(
    threat: Threat, steps: int, *, loss: Loss = "ce", restarts: int = 1, early_exit: bool = True
) -> PGD | APGD:
    """The gradient attack of many steps: PGD, in l1 APGD, because steps of one value each get nowhere there."""
    attack = APGD if threat.norm == 1 else PGD
    return attack(threat, steps=steps, loss=loss, restarts=restarts, early_exit=early_exit)


def adaptive(threat: Threat, steps: int) -> PGD | APGD:
    """APGD on the margin; for norms that it is not made for PGD."""
    attack = APGD if threat.norm in (1.0, 2.0, math.inf) else PGD
    return attack(threat, steps=steps, loss="margin")


def spread(logits: Tensor) -> float:
    """How far a network's logits `[B, C]` lie apart: the mean range over classes, never 0."""
    finite = torch.nan_to_num(logits.double(), nan=0.0, posinf=0.0, neginf=0.0)
    return max(float((finite.amax(1) - finite.amin(1)).mean()), 1e-300)
