from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustreg import numerics
from robustreg.threat import Threat, steepest_direction

PS = [1.0, 1.3, 1.5, 2.0, 3.0, 7.0, math.inf]
COMPILED = [1.0, 2.0, math.inf]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(3,), (2, 1), (1, 6), (4, 5), (1, 2, 3, 3), (2, 3, 4, 4), (0, 4), (3, 0)]
BOX = (torch.tensor([[0.1], [0.0]]), torch.tensor([0.6, 0.9, 1.0]))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (numerics.flatten(a).double() * numerics.flatten(b).double()).sum(1)


# --- making one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "p", "name"),
    [
        ("linf", math.inf, "linf"),
        ("Linf", math.inf, "linf"),
        ("inf", math.inf, "linf"),
        (math.inf, math.inf, "linf"),
        ("l2", 2.0, "l2"),
        (2, 2.0, "l2"),
        ("2", 2.0, "l2"),
        ("l1", 1.0, "l1"),
        ("l1.5", 1.5, "l1.5"),
        (1.5, 1.5, "l1.5"),
        (np.float32(3), 3.0, "l3"),
        (4 / 3, 4 / 3, "l1.3333333333333333"),
        (1e6, 1e6, "l1e+06"),
    ],
)
def test_norms_and_their_names(norm: str | float, p: float, name: str) -> None:
    threat = Threat(norm, 0.5)
    assert (threat.norm, threat.name, threat.eps) == (p, name, 0.5)
    assert Threat(name, 0.5) == threat
    assert threat.dual == numerics.dual_exponent(p)


@pytest.mark.parametrize(
    "norm", [0.5, 0, "l0", "l0.9", -1, math.nan, "nan", "lp", "", "l-inf", None, True, [2]]
)
def test_other_norms_are_refused(norm: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"or a number in [1, inf], got {norm!r}")):
        Threat(norm, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_a_radius_that_is_none_is_refused(eps: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"eps is a finite number >= 0, got {eps!r}")):
        Threat("l2", eps)  # type: ignore[arg-type]


@pytest.mark.parametrize("bounds", [(1, 0), (0, math.nan), 1, ("a", 1), (0, 1, 2)])
def test_bad_bounds_are_refused(bounds: object) -> None:
    with pytest.raises(ValueError, match="bound"):
        Threat("l2", 0.1, bounds)  # type: ignore[arg-type]


def test_equal_threats_are_the_same_key() -> None:
    same = [Threat("linf", 8 / 255), Threat(math.inf, 8 / 255, (0, 1)), Threat("inf", Fraction(8, 255))]
    assert len({*same}) == 1
    assert len({repr(t) for t in same}) == 1
    tensors = [Threat("l2", 1, (torch.zeros(3), b)) for b in (torch.ones(3), torch.ones(3).double())]
    assert tensors[0] == tensors[1]
    assert hash(tensors[0]) == hash(tensors[1])
    different = [
        same[0],
        Threat("linf", 0.03),
        Threat("l2", 8 / 255),
        Threat("linf", 8 / 255, None),
        Threat("linf", 8 / 255, (0, 2)),
        Threat("linf", 8 / 255, (torch.zeros(3), 1)),
        Threat("linf", 8 / 255, (torch.full((3,), 0.1), 1)),
    ]
    assert len({*different}) == len(different)
    assert len({repr(t) for t in different}) == len(different)
    assert all(len(repr(t)) < 80 for t in different)
    assert same[0] != "linf"


def test_a_threat_cannot_be_changed() -> None:
    lower = torch.zeros(3)
    threat = Threat("l2", 0.5, (lower, 1))
    before = hash(threat)
    for name in ("eps", "norm", "_eps", "colour"):
        with pytest.raises(AttributeError, match=name):
            setattr(threat, name, 1.0)
    lower.fill_(0.5)
    assert threat.bounds is not None
    threat.bounds[0].fill_(0.5)  # type: ignore[union-attr]
    assert threat == Threat("l2", 0.5, (torch.zeros(3), 1))
    assert hash(threat) == before
    assert torch.equal(threat.clip(torch.full((1, 3), -1.0)), torch.zeros(1, 3))


def test_with_eps_changes_the_radius_alone() -> None:
    threat = Threat("l1.5", 0.5, BOX)
    assert threat.with_eps(2) == Threat(1.5, 2.0, BOX)
    assert threat.eps == 0.5


@pytest.mark.parametrize(
    "threat",
    [
        Threat("linf", 8 / 255),
        Threat(4 / 3, 0, None),
        Threat("l2", 0.1, BOX),
        Threat("l1", 3, (-math.inf, 5)),
        Threat("l2", 1, (torch.tensor([0.0, -math.inf]), math.inf)),
    ],
)
def test_copies_are_equal(threat: Threat) -> None:
    assert Threat.from_dict(json.loads(json.dumps(threat.to_dict(), allow_nan=False))) == threat
    assert pickle.loads(pickle.dumps(threat)) == threat
    assert copy.deepcopy(threat) == threat


def test_to_dict_is_readable() -> None:
    assert Threat("linf", 0.25).to_dict() == {"norm": "linf", "eps": 0.25, "bounds": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"norm": "l2", "eps": 1}, "keys ['norm', 'eps', 'bounds'], got ['norm', 'eps']"),
        ({"norm": "l2", "eps": 1, "bounds": None, "p": 2}, "got ['norm', 'eps', 'bounds', 'p']"),
        ("l2", "got 'l2'"),
        ({"norm": "l2", "eps": "1", "bounds": None}, "eps is a finite number >= 0, got '1'"),
        ({"norm": "l2", "eps": 1, "bounds": [0, "x"]}, "got 'x'"),
        ({"norm": "l2", "eps": 1, "bounds": [0, ["x"]]}, "got ['x']"),
        ({"norm": "l2", "eps": 1, "bounds": [0]}, "(lower, upper), got [0]"),
    ],
)
def test_a_bad_description_is_refused(values: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Threat.from_dict(values)  # type: ignore[arg-type]


# --- the steepest direction: T1, T2, T3, T8, T9 of the gradient family --------------------------------------


@pytest.mark.parametrize(
    ("p", "rise", "expected"),
    [
        (1, 0.4, (0, -0.1, 0, 0)),
        (1.5, 0.451436, (0.044162, -0.078511, 0, 0.004907)),
        (2, 0.509902, (0.058835, -0.078446, 0, 0.019612)),
        (3, 0.586292, (0.071533, -0.082599, 0, 0.041299)),
        (math.inf, 0.8, (0.1, -0.1, 0, 0.1)),
    ],
)
def test_t1_worked_example(p: float, rise: float, expected: tuple[float, ...]) -> None:
    threat, g = Threat(p, 0.1), torch.tensor([[3.0, -4.0, 0.0, 1.0]], dtype=torch.float64)
    delta = threat.steepest(g)
    assert delta.tolist()[0] == pytest.approx(expected, abs=6e-7)
    assert dot(g, delta).item() == pytest.approx(rise, abs=6e-7)
    assert (0.1 * threat.dual_norm(g)).item() == pytest.approx(rise, abs=6e-7)


@settings(deadline=None, max_examples=120)
@given(
    p=st.one_of(st.sampled_from([*PS, 1.001, 1e6]), st.floats(1.001, 30)),
    eps=st.floats(0, 10),
    shape=st.sampled_from(SHAPES[:-1]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 999),
)
def test_t1_steepest_has_length_eps_and_reaches_the_dual_norm(
    p: float, eps: float, shape: tuple[int, ...], dtype: torch.dtype, size: float, seed: int
) -> None:
    threat, g = Threat(p, eps, None), (normal(*shape, seed=seed) * size).to(dtype)
    delta = threat.steepest(g)
    assert (delta.dtype, delta.shape, delta.device) == (dtype, g.shape, g.device)
    # float16 alone has so few exponents that small entries of delta lose relative precision.
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-6 if dtype == torch.float16 else 1e-30}
    wide = delta.double()
    torch.testing.assert_close(
        threat.length(wide), torch.full(shape[:1], eps, dtype=torch.float64), **tolerance
    )
    rise = eps * threat.dual_norm(g.double())
    tolerance["atol"] *= float(g.double().abs().sum()) + 1
    torch.testing.assert_close(dot(g, wide), rise, **tolerance)


def test_t2_limits_of_the_norm() -> None:
    g = torch.tensor([[2.0, -2.0, 1.0]])
    near_one = Threat(1.0001, 1).steepest(g)
    torch.testing.assert_close(near_one, torch.tensor([[0.50003, -0.50003, 0.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(near_one, Threat(1, 1).steepest(g), atol=1e-4, rtol=0)
    torch.testing.assert_close(Threat(1e6, 1).steepest(g), g.sign(), atol=1e-5, rtol=0)
    torch.testing.assert_close(Threat(1e300, 1).steepest(g), g.sign())


@pytest.mark.parametrize("p", PS)
def test_t3_scale_permutation_and_rows(p: float) -> None:
    threat, g = Threat(p, 0.3), normal(5, 12)
    delta = threat.steepest(g)
    for scale in (1e-30, 1e-3, 7.0, 1e30):
        torch.testing.assert_close(threat.steepest(scale * g), delta)
        torch.testing.assert_close(threat.steepest((scale * g).float()), delta.float(), atol=1e-6, rtol=1e-4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(threat.steepest(g[:, order]), delta[:, order])
    torch.testing.assert_close(threat.steepest(g[2:3]), delta[2:3])
    torch.testing.assert_close(threat.steepest(g.flip(0)), delta.flip(0))
    torch.testing.assert_close(threat.steepest(g.reshape(5, 3, 2, 2)), delta.reshape(5, 3, 2, 2))


def test_t8_linf_is_fgsm_bit_for_bit() -> None:
    g = normal(4, 3, 5, 5).float()
    g[0, 0] = 0
    g[1] = 1e-42
    assert torch.equal(Threat("linf", 8 / 255).steepest(g), 8 / 255 * g.sign())


def test_t9_the_dual_norms_are_ordered() -> None:
    g = normal(50, 3, 4)
    r = {p: Threat(p, 1).dual_norm(g) for p in (1, 1.5, 2, 3, math.inf)}
    assert (r[1] <= r[1.5]).all()
    assert (r[1.5] <= r[2]).all()
    assert (r[2] <= r[3]).all()
    assert (r[3] <= r[math.inf]).all()
    d, rounding = 12, 1 + 1e-12
    assert (r[math.inf] <= math.sqrt(d) * r[2] * rounding).all()
    assert (math.sqrt(d) * r[2] <= d * r[1] * rounding).all()


@pytest.mark.parametrize("p", PS)
def test_no_perturbation_of_that_length_rises_faster(p: float) -> None:
    threat, g = Threat(p, 0.5), normal(1, 6)
    others = normal(500, 6, seed=1)
    others = 0.5 * others / threat.length(others).unsqueeze(1)
    assert (others @ g[0] <= dot(g, threat.steepest(g))).all()


def test_l1_shares_eps_among_exact_ties() -> None:
    g = torch.tensor([[2.0, -2.0, 1.0, 2.0], [0.0, 0.0, 0.0, -1.0]])
    expected = torch.tensor([[1.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, -3.0]])
    torch.testing.assert_close(Threat("l1", 3).steepest(g), expected)


@pytest.mark.parametrize("p", [*PS, 1.0001, 1e6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_gradient_gives_no_perturbation(p: float, dtype: torch.dtype) -> None:
    g = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=dtype)
    delta = Threat(p, 0.5).steepest(g)
    assert delta.tolist() == [[0.0, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_that_are_not_finite_still_give_a_finite_direction(p: float, dtype: torch.dtype) -> None:
    inf, nan = math.inf, math.nan
    g = torch.tensor([[nan, 3.0, 4.0], [nan, nan, nan], [-inf, 1.0, 0.0], [inf, nan, -inf]], dtype=dtype)
    direction = steepest_direction(g, p)
    assert direction.isfinite().all()
    assert torch.equal(direction[0], steepest_direction(torch.tensor([[0.0, 3.0, 4.0]], dtype=dtype), p)[0])
    assert not direction[1].any()
    assert direction[2, 0] == -1
    assert direction[3, 0] == -direction[3, 2] > 0
    assert direction[3, 1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sample_may_have_a_norm_of_its_own(dtype: torch.dtype) -> None:
    ps = torch.tensor([*PS, 1.0001, 1021.4, 1e6])
    g = normal(len(ps), 2, 3, 4).to(dtype)
    g[:, 0, 0] = 0
    g[0, 1, 0, :2] = -9  # a tie
    found = steepest_direction(g, ps)
    assert (found.dtype, found.shape) == (g.dtype, g.shape)
    for i, p in enumerate(ps.tolist()):
        # 1 / (p - 1) is large where p is near 1, and with it the rounding of p
        torch.testing.assert_close(
            found[i : i + 1], steepest_direction(g[i : i + 1], p), rtol=1e-3, atol=1e-6
        )
    torch.testing.assert_close(steepest_direction(0 * g, ps), 0 * g)
    assert steepest_direction(g[:, :0], ps).shape == (len(ps), 0, 3, 4)


def test_norms_that_are_not_one_for_each_sample_are_refused() -> None:
    for p in (torch.tensor(2.0), torch.full((3,), 2.0), torch.full((2, 1), 2.0)):
        with pytest.raises(ValueError, match=r"exponents of shape \[2\], one per sample, got"):
            steepest_direction(normal(2, 5), p)


def test_steepest_is_a_constant() -> None:
    g = normal(2, 3).requires_grad_()
    assert not Threat("l2", 1).steepest(g).requires_grad


def test_steepest_of_non_contiguous_gradients() -> None:
    g = normal(2, 4, 5, 3).permute(0, 3, 1, 2)
    for p in PS:
        torch.testing.assert_close(steepest_direction(g, p), steepest_direction(g.contiguous(), p))


# --- the contract: within eps, within bounds, finite, same dtype and device ---------------------------------


@settings(deadline=None, max_examples=250)
@given(
    p=st.sampled_from(PS),
    eps=st.sampled_from([0.0, 1e-3, 8 / 255, 0.5, 5.0]),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    bounds=st.sampled_from([None, (0.0, 1.0), (0.3, 0.7), (0.1, math.inf), "per feature"]),
    content=st.sampled_from(["uniform", "constant", "corners", "transposed"]),
    scale=st.sampled_from([0.0, 0.01, 1.0, 1e4, math.inf]),
    seed=st.integers(0, 999),
)
def test_projected_points_are_in_the_ball_and_in_the_box(
    p: float,
    eps: float,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    bounds: tuple[float, float] | str | None,
    content: str,
    scale: float,
    seed: int,
) -> None:
    if bounds == "per feature":
        lower = uniform(*shape[1:], seed=seed) * 0.4
        bounds = (lower, lower + 0.5)  # type: ignore[assignment]
    threat = Threat(p, eps, bounds)  # type: ignore[arg-type]
    x = uniform(*shape, seed=seed).to(dtype)
    if content == "constant":
        x = torch.full_like(x, 0.5)
    elif content == "corners":
        x = x.round()
    elif content == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    x = threat.clip(x)
    threat.check_input(x)
    noise = normal(*shape, seed=seed + 1)
    far = x + (noise * scale if scale < math.inf else noise / 0).to(dtype)
    near = threat.project(far, x)
    assert (near.dtype, near.device, near.shape) == (dtype, x.device, x.shape)
    assert near.isfinite().all()
    assert threat.contains(near, x).all()
    if threat.bounds is not None:
        assert torch.equal(threat.clip(near), near)
    if eps == 0:
        assert torch.equal(near, x)
    # Points that satisfy both conditions as they are stay, to the bit.
    kept = threat.contains(far, x, tolerance=0.0)
    assert torch.equal(near[kept], far[kept])
    # Every other way of moving inside the ball ends there, too.
    generator = torch.Generator().manual_seed(seed)
    for delta in (
        threat.steepest(noise.to(dtype)),
        threat.random(x, generator),
        threat.project_ball(far - x),
    ):
        assert (delta.dtype, delta.shape) == (dtype, x.shape)
        assert delta.isfinite().all()
        assert Threat(p, eps, None).contains(x + delta, x).all()
        assert threat.contains(threat.project(x + delta, x), x).all()
        assert threat.contains(threat.clip(x + delta), x).all()


@pytest.mark.parametrize("p", PS)
def test_contains_is_strict_beyond_rounding(p: float) -> None:
    threat, x = Threat(p, 0.1), uniform(20, 3, 4, 4).float() * 0.2 + 0.4
    delta = threat.steepest(normal(20, 3, 4, 4).float())
    assert threat.contains(x + delta, x).all()
    assert not threat.contains(x + 1.01 * delta, x).any()
    assert threat.contains(x + 1.01 * delta, x, tolerance=2e-3).all()
    assert threat.contains(x, x, tolerance=0.0).all()


def test_contains_judges_each_sample_and_refuses_nan() -> None:
    threat = Threat("linf", 0.1)
    x = torch.full((4, 2), 0.95)
    x_adv = torch.tensor([[0.95, 0.9], [0.95, 0.8], [1.01, 0.95], [math.nan, 0.95]])
    assert threat.contains(x_adv, x).tolist() == [True, False, False, False]
    assert threat.contains(x_adv, x, tolerance=0.1).tolist() == [True, True, True, False]


def test_contains_forgives_rounding_at_the_box_only() -> None:
    threat, x = Threat("l2", 0.5), torch.zeros(1, 3)
    assert threat.contains(torch.full((1, 3), -3e-8), x).all()
    assert not threat.contains(torch.full((1, 3), -1e-6), x).any()


def test_linf_projection_is_the_nearest_point_of_ball_and_box() -> None:
    threat = Threat("linf", 0.3, BOX)
    x = threat.clip(uniform(5, 2, 3))
    far = normal(5, 2, 3)
    near = threat.project(far, x)
    assert torch.equal(near, threat.clip(torch.minimum(torch.maximum(far, x - 0.3), x + 0.3)))
    for seed in range(100):
        other = threat.clip(x + 0.6 * uniform(5, 2, 3, seed=seed) - 0.3)
        assert ((other - far).square().sum((1, 2)) >= (near - far).square().sum((1, 2))).all()


@pytest.mark.parametrize("p", PS)
def test_inputs_outside_the_box_are_not_pulled_in(p: float) -> None:
    """Then ball and box may have no common point; the ball counts."""
    x = torch.tensor([[1.5, -0.2, 0.5]])
    for eps in (0.0, 0.1):
        threat = Threat(p, eps)
        near = threat.project(x + torch.tensor([[5.0, 3.0, 0.01]]), x)
        assert threat.with_eps(eps).length(near - x) <= eps + 1e-6
        assert near[0, 0] <= 1.5
        assert near[0, 1] >= -0.2
    assert torch.equal(Threat(p, 0).project(x + 1, x), x)


@pytest.mark.parametrize("p", PS)
def test_projection_in_the_ball_is_the_row_projection_for_any_shape(p: float) -> None:
    threat, delta = Threat(p, 0.7), normal(3, 2, 4, 5)
    flat = threat.project_ball(delta.flatten(1))
    torch.testing.assert_close(threat.project_ball(delta), flat.reshape(delta.shape))
    strided = delta.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(threat.project_ball(strided), threat.project_ball(delta))
    torch.testing.assert_close(threat.project_ball(flat), flat)
    assert torch.equal(threat.project_ball(0.1 * flat), 0.1 * flat)


@pytest.mark.parametrize("p", PS)
def test_points_inside_keep_their_bits(p: float) -> None:
    x, x_adv = uniform(50, 40).float(), uniform(50, 40, seed=1).float()
    assert not torch.equal(x + (x_adv - x), x_adv)  # what adding the perturbation again would do
    assert torch.equal(Threat(p, 100).project(x_adv, x), x_adv)
    assert torch.equal(Threat(p, 100, None).project(x_adv, x), x_adv)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_are_those_of_the_dtype(dtype: torch.dtype) -> None:
    """0.3 is no bfloat16: a value clipped to it is on the bound all the same."""
    threat = Threat("linf", 0, (0.3, 0.7))
    x = threat.clip(torch.tensor([[0.0, 1.0]], dtype=dtype))
    assert threat.contains(x, x, tolerance=0.0).all()


def test_per_feature_bounds_apply_feature_by_feature() -> None:
    threat = Threat("linf", 10, (torch.tensor([0.0, 18.0, -math.inf]), torch.tensor([1.0, 99.0, 0.0])))
    x = torch.tensor([[0.5, 40.0, -3.0]])
    assert threat.project(x + 100, x).tolist() == [[1.0, 50.0, 0.0]]
    assert threat.project(x - 100, x).tolist() == [[0.0, 30.0, -13.0]]
    fixed = Threat("l2", 10, (torch.tensor([0.5, 18.0]), torch.tensor([0.5, 99.0])))
    assert fixed.project(torch.tensor([[7.0, 41.0]]), torch.tensor([[0.5, 40.0]])).tolist() == [[0.5, 41.0]]


def test_bounds_of_another_shape_are_refused() -> None:
    threat, x = Threat("linf", 0.1, (torch.zeros(3), 1)), torch.zeros(2, 4)
    for call in (
        threat.clip,
        threat.check_input,
        lambda x: threat.project(x, x),
        lambda x: threat.contains(x, x),
    ):
        with pytest.raises(
            ValueError, match=re.escape("bounds of shape [3] do not broadcast to one input, [4]")
        ):
            call(x)


def test_points_that_do_not_match_their_inputs_are_refused() -> None:
    threat, x = Threat("l2", 0.1), torch.zeros(2, 3)
    for call in (threat.project, threat.contains):
        with pytest.raises(ValueError, match=re.escape("shape [2, 3], got [2, 4]")):
            call(torch.zeros(2, 4), x)
    with pytest.raises(ValueError, match=r"dtype torch\.float32, got torch\.float64"):
        threat.project(x.double(), x)
    assert threat.contains(x.double(), x).all()


@pytest.mark.parametrize("p", PS)
def test_integers_are_refused_everywhere(p: float) -> None:
    threat, x = Threat(p, 0.1), torch.zeros(2, 3, dtype=torch.int64)
    calls: list[Callable[[Tensor], object]] = [
        threat.steepest,
        threat.project_ball,
        threat.clip,
        threat.random,
        threat.length,
        threat.dual_norm,
        lambda x: threat.project(x, x),
        lambda x: threat.contains(x, x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"expected a floating point tensor, got torch\.int64"):
            call(x)


# --- random points ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 50.0, math.inf])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_random_points_are_uniform_in_the_ball(p: float, d: int) -> None:
    """Two exact laws of the uniform distribution on the unit ball, by Kolmogorov-Smirnov at a fixed seed.

    ||u||^d is uniform on [0, 1], and |u_1|^p ~ Beta(1/p, 1 + (d-1)/p); each sign is as likely.
    """
    stats = pytest.importorskip("scipy.stats")
    threat = Threat(p, 0.25, None)
    like = torch.zeros(20_000, d, dtype=torch.float64)
    u = threat.random(like, torch.Generator().manual_seed(0)) / threat.eps
    assert stats.kstest((numerics.norm(u, p) ** d).numpy(), "uniform").pvalue > 1e-3
    if p == math.inf:
        assert stats.kstest(u[:, -1].abs().numpy(), "uniform").pvalue > 1e-3
    else:
        marginal = stats.beta(1 / p, 1 + (d - 1) / p)
        assert stats.kstest((u[:, -1].abs() ** p).numpy(), marginal.cdf).pvalue > 1e-3
    assert abs((u > 0).double().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(u.numel())
    if d > 1:
        signs = u[:, :2].sign().prod(1).mean().item()
        assert abs(signs) < 4 / math.sqrt(len(u))


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_uses_the_generator_and_nothing_else(p: float, dtype: torch.dtype) -> None:
    threat, like = Threat(p, 0.5), torch.zeros(4, 3, 2, dtype=dtype)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    first, second = threat.random(like, generator), threat.random(like, generator)
    again = threat.random(like, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    rows = first.flatten(1)
    assert not torch.equal(rows[0], rows[1])
    torch.manual_seed(5)
    assert torch.equal(threat.random(like), first)
    torch.set_rng_state(state)


@pytest.mark.parametrize("p", PS)
def test_random_points_in_high_dimension_and_low_precision(p: float) -> None:
    threat = Threat(p, 0.5, None)
    u = threat.random(torch.zeros(8, 3, 32, 32, dtype=torch.bfloat16), torch.Generator().manual_seed(0))
    length = threat.length(u)
    assert (length <= 0.5 * (1 + 4 * torch.finfo(torch.bfloat16).eps)).all()
    assert (length >= 0.49).all()  # almost all of a high-dimensional ball is near its surface


# --- check_input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (
            torch.tensor([[0.0, 255.0], [3.0, 9.0]]),
            "inputs run from 0 to 255 but the threat's bounds are [0, 1]: divide by 255 or set bounds "
            "(2 of 2 samples are outside)",
        ),
        (
            torch.tensor([[-2.1, 2.6], [0.0, 1.0]]),
            "inputs run from -2.1 to 2.6 but the threat's bounds are [0, 1]: scale the inputs, make the "
            "normalisation the model's first layer, or set bounds (1 of 2 samples are outside)",
        ),
        (torch.tensor([[0.0, 1.0], [0.0, math.nan]]), "NaN or infinite values, first in sample 1"),
        (torch.tensor([[math.inf, 1.0]]), "NaN or infinite values, first in sample 0"),
        (torch.zeros(2, 3, dtype=torch.uint8), "got torch.uint8: convert them with x.float() / 255"),
        (torch.zeros(2, 3, dtype=torch.int64), "got torch.int64: convert them with x.float()"),
        (torch.tensor(0.5), "expected a batch [B, ...]"),
        ([[0.5]], "as a tensor [B, ...], got list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_sentence(x: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        Threat("linf", 8 / 255).check_input(x)
    assert "\n" not in str(error.value)


def test_pain_10_rounding_at_the_bounds_is_no_error() -> None:
    threat = Threat("linf", 8 / 255)
    x = torch.tensor([[-3e-8, 1 + 1e-7]])
    threat.check_input(x)
    near = threat.project(x + 1, x)
    assert threat.contains(near, x).all()
    with pytest.raises(ValueError, match="inputs run from"):
        threat.check_input(torch.tensor([[-1e-5, 0.5]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_that_fit_pass(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        Threat("l2", 1).check_input(uniform(*shape).to(dtype))
        Threat("l2", 1, None).check_input(100 * normal(*shape).to(dtype))
    Threat("l2", 1, (0, math.inf)).check_input(torch.tensor([[0.0, 1e9]], dtype=torch.float32))
    threat = Threat("l2", 1, BOX)
    threat.check_input(threat.clip(uniform(4, 2, 3).to(dtype)))
    with pytest.raises(ValueError, match=r"bounds are \[tensor\[2, 1\]#"):
        threat.check_input(2 * torch.ones(1, 2, 3, dtype=dtype))


# --- the hot path -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), BOX])
def test_the_hot_path_never_reads_values_and_stays_on_the_device(p: float, bounds: None) -> None:
    """Tensors on the meta device have no values: `.item()` or a branch on data would raise."""
    threat = Threat(p, 0.1, bounds)
    x = torch.zeros(4, 2, 3, device="meta", dtype=torch.bfloat16)
    results = [
        threat.steepest(x),
        steepest_direction(x, torch.full((4,), p, device="meta")),
        threat.project_ball(x),
        threat.project(x, x),
        threat.clip(x),
        threat.random(x),
        threat.random(x, torch.Generator().manual_seed(0)),
    ]
    for result in results:
        assert (result.device.type, result.dtype, result.shape) == ("meta", x.dtype, x.shape)
    for result in (threat.length(x), threat.dual_norm(x), threat.contains(x, x)):
        assert (result.device.type, result.shape) == ("meta", (4,))


@pytest.mark.parametrize("p", COMPILED)
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), BOX])
def test_the_hot_path_compiles_into_one_graph(p: float, bounds: None) -> None:
    threat = Threat(p, 0.3, bounds)

    def step(x: Tensor, g: Tensor) -> list[Tensor]:
        moved = threat.project(x + threat.steepest(g), x)
        measures = [threat.length(g), threat.dual_norm(g), threat.contains(moved, x).float()]
        return [moved, threat.project_ball(g), threat.clip(x + g), *measures]

    torch._dynamo.reset()
    x, g = threat.clip(uniform(4, 2, 3)), normal(4, 2, 3)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for ours, eager in zip(compiled(x, g), step(x, g), strict=True):
        torch.testing.assert_close(ours, eager)
    random = torch.compile(threat.random, backend="aot_eager", fullgraph=True)
    assert (threat.length(random(x)) <= 0.3 * (1 + 1e-6)).all()
