from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from robustreg import CrossEntropy
from robustreg.attacks import PGD
from robustreg.data import ArrayData, Loader, from_arrays
from robustreg.module import ObjectiveModule
from robustreg.penalties import GradientNorm
from robustreg.schedules import Ramp
from robustreg.threat import Threat
from robustreg.training.handler import Handler
from robustreg.training.loop import Trainer
from robustreg.training.optim import build_optimizer, build_schedule

THREAT = Threat("linf", 0.1)


def make_net(seed: int = 0, batch_norm: bool = True, dropout: float = 0.2, width: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.BatchNorm2d(width) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(width * 36, 3),
        )


def make_data(n: int = 40, seed: int = 0) -> ArrayData:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 8, 8, generator=g) * 0.5
    x[torch.arange(n), 0, 2 + 2 * y] += 0.5  # the class is a bright row
    return from_arrays(x, y, classes=3)


def make_objective() -> Any:
    """Random points, an attack with a random start, a double backward and a scheduled weight."""
    attack = PGD(THREAT, steps=2)
    return CrossEntropy() + 0.5 * GradientNorm(THREAT) + Ramp(0, 1) * CrossEntropy(at=attack)


class StopAt(Handler):
    """Asks for a stop at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def step_end(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            trainer.stop()


class Recorder(Handler):
    """Notes every event with the step at which it came."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def __getattribute__(self, name: str) -> Any:
        names = Handler.__dict__
        if (
            not name.startswith("_")
            and name in names
            and name not in ("order", "state_dict", "load_state_dict", "around_gradients")
        ):
            return lambda trainer: self.events.append((name, trainer.step))
        return super().__getattribute__(name)


def make_trainer(
    handlers: tuple[Handler, ...] = (),
    *,
    epochs: int | None = 3,
    steps: int | None = None,
    optimizer: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    objective: Any = None,
    net: nn.Module | None = None,
    loader: Any = None,
    n: int = 40,
    precision: Any = "32-true",
    seed: int | None = 7,
    **more: Any,
) -> Trainer:
    """A trainer of 5 steps an epoch, on the CPU."""
    net = make_net() if net is None else net
    loader = (
        Loader(make_data(n), 8, shuffle=True, seed=3, augment=["crop1", "flip"]) if loader is None else loader
    )
    opt = build_optimizer(
        params=net.parameters(), **(optimizer or {"name": "sgd", "lr": 0.1, "momentum": 0.9})
    )
    total = steps if steps is not None else (epochs or 0) * len(loader)
    sched = build_schedule(
        optimizer=opt, total_steps=total, epochs=epochs, **(schedule or {"name": "cosine"})
    )
    module = ObjectiveModule(net, make_objective() if objective is None else objective, seed=seed)
    fabric = more.pop("fabric", None) or Fabric(accelerator="cpu", devices=1, precision=precision)
    return Trainer(
        module,
        opt,
        loader,
        epochs=epochs if steps is None else None,
        steps=steps,
        scheduler=sched,
        fabric=fabric,
        handlers=handlers,
        **more,
    )


def rows(path: Path, without: tuple[str, ...] = ("seconds",)) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(stream)]


def scramble() -> None:
    """Move every global random state somewhere else, as another process would have it."""
    seed = int(torch.randint(0, 2**31, ()).item()) + 1
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Tools:
    """What the tests of this folder share."""

    threat = THREAT
    net = staticmethod(make_net)
    data = staticmethod(make_data)
    objective = staticmethod(make_objective)
    trainer = staticmethod(make_trainer)
    rows = staticmethod(rows)
    scramble: Callable[[], None] = staticmethod(scramble)
    StopAt = StopAt
    Recorder = Recorder


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
