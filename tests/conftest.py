"""Tiny networks, a batch, and a snapshot of everything that a step must leave as it found it."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

# One thread a process: the tests' tensors are tiny, and threads of several processes that wait for each other spin.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_raises() -> Iterator[None]:
    """Python leaves SIGINT ignored where it was started in the background; the tests of Ctrl-C send it."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Samples `[6, 1, 4, 4]` well inside the box, and labels of 3 classes."""
    g = torch.Generator().manual_seed(1)
    return 0.2 + 0.6 * torch.rand(6, 1, 4, 4, generator=g), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def double_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The batch in float64."""
    return batch[0].double(), batch[1]


@pytest.fixture
def smooth_net() -> nn.Module:
    """A smooth network in float64 without normalisation or dropout."""
    return _seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 3))).double()


@pytest.fixture
def relu_net() -> nn.Module:
    """A small convolutional ReLU network in float32 without normalisation or dropout."""
    return _seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
        )
    )


@pytest.fixture
def restless_net() -> nn.Module:
    """A network with everything that has a state or draws numbers: BatchNorm and dropout, in training mode."""
    return _seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(8, 3),
        )
    )


@pytest.fixture
def snapshot() -> Callable[..., dict[str, Any]]:
    """A function that takes down a model's flags, buffers and gradients and every global random state, to compare."""

    def take(model: nn.Module, buffers: bool = True) -> dict[str, Any]:
        state: dict[str, Any] = {
            "training": [m.training for m in model.modules()],
            "tracking": [getattr(m, "track_running_stats", None) for m in model.modules()],
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "grad": [p.grad is None for p in model.parameters()],
            "parameters": [p.detach().numpy().tobytes() for p in model.parameters()],
            "torch": torch.get_rng_state().numpy().tobytes(),
            "python": random.getstate(),
            "numpy": str(np.random.get_state()),
        }
        if buffers:
            state["buffers"] = [b.numpy().tobytes() for b in model.buffers()]
        return state

    return take
