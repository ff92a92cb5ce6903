from __future__ import annotations

import json
import math
import re

import pytest
import torch

from robustreg import bounds


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((1, 0), "lower <= upper, got (1, 0)"),
        ((torch.tensor([0.0, 2.0, 2.0]), 1.0), "lower > upper in 2 features"),
        ((math.nan, 1), "each bound is a number or a tensor that broadcasts to x[0], got nan"),
        ((torch.tensor([0.0, math.nan]), 1.0), "got a tensor that holds NaN"),
        (("0", 1), "each bound is a number or a tensor that broadcasts to x[0], got '0'"),
        ((None, 1), "got None"),
        ((True, 1), "got True"),
        ((torch.tensor([True]), 1), "got tensor([True])"),
        ((0, 1, 2), "bounds are None or (lower, upper), got (0, 1, 2)"),
        (1.0, "bounds are None or (lower, upper), got 1.0"),
        ("01", "bounds are None or (lower, upper), got '01'"),
        ((torch.zeros(2), torch.ones(3)), "shapes [2] and [3] do not broadcast together"),
    ],
)
def test_bad_bounds_are_refused_in_one_sentence(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        bounds.parse(value)
    assert "\n" not in str(error.value)


def test_good_bounds() -> None:
    assert bounds.parse(None) is None
    assert bounds.parse((0, 1)) == (0.0, 1.0)
    assert bounds.parse([-math.inf, torch.tensor(2)]) == (-math.inf, 2.0)
    parsed = bounds.parse((torch.tensor([0, 1]), 1))
    assert parsed is not None
    assert isinstance(parsed[0], torch.Tensor)
    assert parsed[0].tolist() == [0, 1]


def test_content_is_equal_whatever_the_dtype_and_sign_of_zero() -> None:
    a, b = torch.tensor([0.0, 0.5]), torch.tensor([-0.0, 0.5], dtype=torch.float64)
    assert bounds.content(a) == bounds.content(b)
    assert bounds.content(a) != bounds.content(a.unsqueeze(0))
    assert bounds.content(a) != bounds.content(a + 1)
    assert bounds.show(a) == bounds.show(b) != bounds.show(a + 1)


@pytest.mark.parametrize(
    "bound",
    [0.25, -math.inf, torch.tensor([[0.1, math.inf]]), torch.zeros(0), torch.tensor([1 / 3]).double()],
)
def test_json_round_trip(bound: float | torch.Tensor) -> None:
    text = json.dumps(bounds.to_json(bound), allow_nan=False)
    assert bounds.content(bounds.from_json(json.loads(text))) == bounds.content(bound)


@pytest.mark.parametrize("value", [["a"], [[1], [1, 2]], [None]])
def test_json_that_is_no_table_of_numbers_is_refused(value: list[object]) -> None:
    with pytest.raises(ValueError, match=r"bounds are numbers or nested lists of numbers, got \["):
        bounds.from_json(value)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 4, 4), (4,), (1,), (3, 4, 4)])
def test_fit_accepts_what_broadcasts_to_one_input(shape: tuple[int, ...]) -> None:
    x = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)
    fitted = bounds.fit(torch.zeros(shape), x)
    assert isinstance(fitted, torch.Tensor)
    assert fitted.dtype == torch.bfloat16
    assert bounds.at_least(x - 1, fitted).shape == x.shape


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 4, 4), (3,), (3, 2, 2), (5, 1, 1)])
def test_fit_refuses_what_does_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"bounds of shape {list(shape)} do not broadcast to one input")
    ):
        bounds.fit(torch.zeros(shape), torch.zeros(2, 3, 4, 4))
