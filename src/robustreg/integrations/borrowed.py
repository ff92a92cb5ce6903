"""What the attacks of all other libraries have in common: the model is lent to them, and nothing else changes."""

from __future__ import annotations

import importlib
import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustreg.evaluation.predict import as_found
from robustreg.registry import suggestion
from robustreg.streams import Stream, global_seed
from robustreg.threat import Threat


class Borrowed(ABC):
    """An attack of another library, called as `(model, x, y) -> x_adv` like those of this one.

    The model runs in eval mode on the device of x; flags, `.grad`, `requires_grad` and the global random states of
    torch, NumPy and Python are as found afterwards. Those states are seeded from `generator`, so that an evaluation is
    repeatable under its seed; the numbers belong to a batch, and change with the batch size.

    The points are returned as the library gives them. Whether they keep to the threat is for the evaluation to check.

    Attributes:
        name: what an evaluation calls it.
        threat: the ball and box that it is told to keep to.
    """

    def __init__(self, name: str, threat: Threat) -> None:
        if not isinstance(threat, Threat):
            raise TypeError(f"{name} needs a Threat(norm, eps), got {type(threat).__name__}")
        self.name, self.threat = name, threat

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the adversarial points `[B, ...]` for samples x `[B, ...]` and labels y `[B]`.

        Raises:
            ImportError: the library is not installed.
            TypeError: the model is no `torch.nn.Module`.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"{self.name} needs a torch.nn.Module, got {type(model).__name__}")
        seed = Stream.from_generator(generator).seed
        with as_found(model, x.device), _random_states(x.device, seed), torch.enable_grad():
            # To the last digit in the box: other libraries refuse what lies outside by a rounding.
            return self.craft(model, self.threat.clip(x.detach()), y.detach()).detach()

    @abstractmethod
    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the points for x `[B, ...]` in the box; the model is in eval mode."""

    @abstractmethod
    def content_key(self) -> str:
        """A text that is equal only for equal attacks, so that interrupted work can be taken up again."""

    def __repr__(self) -> str:
        return self.content_key()


def library(module: str, package: str) -> Any:
    """Import a module of an optional library.

    Raises:
        ImportError: it, or what it needs in turn, is not installed; the sentence says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = "" if (error.name or "") == module.partition(".")[0] else f" (it lacks {error.name})"
        raise ImportError(f"{module} cannot be imported{missing}: pip install {package}") from error


def check_options(name: str, options: Mapping[str, Any], known: list[str]) -> None:
    """Refuse options that the attack does not have, before any work."""
    for option in options:
        if option not in known:
            raise TypeError(f"{option!r} is not an option of {name}{suggestion(option, known)}")


def parameters_of(function: Callable[..., Any]) -> list[str] | None:
    """The names of its parameters; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def plain_box(name: str, threat: Threat) -> tuple[float, float]:
    """The threat's box as two numbers.

    Raises:
        ValueError: there is no box, or one that differs by feature.
    """
    bounds = threat.bounds
    if bounds is None or any(isinstance(side, Tensor) for side in bounds):
        raise ValueError(f"{name} needs a box of two numbers, such as bounds=(0, 1), got {bounds}")
    return float(bounds[0]), float(bounds[1])


def written(options: Mapping[str, Any]) -> str:
    """Options as text."""
    return "".join(f", {key}={value!r}" for key, value in options.items())


@contextmanager
def _random_states(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global states of torch, NumPy and Python for a while."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        np.random.seed(seed % 2**32)
        random.seed(seed)
        with global_seed(device, seed):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
