"""The samples of a climb, row by row, and what a rule remembers of them: some of them, taken apart, put together."""

from __future__ import annotations

import itertools
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustreg.attacks.portions import evenly


@dataclass
class Rows:
    """The samples of one climb, row by row. Every attribute is a tensor with the rows first.

    Attributes:
        index: their places in the batch, ``[b]``.
        x: clean, ``[b, ...]``.
        z: where they are.
        best: the point of highest score so far, or the one that fooled the network.
        highest: its score, ``[b]``.
        fooled: whether ``best`` fooled the network, ``[b]``; such a row only waits to be taken out.
        losses: at ``z``, ``[b]``.
        better: whether the last look changed ``best``, ``[b]``.
    """

    index: Tensor
    x: Tensor
    z: Tensor
    best: Tensor
    highest: Tensor
    fooled: Tensor
    losses: Tensor
    better: Tensor


class Rule(Protocol):
    """How an attack moves. Its attributes that are tensors have the rows first, and shrink with them."""

    def step(self, i: int, rows: Rows, g: Tensor) -> Tensor:
        """The next points ``[b, ...]`` from the gradients at ``rows.z``, after ``i`` steps."""


def only(rows: Rows, chosen: Tensor) -> Rows:
    """Some of the rows, of which ``chosen`` says so."""
    return Rows(**{name: value[chosen] for name, value in vars(rows).items()})


def keep(rows: Rows, rule: Rule, kept: Tensor | slice) -> None:
    """Go on with the rows that are ``kept`` only."""
    for holder in (rows, rule):
        vars(holder).update({name: value[kept] for name, value in _tensors(holder)})


def stages(looks: int) -> list[range]:
    """The looks of a climb in parts of 1, 1, 2, 4, 8: most samples that are fooled at all are soon."""
    ends = [0]
    while ends[-1] < looks:
        ends.append(min(max(1, 2 * ends[-1]), looks))
    return [range(first, end) for first, end in itertools.pairwise(ends)]


def apart(rows: Rows, rule: Rule, most: int) -> list[tuple[Rows, Rule]]:
    """As few portions as hold at most so many rows, each with its rows of the rule's state."""
    portions = []
    for part in evenly(rows.index.numel(), most):
        some, own = copy(rows), copy(rule)
        keep(some, own, part)
        portions.append((some, own))
    return portions


def together(portions: list[tuple[Rows, Rule]]) -> tuple[Rows, Rule]:
    """One again. All have made as many steps, so that what is no tensor is equal in those that have rows."""
    left = [pair for pair in portions if pair[0].index.numel()] or portions[:1]
    for whole, *others in zip(*left, strict=True):
        names = [name for name, _ in _tensors(whole)]
        vars(whole).update(
            {name: torch.cat([vars(part)[name] for part in (whole, *others)]) for name in names}
        )
    return left[0]


def _tensors(holder: object) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in vars(holder).items() if isinstance(value, Tensor)]
