from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustreg.evaluation import wilson

counts = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_published_values():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for k, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)]:
        assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(counts, st.floats(0.5, 0.999))
def test_ends_solve_the_score_equation(count, level):
    k, n = count
    z = NormalDist().inv_cdf(0.5 + level / 2)
    for end in wilson(k, n, level):
        assert (end - k / n) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-6, abs=1e-12)


@given(counts)
def test_holds_the_estimate_and_is_symmetric(count):
    k, n = count
    low, high = wilson(k, n)
    assert 0.0 <= low <= k / n <= high <= 1.0
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(st.integers(1, 100_000), st.floats(0.01, 0.999))
def test_exact_at_none_and_all(n, level):
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    assert wilson(0, n, level).low == 0.0
    assert wilson(0, n, level).high == pytest.approx(z2 / (n + z2))
    assert wilson(n, n, level).high == 1.0
    assert wilson(n, n, level).low == pytest.approx(n / (n + z2))


def test_wider_at_a_higher_level():
    narrow, wide = wilson(30, 100, 0.9), wilson(30, 100, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("k", "n", "level", "word"),
    [
        (0, 0, 0.95, "at least one"),
        (5, 4, 0.95, "0..4"),
        (-1, 4, 0.95, "0..4"),
        (1, 4, 1.0, "level"),
        (1, 4, math.nan, "level"),
    ],
)
def test_bad_input_is_one_sentence(k, n, level, word):
    with pytest.raises(ValueError, match=word):
        wilson(k, n, level)
