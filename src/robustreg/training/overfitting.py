"""Watches for catastrophic overfitting: a network that withstands the single step it is trained on and nothing else.

E. Wong, L. Rice and J. Z. Kolter, "Fast is better than free", ICLR 2020, saw it first; M. Andriushchenko and N.
Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020, say what happens: within a few steps
the gradient turns inside the radius, and accuracy under multi-step attacks falls to zero. What is watched here is that
fall, on samples held out of training.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.attacks import PGD
from robustreg.modes import running
from robustreg.objective import Objective
from robustreg.points import FGSM
from robustreg.terms import CrossEntropy, Term
from robustreg.threat import Threat
from robustreg.training.guards import TrainingStopped
from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer

Action = Literal["warn", "stop", "roll_back", "switch"]


@dataclass(frozen=True)
class Symptoms:
    """What the held-out samples show at one step.

    Attributes:
        fgsm, pgd: accuracy under the single step and under the multi-step attack, fractions.
        alignment: mean cosine between the gradients at the sample and at the single step's end (PertAlign).
        abnormal: share of samples whose loss is lower at the single step's end than at the sample.
    """

    fgsm: float
    pgd: float
    alignment: float
    abnormal: float

    def __str__(self) -> str:
        return (
            f"FGSM {100 * self.fgsm:.1f} %, PGD {100 * self.pgd:.1f} %, PertAlign {self.alignment:.2f}, "
            f"{100 * self.abnormal:.1f} % abnormal examples"
        )


def symptoms(
    net: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int = 10, seed: int = 0
) -> Symptoms:
    """Measure the symptoms of catastrophic overfitting on samples `[B, ...]`, `y [B]`; the net is left as is."""
    generator = torch.Generator(device=x.device).manual_seed(seed)
    single = FGSM(threat)(net, x, y, generator=generator)
    many = PGD(threat, steps=steps)(net, x, y, generator=generator)
    with running(net, "eval"):
        first, start, _ = _looked_at(net, x, y)
        last, end, right = _looked_at(net, single, y)
        with torch.no_grad():
            robust = net(many).argmax(1) == y
    lengths = first.norm(dim=1) * last.norm(dim=1)
    cosine = (first * last).sum(1) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
    return Symptoms(
        fgsm=float(right.double().mean()),
        pgd=float(robust.double().mean()),
        alignment=float(torch.where(lengths > 0, cosine, 0.0).mean()),
        abnormal=float((end < start).double().mean()),
    )


class CatastrophicOverfittingGuard(Handler):
    """Looks at held-out samples every `every` steps, and acts when training has collapsed.

    Collapsed means: the gap between accuracy under FGSM and under PGD exceeds `gap`, or accuracy under PGD lost
    more than `gap` and more than `fall` of its best, and at the same time PertAlign is below `alignment` or more than
    `abnormal` of the adversarial examples have a lower loss than their samples. A network that leaves the constant
    output of its first steps loses the accuracy of guessing: that is less than `gap` and no collapse. Training on PGD
    at that stage can end at the constant output for good. `seen` has every measurement, `acted` the steps at
    which it acted. Outside a step the module has the objective it came with, so that a checkpoint holds that one's
    memory; the guard's own state holds that of the rescue, and the sound weights, so that a resume in the middle of a
    rescue goes on exactly.

    Args:
        x, y: samples `[B, ...]` and labels `[B]` that are not trained on; a hundred or more.
        threat: norm, radius and box.
        action: `"warn"` says so once; `"stop"` raises `TrainingStopped`; `"roll_back"` goes back to weights and
            optimiser of the last sound look and trains on with the multi-step attack for `rescue` steps, because
            the same steps would lead to the same place; `"switch"` keeps the weights and trains multi-step for
            `rescue` steps.
        every: steps between looks; a look costs about `steps + 3` passes of its samples.
        rescue: steps of multi-step training after a collapse.
        steps: of PGD, in looking and in the rescue.
        gap, fall, alignment, abnormal: see above, fractions.
        objective: what is minimised in the rescue; by default cross-entropy at PGD's points.

    Raises:
        ValueError: an option out of range.
    """

    order: ClassVar[int] = 30

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        action: Action = "roll_back",
        *,
        every: int = 20,
        rescue: int = 50,
        steps: int = 10,
        gap: float = 0.3,
        fall: float = 0.5,
        alignment: float = 0.3,
        abnormal: float = 0.2,
        objective: Objective | Term | None = None,
    ) -> None:
        if action not in get_args(Action):
            raise ValueError(f"action must be one of {', '.join(get_args(Action))}, got {action!r}")
        for name, value in (("every", every), ("rescue", rescue), ("steps", steps), ("samples", len(x))):
            if value < 1:
                raise ValueError(f"catastrophic overfitting guard: {name} must be at least 1, got {value}")
        if len(x) != len(y):
            raise ValueError(f"there are {len(x)} held-out samples but {len(y)} labels")
        self.x, self.y, self.threat, self.action = x, y, threat, action
        self.every, self.rescue, self.steps = every, rescue, steps
        self.gap, self.fall, self.alignment, self.abnormal = gap, fall, alignment, abnormal
        chosen = CrossEntropy(at=PGD(threat, steps=steps)) if objective is None else objective
        self.rescue_objective = Objective.of(chosen) if isinstance(chosen, Term) else chosen
        self.seen: list[tuple[int, Symptoms]] = []
        self.acted: list[int] = []
        self.best = 0.0
        self._sound: dict[str, Any] | None = None
        self._usual: Objective | None = None  # while a step of a rescue runs
        self._until = -1

    def collapsed(self, found: Symptoms) -> bool:
        """Whether the symptoms are those of a collapse, given the best accuracy under PGD so far."""
        if found.fgsm - found.pgd > self.gap:
            return True
        lost = self.best - found.pgd
        fell = lost > self.fall * self.best and lost > self.gap
        return fell and (found.alignment < self.alignment or found.abnormal > self.abnormal)

    def start(self, trainer: Trainer) -> None:
        """The state before the first step is sound."""
        if self._sound is None:  # not resumed
            self._keep(trainer)

    def step_start(self, trainer: Trainer) -> None:
        """A step of a rescue minimises the rescue's objective."""
        if trainer.step < self._until:
            self._usual, trainer.module.objective = trainer.module.objective, self.rescue_objective

    def gradients(self, trainer: Trainer) -> None:
        """Put the usual objective back, before anyone saves the state."""
        self._put_back(trainer)

    def step_end(self, trainer: Trainer) -> None:
        """Look, every so many steps."""
        if trainer.step % self.every == 0:
            self._look(trainer)

    def end(self, trainer: Trainer) -> None:
        """Leave the module with the objective it came with, also after an error."""
        self._put_back(trainer)

    def state_dict(self) -> dict[str, Any]:
        """How far a rescue is, what was reached, and what to go back to."""
        return {
            "best": self.best,
            "until": self._until,
            "acted": list(self.acted),
            "rescue": self.rescue_objective.state_dict(),
            "sound": self._sound,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self.best, self._until = float(state["best"]), int(state["until"])
        self.acted = [int(step) for step in state["acted"]]
        self.rescue_objective.load_state_dict(state["rescue"])
        self._sound = state["sound"]

    def _put_back(self, trainer: Trainer) -> None:
        if self._usual is not None:
            trainer.module.objective, self._usual = self._usual, None

    def _look(self, trainer: Trainer) -> None:
        x, y = trainer.to_net((self.x, self.y))
        found = symptoms(trainer.module.net, x, y, self.threat, self.steps, seed=trainer.step)
        self.seen.append((trainer.step, found))
        if not self.collapsed(found):
            self.best = max(self.best, found.pgd)
            self._keep(trainer)
        elif trainer.step >= self._until:  # a rescue that runs is given its time
            self._act(trainer, found)

    def _act(self, trainer: Trainer, found: Symptoms) -> None:
        said = f"catastrophic overfitting at step {trainer.step}: {found}"
        if self.action == "stop":
            values = {"fgsm": found.fgsm, "pgd": found.pgd}
            raise TrainingStopped(f"{said}; training was stopped.", trainer.step, values, None)
        if self.action != "warn" or not self.acted:
            does = {
                "warn": "training goes on as it is",
                "roll_back": f"back to the last sound weights and {self.rescue} steps with PGD",
                "switch": f"{self.rescue} steps with PGD",
            }
            warnings.warn(f"{said}; {does[self.action]}.", stacklevel=2)
        self.acted.append(trainer.step)
        if self.action == "roll_back":
            self._go_back(trainer)
        if self.action in ("roll_back", "switch"):
            self._until = trainer.step + self.rescue

    def _keep(self, trainer: Trainer) -> None:
        if self.action == "roll_back":
            held = {"net": trainer.module.net.state_dict(), "optimizer": trainer.optimizer.state_dict()}
            self._sound = copy.deepcopy(held)

    def _go_back(self, trainer: Trainer) -> None:
        """Weights and the optimiser's averages of the last sound look; steps, data and learning rate go on."""
        assert self._sound is not None
        state = copy.deepcopy(self._sound)  # the optimiser keeps and changes the tensors that it is given
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        trainer.module.net.load_state_dict(state["net"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _looked_at(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Input gradients as rows `[B, D]`, losses `[B]` and which samples are right `[B]`."""
    u = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = net(u)
        losses = numerics.cross_entropy(logits, y)
        (g,) = torch.autograd.grad(losses.sum(), u)
    return numerics.flatten(numerics.upcast(g)), losses.detach(), logits.argmax(1) == y
