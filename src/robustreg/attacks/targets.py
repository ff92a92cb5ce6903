"""Attacks that climb towards one other class after the other: which classes, and which losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.losses import RowLoss
from robustreg.modes import Mode
from robustreg.points import Point
from robustreg.probe import Probe

TargetedLoss = Literal["dlr", "margin", "ce"]

TARGETED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dlr": numerics.targeted_dlr,
    "margin": numerics.targeted_margin,
    "ce": numerics.targeted_cross_entropy,
}


def check_targets(loss: object, targets: int | None) -> None:
    """Refuse a loss that has no targeted form, and fewer than one target."""
    if loss not in TARGETED:
        raise ValueError(f"a targeted loss is one of {', '.join(get_args(TargetedLoss))}, got {loss!r}")
    if targets is not None and targets < 1:
        raise ValueError(f"targets is a number of classes from 1, got {targets}")


def clean_logits(probe: Probe, point: Point, mode: Mode) -> Tensor:
    """The logits ``[B, C]`` of the clean batch, by runs of its own: no graph is kept for the length of the attack."""
    parts = torch.split(probe.x, probe.at_once or max(len(probe.x), 1))
    return torch.cat(
        [probe.run(part, mode, point, "clean", number, point=point) for number, part in enumerate(parts)]
    )


def others_by_rank(logits: Tensor, y: Tensor, targets: int | None) -> Tensor:
    """The classes beside the label from most to least likely, ``[B, T]``; T is at most ``targets`` and all there are.

    Samples labelled -1 get classes too, of which no use is made.
    """
    classes = logits.shape[1]
    own = torch.arange(classes, device=logits.device) == y.unsqueeze(1)
    others = classes - 1 if targets is None else min(targets, classes - 1)
    return logits.masked_fill(own, -torch.inf).topk(others, dim=1).indices


def towards(loss: object, y: Tensor, target: Tensor) -> RowLoss:
    """The targeted loss of a batch with labels ``y [B]`` towards classes ``target [B]``."""
    function = TARGETED[str(loss)]

    def of(logits: Tensor, rows: Tensor | None) -> Tensor:
        return function(logits, y, target) if rows is None else function(logits, y[rows], target[rows])

    return of


def outspoken(function: RowLoss, name: object) -> RowLoss:
    """The same loss, which warns where it is not the ``"dlr"`` of its name: there is none of fewer than 4 classes."""
    told = name != "dlr" or torch.compiler.is_compiling()

    def of(logits: Tensor, rows: Tensor | None) -> Tensor:
        nonlocal told
        classes = logits.shape[1]
        if not told and classes < 4:
            warnings.warn(
                f"the DLR loss needs at least 4 classes, the model has {classes}: the margin is climbed instead",
                stacklevel=2,
            )
        told = True
        return function(logits, rows)

    return of
