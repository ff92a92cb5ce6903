"""Random streams: named by content, equal in every process, and without a trace on the global ones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import robustreg as rr
from robustreg.losses import SmoothedCrossEntropy
from robustreg.streams import Stream, content_key, derive_seed, global_seed

T = rr.Threat("linf", 0.1)


@dataclass(frozen=True)
class Holder:
    value: object


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (2, 2.0),
        (2, np.int64(2)),
        (0.5, np.float64(0.5)),
        (0.0, -0.0),
        (True, 1),
        (rr.Uniform(T, scale=2), rr.Uniform(T, scale=2.0)),
        (rr.Threat("l2", 1), rr.Threat(2.0, 1.0, (0, 1))),
        ({1, 2, 3}, {3, 2, 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Holder(torch.arange(3.0)), Holder(torch.arange(6.0)[:3].clone())),
    ],
)
def test_equal_content_has_one_name(a: object, b: object) -> None:
    assert content_key(a) == content_key(b)


def test_different_content_has_different_names() -> None:
    values = [
        None,
        0,
        1,
        0.1,
        float("nan"),
        float("inf"),
        "1",
        (1,),
        (1, 2),
        ((1,), 2),
        {1: 2},
        Holder(1),
        Holder("1"),
        torch.zeros(2),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(1, 2),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.ones(2),
        torch.tensor(1.0),
        T,
        T.with_eps(0.2),
        rr.Clean(),
        rr.Uniform(T),
        rr.Uniform(T, number=1),
        rr.Steepest(T),
        rr.Steepest(T, start=rr.Uniform(T)),
        rr.Steepest(T, loss=SmoothedCrossEntropy(0.1)),
        rr.Steepest(T, loss=SmoothedCrossEntropy(0.2)),
        rr.Steepest(T, loss=torch.sum),
        rr.PGD(T),
        rr.PGD(T, loss="kl"),
    ]
    assert len({content_key(v) for v in values}) == len(values)


def test_an_object_may_name_itself() -> None:
    class Named:
        def content_key(self) -> str:
            return "mine"

    assert content_key(Named()) == "mine"


def test_seeds_have_63_bits_and_depend_on_every_part_and_the_order() -> None:
    seeds = {
        derive_seed(*parts) for parts in [(0,), (1,), (0, 0), (0, 1), (1, 0), ("0",), (0, "a"), (0, "b")]
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def facts() -> str:
    """Names, seeds and draws, as text."""
    threat = rr.Threat("l1.5", 0.1)
    start = rr.Steepest(threat, start=rr.Uniform(threat))
    points = [rr.Uniform(threat, scale=2), rr.Gaussian(0.3, number=4), rr.PGD(threat, start=start)]
    generator = torch.Generator().manual_seed(5)
    drawn = rr.Uniform(threat)(lambda x: x, torch.full((2, 3), 0.5), generator=generator)
    return f"{[p.key for p in points]} {derive_seed(1, {'a', 'b', 'c'}, points[2])} {drawn.tolist()}"


def test_keys_seeds_and_draws_are_equal_in_another_process() -> None:
    env = {**os.environ, "PYTHONHASHSEED": "271828"}
    there = subprocess.run(
        [sys.executable, __file__], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    assert there.stdout.strip() == facts()


def test_a_generator_moves_by_one_draw() -> None:
    g, h = (torch.Generator().manual_seed(3) for _ in range(2))
    first, second = Stream.from_generator(g), Stream.from_generator(g)
    torch.randint(0, 2**62, (), generator=h)
    torch.randint(0, 2**62, (), generator=h)
    assert first != second
    assert torch.equal(g.get_state(), h.get_state())


def test_without_a_generator_the_initial_seed_decides_and_nothing_moves() -> None:
    before = torch.get_rng_state()
    assert Stream.from_generator(None) == Stream(torch.initial_seed())
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_differ_by_seed_step_and_key() -> None:
    def draw(stream: Stream, *key: object) -> float:
        return float(torch.rand((), generator=stream.generator("cpu", *key)))

    numbers = {
        draw(Stream(0)),
        draw(Stream(1)),
        draw(Stream(0, 1)),
        draw(Stream(0), "a"),
        draw(Stream(0), "b"),
    }
    assert len(numbers) == 5
    assert draw(Stream(4, 2), "a") == draw(Stream(4, 2), "a")


def test_a_global_seed_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    with global_seed(torch.device("cpu"), 7):
        inside = torch.rand(3)
        assert not torch.equal(torch.get_rng_state(), before)
    with global_seed(torch.device("cpu"), 7):
        assert torch.equal(torch.rand(3), inside)
    assert torch.equal(torch.get_rng_state(), before)


def test_nor_does_one_that_breaks_off() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), global_seed(torch.device("cpu"), 7):
        raise KeyError(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


if __name__ == "__main__":
    print(facts())
