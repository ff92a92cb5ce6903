from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustreg import numerics, projection
from robustreg.projection import project_l1, project_l2, project_lp

OTHER = [1.0001, 1.01, 1.1, 1.5, 1.9, 2.1, 3.0, 10.0, 1e4, 1e6]


def project(rows: Tensor, radius: float, p: float) -> Tensor:
    if p == 1:
        return project_l1(rows, radius)
    return project_l2(rows, radius) if p == 2 else project_lp(rows, radius, p)


def difficult_rows(p: float, scale: float, seed: int = 0) -> Tensor:
    """Rows of length `scale`: gaussian, heavy-tailed, sparse, all equal, one-hot, with ties and zeros."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(12, 60, dtype=torch.float64, generator=generator)
    v[2:4] = v[2:4] ** 5
    v[4:6, 7:] = 0
    v[6] = 1
    v[7, 1:] = 0
    v[8:10] = v[8:10].round()
    return v / numerics.norm(v, p).unsqueeze(1) * scale


def duality_gap(v: Tensor, z: Tensor, radius: float, p: float) -> Tensor:
    """0 exactly at the projection: no u in the ball has (v - z) . u > (v - z) . z. Relative to the largest."""
    most = radius * numerics.norm(v - z, numerics.dual_exponent(p))
    return (most - ((v - z) * z).sum(1)) / most


@pytest.mark.parametrize("p", [1.0, 2.0, *OTHER])
@pytest.mark.parametrize("scale", [1.001, 1.5, 30.0, 1e6])
def test_projection_is_optimal_and_on_the_sphere(p: float, scale: float) -> None:
    radius = 0.3
    v = difficult_rows(p, scale * radius)
    z = project(v, radius, p)
    length = numerics.norm(z, p)
    assert (length <= radius * (1 + 1e-12)).all()
    torch.testing.assert_close(length, torch.full_like(length, radius), rtol=1e-8, atol=0)
    # The gap bounds the squared distance to the projection by radius * ||v - z||_{p*} times it. What rounding
    # alone makes of it grows with the scale.
    assert (duality_gap(v, z, radius, p) <= 1e-7).all()


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_projection_agrees_with_a_general_optimiser(p: float) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    radius = 0.7
    v = difficult_rows(p, 2.0)[:4, :5]
    for row, ours in zip(v, project(v, radius, p), strict=True):
        target = row.numpy()
        best = optimize.minimize(
            lambda z, target: ((z - target) ** 2).sum() / 2,
            target * 0.1,
            args=(target,),
            jac=lambda z, target: z - target,
            constraints={"type": "ineq", "fun": lambda z: radius**p - (abs(z) ** p).sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        torch.testing.assert_close(ours, torch.tensor(best.x), atol=2e-6, rtol=0)


def test_l1_agrees_with_bisection_on_the_threshold() -> None:
    v, radius = difficult_rows(1, 5.0), 0.8
    low, high = torch.zeros(len(v), 1, dtype=v.dtype), v.abs().amax(1, keepdim=True)
    for _ in range(200):
        theta = (low + high) / 2
        long = (v.abs() - theta).clamp(min=0).sum(1, keepdim=True) > radius
        low, high = torch.where(long, theta, low), torch.where(long, high, theta)
    torch.testing.assert_close(project_l1(v, radius), v.sign() * (v.abs() - high).clamp(min=0))


def test_l1_by_hand() -> None:
    v = torch.tensor([[3.0, -1.0, 0.5], [1.0, 1.0, -1.0], [0.2, -0.3, 0.0]])
    expected = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, -1 / 3], [0.2, -0.3, 0.0]])
    torch.testing.assert_close(project_l1(v, 1.0), expected)


@pytest.mark.parametrize("p", [1.0, 2.0, 1.5, 4.0])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100), radius=st.floats(1e-3, 10))
def test_no_point_of_the_ball_is_nearer(p: float, seed: int, scale: float, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(1, 4, dtype=torch.float64, generator=generator) * scale
    z = project(v, radius, p)
    others = torch.randn(300, 4, dtype=torch.float64, generator=generator)
    others = torch.cat([others, z + 1e-3 * radius * others])
    others = others * (radius / numerics.norm(others, p)).unsqueeze(1)
    assert ((others - v).square().sum(1) >= (z - v).square().sum() * (1 - 1e-12)).all()


@pytest.mark.parametrize("p", [1.0, 2.0, 1.5, 3.0])
def test_points_inside_keep_their_bits(p: float) -> None:
    v = difficult_rows(p, 0.25).float()
    assert torch.equal(project(v, 0.3, p), v)


@pytest.mark.parametrize("p", [1.0, 2.0, 1.5, 3.0])
def test_float32_stays_in_the_ball_in_high_dimension(p: float) -> None:
    """100 000 nearly equal entries far outside: plain float32 sums would miss the ball by per cents."""
    generator = torch.Generator().manual_seed(0)
    v = 1 + 1e-3 * torch.rand(2, 100_000, generator=generator)
    radius = 1e-2
    z = project(v, radius, p).double()
    assert (numerics.norm(z, p) <= radius * (1 + 1e-6)).all()
    assert (numerics.norm(z, p) >= radius * (1 - 1e-4)).all()
    exact = project(v.double(), radius, p)
    assert (numerics.norm(z - exact, 2) <= 1e-3 * numerics.norm(exact, 2)).all()


@pytest.mark.parametrize("p", [1.0, 2.0, *OTHER])
def test_float32_is_as_good_as_float64(p: float) -> None:
    for scale in (1.5, 1e4):
        v = difficult_rows(p, 0.3 * scale).float()
        exact = project(v.double(), 0.3, p)
        assert (numerics.norm(project(v, 0.3, p) - exact, 2) <= 1e-6 * 0.3 * scale).all()
        if p not in (1.0, 2.0):  # computed in float64 whatever comes in
            assert torch.equal(project(v, 0.3, p), exact.float())


@pytest.mark.parametrize("radius", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("shape", [0.01, 0.3, 1.0, 10.0])
def test_l1_stays_in_the_ball_for_any_distribution_of_sizes(radius: float, shape: float) -> None:
    v = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0)) ** shape
    length = project_l1(v, radius).double().abs().sum(1)
    torch.testing.assert_close(length, v.double().sum(1).clamp(max=radius), rtol=5e-7, atol=0)


def test_nan_stays_in_its_row() -> None:
    v = torch.tensor([[math.nan, 1.0], [3.0, 0.0]])
    for p in (1.0, 2.0, 1.5):
        z = project(v, 1.0, p)
        assert z[0].isnan().any()
        torch.testing.assert_close(z[1], torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_exact_projections_are_differentiable(p: float) -> None:
    v = difficult_rows(p, 2.0)[:3, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: project(v, 0.5, p), (v,))


@pytest.mark.parametrize("p", OTHER)
@pytest.mark.parametrize("scale", [1.001, 1.5, 30.0, 1e6])
def test_more_steps_would_not_change_the_result(
    p: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    radius = 0.3
    v = difficult_rows(p, scale * radius, seed=1)
    z = project_lp(v, radius, p)
    monkeypatch.setattr(projection, "_newton_steps", lambda p: (60, 60))
    assert (numerics.norm(z - project_lp(v, radius, p), 2) <= 1e-6 * radius).all()
