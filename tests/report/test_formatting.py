from __future__ import annotations

import math
from typing import Any

import pytest

from robustreg.report import formatting as fmt


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.5", 1.5),
        (2, 2.0),
        (None, None),
        (True, None),
        ("nan", None),
        (math.inf, None),
        ([1], None),
        ("x", None),
    ],
)
def test_number(value: Any, expected: float | None) -> None:
    assert fmt.number(value) == expected


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.9755, "97.5 %"),
        (1.0, "100.0 %"),
        (0.0, "0.0 %"),
        (0.9999, "> 99.9 %"),
        (1e-5, "< 0.1 %"),
        (None, "–"),
    ],
)
def test_percent(fraction: float | None, expected: str) -> None:
    assert fmt.percent(fraction).replace("\u00a0", " ") == expected


@pytest.mark.parametrize(
    ("eps", "expected"),
    [
        (0.2, "0.2"),
        (8 / 255, "8/255"),
        (1 / 255, "1/255"),
        (0.031, "0.031"),
        (0.0, "0"),
        (2.5, "2.5"),
        (None, "–"),
    ],
)
def test_radius(eps: float | None, expected: str) -> None:
    assert fmt.radius(eps) == expected


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("linf", "ℓ∞"), (math.inf, "ℓ∞"), ("l2", "ℓ₂"), (1.0, "ℓ₁"), ("l1.5", "ℓp, p = 1.5"), ("odd", "odd")],
)
def test_norm_name(norm: Any, expected: str) -> None:
    assert fmt.norm_name(norm) == expected


def test_threat_name() -> None:
    assert fmt.threat_name({"norm": "linf", "eps": 8 / 255, "bounds": [0, 1]}) == "ℓ∞, ε = 8/255"
    assert fmt.threat_name(None) == ""
    assert fmt.threat_name({"eps": 1}) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0042, "4.2 ms"),
        (1.84, "1.8 s"),
        (200.0, "3 min 20 s"),
        (3900.0, "1 h 05 min"),
        (None, "–"),
        (-1.0, "–"),
    ],
)
def test_seconds(value: float | None, expected: str) -> None:
    assert fmt.seconds(value).replace("\u00a0", " ") == expected


def test_duration_of_two_times() -> None:
    assert fmt.duration("2026-01-05T10:00:00Z", "2026-01-05T10:00:02.5+00:00") == "2.5\u00a0s"
    assert fmt.duration("2026-01-05T10:00:00", "2026-01-05T10:00:02+00:00") == "–"
    assert fmt.duration(None, "2026-01-05T10:00:02") == "–"
    assert fmt.duration(10.0, 13) == "3.0\u00a0s"


def test_describe() -> None:
    assert fmt.describe({"name": "conv", "width": 32, "bounds": [0.0, 1.0], "nothing": None}) == (
        "conv, width 32, bounds (0, 1)"
    )
    assert fmt.describe({"torch": "2.13.0"}) == "torch 2.13.0"
    assert fmt.describe("plain") == "plain"
