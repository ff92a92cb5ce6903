"""How concentrated a gradient is: definitions, closed forms, the expansion behind the rule, and the rule."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustreg.concentration import (
    adaptive_exponent,
    cosine,
    entropy,
    entropy_gap,
    log_mean_entropy,
    participation_ratio,
)

MEASURES = [participation_ratio, entropy, log_mean_entropy, entropy_gap, cosine]
D = 3072


def gradients(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def power_of_normal(k: float, d: int = D) -> Tensor:
    """The quantiles of ``sign(z) |z|^k``, ``z`` normal, ``[1, d]``: larger ``k``, more concentrated."""
    z = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(d, dtype=torch.float64) + 0.5) / d)
    return (z.sign() * z.abs().pow(k)).unsqueeze(0)


def moment(s: float) -> float:
    """``E |z|^s``."""
    return 2 ** (s / 2) * math.gamma((s + 1) / 2) / math.sqrt(math.pi)


# -- the measures ----------------------------------------------------------------------------------------------


def test_the_definitions() -> None:
    g = gradients(5, 3, 4, 4)
    size = g.abs().flatten(1).numpy()
    rho = size / size.sum(1, keepdims=True)
    ratio = (size.sum(1) / np.sqrt((size**2).sum(1))) ** 2
    h, h_m = -(rho * np.log(rho)).sum(1), -np.log(rho).mean(1)
    expected = [ratio, h, h_m, h_m - h, np.sqrt(ratio / 48)]
    for measure, values in zip(MEASURES, expected, strict=True):
        np.testing.assert_allclose(measure(g).numpy(), values, rtol=0, atol=1e-13 * 48)


@pytest.mark.parametrize("k", [1.0, 2.0, 3.0])
def test_powers_of_many_normal_entries(k: float) -> None:
    g = power_of_normal(k, 200_000)
    half = torch.tensor([(k + 1) / 2, 0.5], dtype=torch.float64).digamma()
    gap = k / 2 * float(half[0] - half[1])  # log 2, 2, 3.5794
    share = moment(k) ** 2 / moment(2 * k)  # 2/pi, 1/3, 0.1698
    assert entropy_gap(g).item() == pytest.approx(gap, abs=1e-3)
    assert (participation_ratio(g) / 200_000).item() == pytest.approx(share, abs=1e-3)
    assert cosine(g).item() == pytest.approx(math.sqrt(share), abs=1e-3)
    for q in (1.01, 1.2, 1.6):
        exact = moment(k * q) / math.sqrt(moment(2 * k) * moment(2 * k * (q - 1)))
        assert cosine(g, q / (q - 1)).item() == pytest.approx(exact, abs=1e-3)


@given(seed=st.integers(0, 10_000), d=st.integers(1, 40), power=st.floats(0, 6))
@settings(max_examples=60, deadline=None)
def test_their_ranges(seed: int, d: int, power: float) -> None:
    g = gradients(3, d, seed=seed)
    g = g.sign() * g.abs().pow(power)
    rounding = 1e-12 * d
    assert ((participation_ratio(g) >= 1 - rounding) & (participation_ratio(g) <= d + rounding)).all()
    assert ((entropy(g) >= -rounding) & (entropy(g) <= math.log(d) + rounding)).all()
    assert (log_mean_entropy(g) >= math.log(d) - rounding).all()
    assert (entropy_gap(g) >= 0).all()
    torch.testing.assert_close(
        entropy_gap(g), log_mean_entropy(g) - entropy(g), rtol=0, atol=1e-11 * (1 + power)
    )
    cosines = [cosine(g, p) for p in (2.0, 3.0, 8.0, 100.0, math.inf)]
    assert (cosines[0] - 1).abs().max() < rounding
    for nearer, further in itertools.pairwise(cosines):  # a lower p is nearer to l2
        assert (nearer >= further - rounding).all()


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.__name__)
def test_scale_order_sign_and_company_do_not_matter(measure: Any) -> None:
    g = gradients(4, 2, 3, 3)
    found = measure(g)
    for other in (1e-200 * g, 1e200 * g, -g, g.flip(2, 3)):
        torch.testing.assert_close(measure(other), found, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(measure(g[2:3]), found[2:3], rtol=0, atol=0)
    low = measure(g.to(torch.bfloat16))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, found.float(), rtol=0.02, atol=0.02)


def test_entries_that_are_zero_take_no_part() -> None:
    g = gradients(1, 7)
    padded = torch.cat([torch.zeros(1, 5, dtype=g.dtype), g, torch.zeros(1, 2, dtype=g.dtype)], 1)
    for measure in MEASURES:
        torch.testing.assert_close(measure(padded), measure(g), rtol=0, atol=1e-14)
    # it is the limit of the steepest steps: 0^(q-1) is 0 for every q > 1
    torch.testing.assert_close(cosine(padded, 1e9), cosine(g), rtol=1e-7, atol=0)


def test_flat_single_and_zero_gradients() -> None:
    g = torch.tensor([[3.0, -3.0, 3.0, 3.0], [0.0, -2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    log4 = math.log(4)
    expected = [[4, 1, 0], [log4, 0, 0], [log4, 0, 0], [0, 0, 0], [1, 1, 0]]
    for measure, values in zip(MEASURES, expected, strict=True):
        torch.testing.assert_close(measure(g), torch.tensor(values, dtype=torch.float32))
    one_feature = torch.tensor([5.0, -1e-30, 0.0])
    for measure, value in zip(MEASURES, [1.0, 0.0, 0.0, 0.0, 1.0], strict=True):
        assert measure(one_feature).tolist() == [value, value, 0.0]
    assert participation_ratio(torch.zeros(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_has_no_measure_but_an_exponent(bad: float) -> None:
    g = torch.tensor([[1.0, bad, 2.0], [1.0, 2.0, 3.0]])
    for measure in MEASURES:
        assert measure(g).isfinite().tolist() == [False, True]
    for rule in ("relative", "absolute"):
        assert adaptive_exponent(g, rule, 0.5).isfinite().all()


def test_they_are_constants() -> None:
    g = gradients(2, 3).requires_grad_()
    assert not any(measure(g).requires_grad for measure in MEASURES)
    assert not adaptive_exponent(g, "relative", 0.01).requires_grad


def test_single_precision_is_enough_for_large_images() -> None:
    g = gradients(2, 3, 224, 224)
    for measure in MEASURES:
        torch.testing.assert_close(measure(g.float()).double(), measure(g), rtol=2e-5, atol=0)


# -- the expansion of the cosine -------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1.0, 2.0, 3.0])
def test_the_gap_is_the_slope_of_the_cosines_logarithm(k: float) -> None:
    g = power_of_normal(k)
    errors = []
    for h in (1e-3, 5e-4):
        slope = (cosine(g, (1 + h) / h) / cosine(g)).log() / h
        errors.append(abs(float(slope - entropy_gap(g))))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.01)
    assert errors[1] < 0.01 * entropy_gap(g).item()


@pytest.mark.parametrize("k", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(("q", "error"), [(1.001, 1e-5), (1.01, 6e-4), (1.05, 0.01), (1.2, 0.11)])
def test_how_exact_the_expansion_is(k: float, q: float, error: float) -> None:
    g = power_of_normal(k)
    expansion = cosine(g) * (1 + (q - 1) * entropy_gap(g))
    assert 0 < float(expansion / cosine(g, q / (q - 1)) - 1) < error  # too high, by little


# -- the rule --------------------------------------------------------------------------------------------------


def test_the_exponents_of_a_normal_gradient() -> None:
    g = power_of_normal(1.0)
    assert entropy_gap(g).item() == pytest.approx(0.69, abs=0.005)
    assert adaptive_exponent(g, "relative", 0.01).item() == pytest.approx(70, abs=0.5)
    assert adaptive_exponent(g, "relative", 0.1).item() == pytest.approx(7.9, abs=0.05)
    gap = 2.96  # of a heavy-tailed one: p = 1 + dH / beta
    assert (1 + gap / 0.01, 1 + gap / 0.1) == pytest.approx((297, 30.6))


def reference_exponent(g: np.ndarray[Any, Any], alpha: float) -> np.ndarray[Any, Any]:
    """``q`` of the authors' rule, written down again from its formula, with their constants."""
    size = np.abs(g.reshape(len(g), -1)) + 1e-12
    pi = size / size.sum(1, keepdims=True)
    h = -(pi * np.log(pi)).sum(1)
    h_m = -np.log(pi).mean(1)
    q: np.ndarray[Any, Any] = np.clip(1 + alpha / (h_m - h), 1.00098, 2.0)
    return q


@pytest.mark.parametrize("beta", [0.001, 0.01, 0.1, 1.0])
def test_the_relative_rule_is_the_authors(beta: float) -> None:
    g = torch.cat([gradients(6, 48), gradients(6, 48, seed=1).pow(3), gradients(2, 48, seed=2).sign()])
    q = reference_exponent(1e6 * g.numpy(), beta)  # so large that 1e-12 is nothing beside it
    assert (q == 2.0).any()
    np.testing.assert_allclose(adaptive_exponent(g, "relative", beta).numpy(), q / (q - 1), rtol=1e-8)


def test_only_the_absolute_rule_lowers_the_exponent_where_the_gradient_concentrates() -> None:
    g = torch.cat([power_of_normal(k) for k in (1.0, 2.0, 3.0)])
    assert participation_ratio(g).diff().max() < 0 < entropy_gap(g).diff().min()
    assert adaptive_exponent(g, "relative", 0.01).diff().min() > 0
    assert adaptive_exponent(g, "absolute", 0.9).diff().max() < 0


def test_the_absolute_rule_gives_the_cosine_that_is_asked_for_to_first_order() -> None:
    g = gradients(1, 200, seed=3)
    found, errors = cosine(g), []
    for share in (0.04, 0.02):
        tau = float(found * (1 + share))
        p = adaptive_exponent(g, "absolute", tau)
        torch.testing.assert_close(p / (p - 1), 1 + share / entropy_gap(g), rtol=1e-12, atol=0)
        assert found < cosine(g, p) < tau
        errors.append(float(tau - cosine(g, p)))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_absolute_rule_leaves_a_sign_that_is_near_enough_alone() -> None:
    g = torch.cat([gradients(1, 50), torch.ones(1, 50, dtype=torch.float64)])
    assert cosine(g).min() > 0.5
    torch.testing.assert_close(
        adaptive_exponent(g, "absolute", 0.5), torch.full((2,), 1.00098 / 0.00098, dtype=torch.float64)
    )


def test_one_rule_is_the_other_for_a_cosine_of_its_own() -> None:
    g = gradients(1, 30)
    tau = 1.05 * float(cosine(g))
    torch.testing.assert_close(
        adaptive_exponent(g, "absolute", tau), adaptive_exponent(g, "relative", 0.05), rtol=1e-9, atol=0
    )


def test_the_exponent_where_there_is_no_gap() -> None:
    g = torch.tensor([[2.0, -2.0], [0.0, 1.0], [0.0, 0.0]])
    assert adaptive_exponent(g, "relative", 0.01).tolist() == [2.0, 2.0, 2.0]
    assert adaptive_exponent(g, "absolute", 0.8)[:2].min() > 1000
    assert adaptive_exponent(g, "relative", 0.0).min() > 1000
