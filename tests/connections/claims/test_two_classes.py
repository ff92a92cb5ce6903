"""Two classes and one logit: closed forms of the notes, and what they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from robustreg.connections import Case, Claim, Residual
from robustreg.connections import quantities as q

Plant = Callable[[str, Case, Any], Residual]
Exact = Callable[[str, Case], None]
EQUAL = ["T1", "T1b", "T2", "T3", "T4", "T4b", "T5", "T6", "T7", "T7b", "T8", "T9", "T11", "T12"]
ORDERS = {"T7c": 3, "T10": 2, "T10b": 2, "T10c": 2}


@pytest.mark.parametrize("key", EQUAL)
def test_exact_on_three_networks(key: str, binary: Case, logistic: Case, pair: Case, exact: Exact) -> None:
    for case in (binary, logistic, pair.at_radius(1e-3)):
        exact(key, case)


@pytest.mark.parametrize("key", ORDERS)
def test_orders_are_what_is_claimed(key: str, binary: Case, logistic: Case, claims: dict[str, Claim]) -> None:
    for case in (binary, logistic):
        assert claims[key].residual(case).order == pytest.approx(ORDERS[key], abs=0.2)


def test_numbers_of_the_notes(binary: Case, logistic: Case, claims: dict[str, Claim]) -> None:
    """w = (3, -4), p_y = 0.549834; and of the logistic model ||w||^2 = 1.09."""
    g = -q.wrong(binary)[:, None] * q.weight(binary)
    assert g[0].tolist() == pytest.approx([-1.35049801, 1.80066401], abs=6e-9)
    assert binary.gradient[0].tolist() == pytest.approx(g[0].tolist())
    assert claims["T4b"].sides(binary)[1].item() == pytest.approx(6.18791432, abs=6e-9)
    assert [side.item() for side in claims["T12"].sides(logistic)] == pytest.approx([0.545, 0.545])
    assert logistic.loss.item() == pytest.approx(0.5543552444685271)  # log(1 + exp(-0.3))


def test_one_logit_is_two(logistic: Case) -> None:
    """Both labels, by the logistic loss of the logit itself."""
    f = torch.tensor([0.3, 0.3], dtype=torch.float64)
    both = Case(logistic.model, logistic.x.repeat(2, 1), torch.tensor([1, 0]))
    assert both.logits.tolist() == [pytest.approx([0.0, 0.3])] * 2
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(both.loss, torch.log1p(torch.exp(-signs * f)))


WRONG: dict[str, tuple[str, Any]] = {
    "the other sign": ("T1b", lambda a, b, c: q.entry_by_entry(-c.gradient, c.gradient)),
    "the label's probability for the missing one": (
        "T1b",
        lambda a, b, c: q.entry_by_entry(-c.p_y[:, None] * q.weight(c), c.gradient),
    ),
    "a rank too many": (
        "T4b",
        lambda a, b, c: q.entry_by_entry(c.hessian + torch.eye(c.flat.shape[1]), c.hessian),
    ),
    "no second order": ("T7c", lambda a, b, c: (a, c.radius * q.igr(c))),
    "twice the second order": ("T7c", lambda a, b, c: (a, 2 * b - c.radius * q.igr(c))),
    "the length for its square": ("T10b", lambda a, b, c: (a, b / q.weight(c).norm(dim=1))),
    "the whole length for the part along d": (
        "T10c",
        lambda a, b, c: (a, c.radius * c.p_y * q.wrong(c) * q.squared(q.weight(c))),
    ),
    "the other label": ("T11", lambda a, b, c: (a + c.loss - torch.log1p(torch.exp(c.loss)), b)),
    "a Jacobian without its half": ("T12", lambda a, b, c: (2 * a, b)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_show(name: str, logistic: Case, planted: Plant) -> None:
    key, wrong = WRONG[name]
    assert planted(key, logistic, wrong).verdict == "violated"


def test_without_a_gradient_in_float64_attacks_have_no_direction(
    binary: Case, claims: dict[str, Claim]
) -> None:
    """A network so sure that the loss's gradient is 0: one step finds nothing, though far away the loss is large."""
    sure = binary.changed(lambda z, x: 1e4 * z).at_radius(1.0)
    assert (sure.gradient == 0).all()
    for key in ("T7", "T7b", "T7c", "T10", "T10b"):
        assert claims[key].residual(sure).verdict == "does not apply"
