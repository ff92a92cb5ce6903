"""What holds within a linear region: the loss's bound, and the boundary's distance in three norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from robustreg.connections import Case, Claim, Residual
from robustreg.connections import quantities as q

Plant = Callable[[str, Case, Any], Residual]
NORMS = {"B7b": "l2", "B7c": "linf", "B7d": "l1"}


@pytest.mark.parametrize("key", NORMS)
def test_the_boundary_of_an_affine_network(
    key: str, binary: Case, ternary: Case, claims: dict[str, Claim]
) -> None:
    """Margin 0.2, and w = (3, -4): at 0.04 in l2, 0.2 / 7 in linf, 0.05 in l1."""
    for case in (binary, ternary):
        residual = claims[key].residual(case)
        assert residual.verdict == "holds"
        assert residual.worst < 1e-8
    distance = (q.boundary_point(binary, NORMS[key]) - binary.x).flatten()
    p = {"l2": 2.0, "linf": float("inf"), "l1": 1.0}[NORMS[key]]
    found = torch.linalg.vector_norm(distance, ord=p).item()
    assert found == pytest.approx({"l2": 0.04, "linf": 0.2 / 7, "l1": 0.05}[NORMS[key]])


@pytest.mark.parametrize("key", NORMS)
def test_a_distance_that_is_twice_or_half_shows(key: str, ternary: Case, planted: Plant) -> None:
    for factor in (0.5, 2.0):

        def elsewhere(a: Any, b: Any, case: Case, factor: float = factor) -> Any:
            end = case.x + factor * (q.boundary_point(case, NORMS[key]) - case.x)
            z = case.logits_at(end)
            return b + (z[:, 0] - z[:, 1:].amax(1)).abs(), b

        assert planted(key, ternary, elsewhere).verdict == "violated"


def test_wrong_samples_have_no_distance(binary: Case, claims: dict[str, Claim]) -> None:
    wrong = Case(binary.model, binary.x, 1 - binary.y)
    assert q.margin_distance(wrong).item() == 0.0
    level = wrong.changed(lambda z, x: z.detach() + 0 * x.sum())  # nor where nothing would change it
    assert q.margin_distance(level).item() == 0.0
    assert claims["B7b"].residual(wrong).verdict == "does not apply"


def test_the_loss_within_a_region(ternary: Case, square: Case, claims: dict[str, Claim]) -> None:
    for case in (ternary, square):
        residual = claims["B6b"].residual(case)
        assert residual.verdict == "holds"
        assert residual.applies.all()


def test_a_bound_without_its_terms_shows(square: Case, planted: Plant) -> None:
    """Along the gradient, where the linear part is all there: without it the bound is too low."""
    square.direction = square.gradient / square.gradient.norm(dim=1, keepdim=True)
    flat = planted("B6", square, lambda a, b, c: (a, b - c.radius * c.gradient.norm(dim=1)))
    assert flat.verdict == "violated"
    sharp = planted("B6b", square, lambda a, b, c: (a, c.loss + 0.5 * (b - c.loss)))
    assert sharp.verdict == "violated"


def test_no_bound_by_curvature_on_a_long_way(ternary: Case, claims: dict[str, Claim]) -> None:
    """Between places that are looked at, curvature could be anything."""
    steep = ternary.changed(lambda z, x: 1e5 * z)
    assert claims["B6b"].residual(steep).verdict == "does not apply"
