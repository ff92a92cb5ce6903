"""Weights that change over training."""

from __future__ import annotations

import pytest

import robustreg as rr
from robustreg.schedules import Product, times, weight_at


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (rr.Ramp(0, 2), {0: 0, 0.25: 0.5, 1: 2, -1: 0, 3: 2}),
        (rr.Ramp(1, 0, until=0.5), {0: 1, 0.25: 0.5, 0.5: 0, 0.75: 0, 1: 0}),
        (rr.Cosine(0, 2), {0: 0, 0.5: 1, 1: 2}),
        (rr.Cosine(1, 0, until=0.5), {0: 1, 0.25: 0.5, 0.5: 0, 1: 0}),
        (Product(0.5, rr.Ramp(0, 2)), {0: 0, 0.5: 0.5, 1: 1}),
    ],
)
def test_values_over_training(schedule: rr.Ramp, values: dict[float, float]) -> None:
    assert {t: schedule(t) for t in values} == pytest.approx(values, abs=1e-15)


def test_the_cosine_is_flat_at_both_ends() -> None:
    cosine = rr.Cosine(0, 1)
    assert cosine(0.01) < 0.001
    assert cosine(0.99) > 0.999


@pytest.mark.parametrize("kind", [rr.Ramp, rr.Cosine])
@pytest.mark.parametrize("until", [0.0, -1.0, 1.5, float("nan")])
def test_an_end_outside_training_is_refused(kind: type[rr.Ramp], until: float) -> None:
    with pytest.raises(ValueError, match="until is the progress"):
        kind(0, 1, until=until)


def test_products_stay_simple() -> None:
    ramp = rr.Ramp(0, 1)
    assert times(2.0, 3.0) == 6.0
    assert times(1.0, ramp) is ramp
    assert times(ramp, 1.0) is ramp
    assert times(0.0, ramp) == 0.0
    assert times(ramp, 0) == 0.0
    assert times(2.0, ramp) == Product(2.0, ramp)
    assert weight_at(times(ramp, times(4.0, ramp)), 0.5) == 1.0


def test_any_function_is_a_schedule_and_progress_is_asked_for() -> None:
    assert weight_at(lambda progress: 3 * progress, 0.5) == 1.5
    assert weight_at(0.7, None) == 0.7
    with pytest.raises(ValueError, match="pass progress="):
        weight_at(rr.Ramp(0, 1), None)
