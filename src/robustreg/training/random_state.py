"""Every random state that a training step can draw from, captured and restored."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


def capture() -> dict[str, Any]:
    """The states of Python, NumPy (where something has loaded it), torch on the CPU and on CUDA devices."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        legacy = sys.modules["numpy"].random.get_state(legacy=False)
        inner = legacy["state"]
        state["numpy"] = {
            **legacy,
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
            "state": {"key": [int(word) for word in inner["key"]], "pos": int(inner["pos"])},
        }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put back what `capture` took. States of libraries or devices that are not here now are left out."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state and "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        inner = state["numpy"]["state"]
        key = numpy.array(inner["key"], dtype=numpy.uint32)
        numpy.random.set_state({**state["numpy"], "state": {**inner, "key": key}})
    if "cuda" in state and torch.cuda.is_available():
        for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state, index)


def seed_all(seed: int) -> None:
    """Seed Python, NumPy (where loaded) and torch on all devices."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    torch.manual_seed(seed)
