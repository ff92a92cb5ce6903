"""Optimisers and learning-rate schedules by name, every option checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from robustreg.registry import suggestion
from robustreg.training.schedules import SHAPES, ShapeLR


def sgd(
    params: Iterable[Any],
    *,
    lr: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    dampening: float = 0.0,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent."""
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, dampening=dampening
    )


def adam(
    params: Iterable[Any],
    *,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam; `weight_decay` is added to the gradient."""
    return torch.optim.Adam(
        params, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


def adamw(
    params: Iterable[Any],
    *,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay."""
    return torch.optim.AdamW(
        params, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


def build_optimizer(name: str, params: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """The optimiser `name` ("sgd", "adam", "adamw") over `params`.

    Raises:
        ValueError: unknown name or option, with the closest valid one; a value that the optimiser refuses.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}{suggestion(name, OPTIMIZERS)}.")
    check_options(f"optimizer {name}", OPTIMIZERS[name], options)
    return OPTIMIZERS[name](params, **options)


def build_schedule(
    name: str,
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    *,
    epochs: int | None = None,
    momentum: Sequence[float] | None = None,
    momentum_until: float = 1.0,
    **options: Any,
) -> ShapeLR:
    """The schedule `name` of the optimiser's learning rate over a run, to be stepped once a step.

    Args:
        name: "constant", "cosine", "onecycle", "multistep", "cyclic" or "exponential"; `schedules` has their
            options.
        total_steps: of the run.
        epochs: of the run, for milestones given in epochs.
        momentum: `(first, last)` for a linear ramp of the momentum over `momentum_until` of the run.

    Raises:
        ValueError: unknown name or option, with the closest valid one; a value out of range.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown learning-rate schedule {name!r}{suggestion(name, SHAPES)}.")
    check_options(f"schedule {name}", SHAPES[name], options, also=("momentum", "momentum_until"))
    if "epochs" in inspect.signature(SHAPES[name]).parameters:
        options["epochs"] = epochs
    ramp = None if momentum is None else _pair(momentum)
    return ShapeLR(optimizer, SHAPES[name](total_steps, **options), ramp, round(momentum_until * total_steps))


def check_options(
    what: str, function: Callable[..., Any], options: dict[str, Any], also: Sequence[str] = ()
) -> None:
    """ValueError naming the first option that `function` does not take, and the closest one it does."""
    _, *parameters = inspect.signature(function).parameters.values()  # the first is the run's to give
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.name != "epochs"] + list(also)
    for option in options:
        if option not in known:
            raise ValueError(f"{what} has no option {option!r}{suggestion(option, known)}.")


def _pair(values: Any) -> tuple[float, float]:
    if not isinstance(values, (list, tuple)) or len(values) != 2:
        raise ValueError(f"expected two numbers such as [0.5, 0.7], got {values!r}.")
    return float(values[0]), float(values[1])
