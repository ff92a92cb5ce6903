"""Random numbers by row: the published function, the same in every batch, uniform and independent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustreg.attacks.row_numbers import (
    below,
    bits,
    draw_keys,
    normal,
    philox,
    uniform,
    words,
    words_for_bits,
)

# Known answers of Philox4x32-10 from the authors' Random123 library: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text: str) -> list[Tensor]:
    return [torch.tensor(int(word, 16)) for word in text.split()]


def keys(n: int, seed: int = 0) -> Tensor:
    return draw_keys(torch.empty(n), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_it_is_philox(counter: str, key: str, result: str) -> None:
    a, b, c, d = numbers(counter)
    k0, k1 = numbers(key)
    assert philox((a, b, c, d), (k0, k1)) == numbers(result)


def test_a_row_has_the_same_numbers_in_every_batch() -> None:
    rows = keys(20)
    together = words(rows, 3, 5, 7, 6)
    assert together.shape == (20, 7, 6)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(words(rows[order][:4], 3, 5, 7, 6), together[order[:4]])
    one_by_one = torch.cat([words(rows, 3, 5 + i, 1, 6) for i in range(7)], dim=1)
    assert torch.equal(one_by_one, together)


def test_words_are_nested_in_their_count() -> None:
    assert torch.equal(words(keys(3), 0, 0, 2, 9)[:, :, :5], words(keys(3), 0, 0, 2, 5))


def test_rows_steps_streams_and_places_differ() -> None:
    drawn = torch.stack([words(keys(50), stream, 0, 20, 8) for stream in range(3)])
    assert drawn.unique().numel() == drawn.numel()  # of 24,000 words, two are equal with probability 7 %
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 2**32


def chi_square(counts: Tensor) -> float:
    """Its excess over the expectation, in standard deviations."""
    expected = counts.sum() / counts.numel()
    statistic = float(((counts - expected).square() / expected).sum())
    freedom = counts.numel() - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("shape", [(1, 4000, 4), (4000, 1, 4), (4000, 4, 1), (1, 1, 16000)])
def test_numbers_are_uniform_along_rows_steps_and_places(shape: tuple[int, int, int]) -> None:
    rows, steps, count = shape
    drawn = words(keys(rows), 0, 0, steps, count)
    for shift in (24, 12, 0):  # the first, the middle and the last bits
        values = (drawn >> shift) & 255
        assert abs(chi_square(torch.bincount(values.flatten(), minlength=256).double())) < 4


def test_keys_that_differ_in_one_bit_have_nothing_in_common() -> None:
    first = keys(200)
    second = first ^ torch.tensor([1, 0])
    same = bits(words(first, 0, 0, 10, 8), 256) == bits(words(second, 0, 0, 10, 8), 256)
    assert abs(float(same.double().mean()) - 0.5) < 0.005  # 512,000 coins: seven standard deviations


@pytest.mark.parametrize("apart", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 4)])
def test_neighbours_are_not_correlated(apart: tuple[int, int, int]) -> None:
    ordered = torch.stack(
        [torch.arange(60), torch.zeros(60, dtype=torch.int64)], 1
    )  # keys one after the other
    values = uniform(words(ordered, 0, 0, 60, 16), torch.float64) - 0.5
    i, j, k = apart
    product = values[i:, j:, k:] * values[: 60 - i, : 60 - j, : 16 - k]
    assert abs(float(product.mean()) * 12) < 4 / product.numel() ** 0.5


def test_integers_below_n_are_all_reached_and_equally_often() -> None:
    drawn = words(keys(100), 0, 0, 100, 4)
    for n in (1, 2, 7, 30):
        values = below(drawn, n).flatten()
        counts = torch.bincount(values, minlength=n)
        assert counts.numel() == n
        assert n == 1 or abs(chi_square(counts.double())) < 4
    assert int(below(torch.tensor(2**32 - 1), 2**31)) == 2**31 - 1


def test_bits_are_fair_and_those_of_the_words() -> None:
    word = torch.tensor([[0b101, 1 << 31]])
    expected = torch.zeros(1, 64, dtype=torch.bool)
    expected[0, [0, 2, 63]] = True
    assert torch.equal(bits(word, 64), expected)
    assert torch.equal(bits(word, 3), expected[:, :3])
    assert [words_for_bits(n) for n in (1, 32, 33, 64)] == [1, 1, 2, 2]
    coins = bits(words(keys(100), 0, 0, 50, 2), 64).double()
    assert abs(float(coins.mean()) - 0.5) < 4 * 0.5 / coins.numel() ** 0.5
    assert (coins.mean((0, 1)) - 0.5).abs().max() < 5 * 0.5 / 5000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_inside_the_interval(dtype: torch.dtype) -> None:
    ends = uniform(torch.tensor([0, 2**32 - 1]), dtype)
    assert 0 < float(ends[0]) < 1e-6
    assert 1 - 1e-6 < float(ends[1]) < 1


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    values = normal(words(keys(100), 0, 0, 100, 10), torch.float64)
    n = values.numel()
    assert abs(float(values.mean())) < 4 / n**0.5
    assert abs(float(values.square().mean()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float(values.pow(4).mean()) - 3) < 4 * (96 / n) ** 0.5
    assert values.isfinite().all()


def test_keys_come_from_the_generator() -> None:
    assert torch.equal(keys(5, 1), keys(5, 1))
    assert not torch.equal(keys(5, 1), keys(5, 2))
    assert keys(5).shape == (5, 2)
    assert keys(0).shape == (0, 2)
