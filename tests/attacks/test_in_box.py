"""Shortest ways in the box, against linear and quadratic programming."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

import robustreg as rr
from robustreg.attacks.in_box import project_l1_in_box, sides, to_hyperplane

BOXES = [(0.0, 1.0), (-1.0, 0.7), (0.0, math.inf), None]
NORMS = [1.0, 1.5, 2.0, 3.0, math.inf]


def problem(n: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points in all the boxes, gaps and normals, with points on the sides and features that do not count."""
    g = torch.Generator().manual_seed(seed)
    x = 0.7 * torch.rand(n, features, generator=g, dtype=torch.float64)
    x[torch.rand(x.shape, generator=g) < 0.2] = 0
    normal = torch.randn(n, features, generator=g, dtype=torch.float64)
    normal[torch.rand(x.shape, generator=g) < 0.2] = 0
    gap = (
        2 * torch.randn(n, generator=g, dtype=torch.float64) * torch.rand(n, generator=g, dtype=torch.float64)
    )
    return x, gap, normal


def limits(x: Tensor, box: Any) -> tuple[np.ndarray, np.ndarray]:
    """How far each feature of one sample may move down and up."""
    low, high = (-math.inf, math.inf) if box is None else box
    return low - x.numpy(), high - x.numpy()


def reach(gap: float, normal: np.ndarray, down: np.ndarray, up: np.ndarray) -> float:
    """How much of the gap the whole box can close."""
    w = -math.copysign(1, gap) * normal
    return float(sum(v * (u if v > 0 else d) for v, d, u in zip(w, down, up, strict=True) if v != 0))


def shortest(p: float, gap: float, normal: np.ndarray, down: np.ndarray, up: np.ndarray) -> float:
    """The length of the shortest way, by a solver for linear programmes."""
    n = len(normal)
    if p == 1:  # d = a - b with a, b >= 0
        bounds = [(0, u) for u in up] + [(0, -d) for d in down]
        result = linprog(np.ones(2 * n), A_eq=[np.r_[normal, -normal]], b_eq=[-gap], bounds=bounds)
    else:  # -t <= d <= t
        rows = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        bounds = [*zip(down, up, strict=True), (0, None)]
        result = linprog(
            np.r_[np.zeros(n), 1], rows, np.zeros(2 * n), [np.r_[normal, 0]], [-gap], bounds=bounds
        )
    assert result.status == 0
    return float(result.fun)


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("p", [1.0, math.inf])
def test_the_way_to_a_hyperplane_is_the_shortest_by_linear_programming(p: float, box: Any) -> None:
    x, gap, normal = problem(25, 7)
    threat = rr.Threat(p, 1.0, box)
    d = to_hyperplane(x, gap, normal, threat)
    reached = 0
    for i in range(len(x)):
        down, up = limits(x[i], box)
        if reach(float(gap[i]), normal[i].numpy(), down, up) >= abs(float(gap[i])):
            best = shortest(p, float(gap[i]), normal[i].numpy(), down, up)
            assert float(threat.length(d[i : i + 1])) == pytest.approx(best, abs=1e-9)
            reached += 1
    assert reached > 8


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("p", NORMS)
def test_it_ends_on_the_hyperplane_or_as_near_as_the_box_allows(p: float, box: Any) -> None:
    x, gap, normal = problem(60, 5, seed=1)
    threat = rr.Threat(p, 1.0, box)
    d = to_hyperplane(x, gap, normal, threat)
    rest = (gap + (d * normal).sum(1)).abs()
    beyond = []
    for i in range(len(x)):
        down, up = limits(x[i], box)
        beyond.append(max(0.0, abs(float(gap[i])) - reach(float(gap[i]), normal[i].numpy(), down, up)))
    torch.testing.assert_close(rest, torch.tensor(beyond, dtype=torch.float64), rtol=0, atol=1e-12)
    assert box != BOXES[0] or 0 < sum(b > 0 for b in beyond) < 60
    assert torch.equal(threat.clip(x + d), x + d)


@pytest.mark.parametrize("box", [(0.0, 1.0), None], ids=str)
@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_no_other_point_on_the_hyperplane_is_nearer(p: float, box: Any) -> None:
    """The optimality conditions: free features share one multiplier, those at the box want to go further."""
    x, gap, normal = problem(60, 5, seed=2)
    threat = rr.Threat(p, 1.0, box)
    d = to_hyperplane(x, gap, normal, threat)
    low, high = sides(threat, x)
    counts = normal != 0
    held = counts & ((x + d - low).abs().minimum((high - x - d).abs()) < 1e-12)
    price = torch.where(counts, d.abs().pow(p - 1) / normal.abs(), math.nan)
    free = counts & ~held
    for i in range(60):
        if abs(float(gap[i] + d[i] @ normal[i])) > 1e-9 or not free[i].any():
            continue
        assert float(price[i][free[i]].max() - price[i][free[i]].min()) < 1e-9
        assert (price[i][held[i]] <= price[i][free[i]].max() + 1e-9).all()
    assert free.any(1).sum() > 20
    assert box is None or held.any(1).sum() > 20
    assert (d[~counts] == 0).all()


def test_in_l2_it_is_the_solution_of_the_quadratic_programme() -> None:
    x, gap, normal = problem(8, 6, seed=3)
    d = to_hyperplane(x, gap / 4, normal, rr.Threat("l2", 1.0))
    for i in range(8):
        down, up = limits(x[i], (0.0, 1.0))
        w, g = normal[i].numpy(), float(gap[i] / 4)
        result = minimize(
            lambda v: v @ v,
            np.zeros(6),
            jac=lambda v: 2 * v,
            bounds=list(zip(down, up, strict=True)),
            constraints={"type": "eq", "fun": lambda v, w=w, g=g: w @ v + g, "jac": lambda v, w=w: w},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        if result.success:
            np.testing.assert_allclose(d[i].numpy(), result.x, atol=1e-6)


@pytest.mark.parametrize("p", NORMS)
def test_the_scale_of_the_function_plays_no_part(p: float) -> None:
    x, gap, normal = problem(30, 6, seed=4)
    threat = rr.Threat(p, 1.0)
    d = to_hyperplane(x, gap, normal, threat)
    for scale in (1e-30, 1e-3, 1e4, 1e30):
        torch.testing.assert_close(to_hyperplane(x, scale * gap, scale * normal, threat), d)


@pytest.mark.parametrize("p", NORMS)
def test_what_says_no_direction_moves_nothing(p: float) -> None:
    x, gap, normal = problem(5, 6, seed=5)
    threat = rr.Threat(p, 1.0)
    normal[0] = 0
    normal[1, 2] = math.nan
    normal[2, 3] = math.inf
    gap[3] = math.nan
    gap[4] = 0
    assert (to_hyperplane(x, gap, normal, threat) == 0).all()


def test_bounds_with_a_value_for_each_feature() -> None:
    high = torch.tensor([0.5, 1.0, 0.2])
    threat = rr.Threat("linf", 1.0, (torch.tensor([0.0, -1.0, 0.2]), high))
    x = torch.tensor([[0.4, 0.0, 0.2]])
    d = to_hyperplane(x, torch.tensor([-1.0]), torch.ones(1, 3), threat)
    torch.testing.assert_close(d, torch.tensor([[0.1, 0.9, 0.0]]))


@given(
    p=st.sampled_from(NORMS),
    shape=st.sampled_from([(1, 1), (4, 3), (2, 3, 2, 2)]),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-4, 1.0, 100.0]),
)
@settings(max_examples=60, deadline=None)
def test_float32_stays_in_the_box_and_finite(p: float, shape: Any, seed: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g).round(decimals=1)
    normal = torch.randn(shape, generator=g).pow(5)
    gap = scale * torch.randn(shape[0], generator=g)
    threat = rr.Threat(p, 1.0)
    d = to_hyperplane(x, gap, normal, threat)
    assert d.isfinite().all()
    assert ((x + d >= -1e-6) & (x + d <= 1 + 1e-6)).all()
    left = (gap + (d * normal).flatten(1).sum(1)).abs()
    assert (left <= gap.abs() * (1 + 1e-5)).all()


# -- onto the l1 ball in the box -----------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.1, 0.6, 2.0])
def test_the_projection_onto_l1_ball_and_box_is_the_quadratic_programmes(eps: float) -> None:
    x, _, delta = problem(12, 6, seed=6)
    threat = rr.Threat("l1", eps)
    z = project_l1_in_box(delta, x, threat)
    assert threat.contains(z, x).all()
    for i in range(12):
        down, up = limits(x[i], (0.0, 1.0))
        v = delta[i].numpy()

        def distance(ab: np.ndarray, v: np.ndarray = v) -> float:
            return float(((ab[:6] - ab[6:] - v) ** 2).sum())

        def slope(ab: np.ndarray, v: np.ndarray = v) -> np.ndarray:
            g = 2 * (ab[:6] - ab[6:] - v)
            return np.r_[g, -g]

        result = minimize(
            distance,
            np.zeros(12),
            jac=slope,
            bounds=[(0, u) for u in up] + [(0, -d) for d in down],
            constraints={"type": "ineq", "fun": lambda ab: eps - ab.sum(), "jac": lambda ab: -np.ones(12)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        ours = float((z[i] - x[i] - delta[i]).square().sum())
        assert ours <= result.fun + 1e-9


def test_without_a_box_it_is_the_projection_onto_the_ball() -> None:
    x, _, delta = problem(20, 6, seed=7)
    threat = rr.Threat("l1", 0.8, None)
    torch.testing.assert_close(project_l1_in_box(delta, x, threat), x + threat.project_ball(delta))


def test_what_is_inside_stays() -> None:
    x, _, delta = problem(20, 6, seed=8)
    threat = rr.Threat("l1", 50.0)
    torch.testing.assert_close(project_l1_in_box(delta, x, threat), threat.clip(x + delta))


def test_no_budget_leaves_the_sample() -> None:
    x, _, delta = problem(20, 6, seed=9)
    torch.testing.assert_close(project_l1_in_box(delta, x, rr.Threat("l1", 0.0)), x)
