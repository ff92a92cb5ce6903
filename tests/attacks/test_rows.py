"""Taking the samples of a climb apart and putting them together again."""

from __future__ import annotations

import pytest
import torch

from robustreg.attacks.rows import Rows, apart, stages, together


class Counting:
    """A rule that remembers a number of each row, and one of all."""

    def __init__(self, n: int) -> None:
        self.own, self.shared = torch.arange(float(n)), 3

    def step(self, i: int, rows: Rows, g: torch.Tensor) -> torch.Tensor:
        return rows.z


def some(n: int) -> Rows:
    z, number, flag = torch.arange(2.0 * n).reshape(n, 2), torch.arange(float(n)), torch.zeros(n).bool()
    return Rows(torch.arange(n), z, z + 1, z + 2, number, flag, number + 1, ~flag)


@pytest.mark.parametrize(
    ("looks", "ends"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (101, [1, 2, 4, 8, 16, 32, 64, 101])]
)
def test_stages_hold_every_look_once(looks: int, ends: list[int]) -> None:
    parts = stages(looks)
    assert [part.stop for part in parts] == ends
    assert [i for part in parts for i in part] == [*range(looks)]


@pytest.mark.parametrize(
    ("n", "most", "sizes"), [(10, 4, [4, 4, 2]), (9, 5, [5, 4]), (3, 5, [3]), (0, 5, [0])]
)
def test_apart_and_together(n: int, most: int, sizes: list[int]) -> None:
    rows, rule = some(n), Counting(n)
    portions = apart(rows, rule, most)
    assert [part.index.numel() for part, _ in portions] == [own.own.numel() for _, own in portions] == sizes
    again, one = together(portions)
    assert all(torch.equal(value, vars(rows)[name]) for name, value in vars(again).items())
    assert isinstance(one, Counting)
    assert torch.equal(one.own, rule.own)
    assert one.shared == 3


def test_taking_apart_leaves_the_whole_as_it_was() -> None:
    rows, rule = some(6), Counting(6)
    for part, own in apart(rows, rule, 2):
        part.z, own.own = part.z + 100, own.own + 100
    assert torch.equal(rows.z, some(6).z)
    assert torch.equal(rule.own, torch.arange(6.0))
