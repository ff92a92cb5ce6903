"""Discrepancies between two predictions: known numbers, closed forms, inequalities, derivatives, extreme logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from robustreg import numerics
from robustreg.discrepancies import NAMED, between, check_discrepancy, logit_variance, nuclear

Z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
Z_ADV = torch.tensor([[1.0, 1.5, 0.0], [-0.5, 0.25, 1.0]], dtype=torch.float64)
P, Q = Z.softmax(1), Z_ADV.softmax(1)
PER_SAMPLE = sorted(set(NAMED) - {"nuclear"})
VANISHING = sorted(set(NAMED) - {"soft_cross_entropy"})  # at equal logits


def pair(seed: int, scale: float = 2.0, shape: tuple[int, int] = (5, 4)) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = (scale * torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    return a, b


# -- known numbers ----------------------------------------------------------------------------------------------------

BY_HAND = {
    "kl": (P * (P.log() - Q.log())).sum(1),
    "reverse_kl": (Q * (Q.log() - P.log())).sum(1),
    "js": 0.5 * (P * (2 * P / (P + Q)).log() + Q * (2 * Q / (P + Q)).log()).sum(1),
    "squared_logits": (Z - Z_ADV).square().sum(1),
    "mean_squared_logits": (Z - Z_ADV).square().mean(1),
    "squared_probabilities": (P - Q).square().sum(1),
    "soft_cross_entropy": -(P * Q.log()).sum(1),
    "logit_variance": 0.25
    * sum(
        P[:, j] * P[:, k] * ((Z - Z_ADV)[:, j] - (Z - Z_ADV)[:, k]).square()
        for j in range(3)
        for k in range(3)
    ),
    "nuclear": torch.linalg.matrix_norm(Z - Z_ADV, "nuc") / 2,
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_definitions(name: str) -> None:
    torch.testing.assert_close(between(name)(Z, Z_ADV), BY_HAND[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("kl", [0.23940136, 0.16713029]),
        ("squared_logits", [1.25, 1.0625]),
        ("nuclear", 2.14564392 / 2),
    ],
)
def test_numbers_of_the_fixture(name: str, numbers: list[float] | float) -> None:
    torch.testing.assert_close(
        between(name)(Z, Z_ADV), torch.tensor(numbers, dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_the_mean_squared_probability_gap_of_the_fixture() -> None:
    assert between("squared_probabilities")(Z, Z_ADV).mean().item() == pytest.approx(0.16914298, abs=1e-8)


def test_the_gradient_of_the_nuclear_norm_is_the_polar_factor() -> None:
    z = Z.clone().requires_grad_()
    (2 * nuclear(z, Z_ADV)).backward()
    expected = [[0.87287156, -0.48728716, 0.02542569], [0.43643578, 0.75635642, -0.48728716]]
    torch.testing.assert_close(z.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_the_nuclear_norm_of_one_row_is_its_length() -> None:
    assert nuclear(Z[:1], Z_ADV[:1]).item() == pytest.approx(1.25**0.5, abs=1e-14)


# -- identities and inequalities --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VANISHING)
def test_equal_predictions_are_not_apart(name: str) -> None:
    """And their gradient is zero: nothing is to be moved."""
    z = Z.clone().requires_grad_()
    value = between(name)(z, Z).sum()
    assert value.item() == pytest.approx(0, abs=1e-15)
    value.backward()
    torch.testing.assert_close(z.grad, torch.zeros_like(Z), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "name", sorted(set(VANISHING) - {"squared_logits", "mean_squared_logits", "nuclear"})
)
def test_shifting_all_logits_changes_nothing(name: str) -> None:
    a, b = pair(0)
    torch.testing.assert_close(between(name)(a + 3, b - 7), between(name)(a, b), rtol=0, atol=1e-13)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 10))
@settings(max_examples=50, deadline=None)
def test_inequalities(seed: int, scale: float) -> None:
    a, b = pair(seed, scale)
    d = {name: between(name)(a, b) for name in NAMED}
    slack = 1e-12 * (1 + scale**2)
    assert all((d[name] >= -slack).all() for name in NAMED)
    assert (d["squared_probabilities"] <= 2 * d["kl"] + slack).all()  # Pinsker
    assert (
        d["squared_probabilities"] <= d["squared_logits"] / 4 + slack
    ).all()  # the softmax is 1/2-Lipschitz
    assert (d["kl"] <= d["squared_logits"] / 4 + slack).all()
    assert (d["js"] <= (d["kl"] + d["reverse_kl"]) / 4 + slack).all()
    frobenius, trace = d["squared_logits"].sum().sqrt(), d["nuclear"] * a.shape[0]
    assert frobenius - slack <= trace <= min(a.shape) ** 0.5 * frobenius + slack


def test_the_soft_cross_entropy_is_the_divergence_plus_the_targets_entropy() -> None:
    a, b = pair(1)
    entropy = -(a.softmax(1) * a.log_softmax(1)).sum(1)
    torch.testing.assert_close(
        between("soft_cross_entropy")(a, b), between("kl")(a, b) + entropy, rtol=0, atol=1e-14
    )


def test_the_two_halves_of_the_divergence_have_its_gradient() -> None:
    """Logit variance moves the reference, soft cross-entropy the other, as KL does both (Cui et al. 2024)."""
    a, b = (v.requires_grad_() for v in pair(2))
    whole = torch.autograd.grad(between("kl")(a, b).sum(), (a, b))
    (first,) = torch.autograd.grad(between("logit_variance")(a, b.detach()).sum(), a)
    (second,) = torch.autograd.grad(between("soft_cross_entropy")(a, b).sum(), b)
    torch.testing.assert_close((first, second), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("label", range(4))
def test_kl_is_the_linearisation_error_of_any_cross_entropy_where_logits_are_affine(label: int) -> None:
    a, b = pair(3)
    y = torch.full((5,), label)
    z = a.clone().requires_grad_()
    (g,) = torch.autograd.grad(numerics.cross_entropy(z, y).sum(), z)
    error = numerics.cross_entropy(b, y) - numerics.cross_entropy(a, y) - (g * (b - a)).sum(1)
    torch.testing.assert_close(between("kl")(a, b), error, rtol=0, atol=1e-13)


def test_the_worst_divergence_of_a_binary_affine_model_lowers_the_margin() -> None:
    def kl_to(m: float) -> float:
        z = torch.tensor([[0.0, 0.2], [0.0, m]], dtype=torch.float64)
        return float(between("kl")(z[:1], z[1:]))

    assert kl_to(0.2 - 0.7) == pytest.approx(0.06082191, abs=1e-8)
    assert kl_to(0.2 + 0.7) == pytest.approx(0.05813121, abs=1e-8)


# -- derivatives ------------------------------------------------------------------------------------------------------

CONSTANT_REFERENCE = {
    "soft_cross_entropy",
    "logit_variance",
}  # parts of the reference are constants by definition


@pytest.mark.parametrize("name", sorted(NAMED))
def test_derivatives(name: str) -> None:
    a, b = pair(4, shape=(3, 4))
    a.requires_grad_(name not in CONSTANT_REFERENCE)
    b.requires_grad_()
    assert gradcheck(between(name), (a, b))
    if name != "nuclear":
        assert gradgradcheck(between(name), (a, b))


def test_derivatives_of_the_logit_variance_under_given_weights() -> None:
    a, b = (v.requires_grad_() for v in pair(5))
    w = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradcheck(lambda a, b: logit_variance(a, b, w), (a, b))


def test_a_gap_without_full_rank_takes_the_subgradient_of_least_norm() -> None:
    z = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    direction = torch.tensor([3.0, 0, 4, 0], dtype=torch.float64)
    gap = torch.outer(torch.tensor([1.0, 0, 0], dtype=torch.float64), direction)
    (3 * nuclear(z + gap, torch.zeros_like(z))).backward()
    torch.testing.assert_close(z.grad, gap / 5, rtol=0, atol=1e-14)


# -- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, 1e-4])
@pytest.mark.parametrize("name", sorted(NAMED))
def test_finite_at_any_size(name: str, size: float, dtype: torch.dtype) -> None:
    a, b = ((size * v / 2).to(dtype).requires_grad_() for v in pair(6))
    value = between(name)(a, b)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite().all()
    grads = torch.autograd.grad(value.sum(), (a, b), allow_unused=True)
    assert all(g.isfinite().all() for g in grads if g is not None)


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_samples_do_not_see_each_other(name: str) -> None:
    a, b = pair(7)
    halves = [between(name)(a[i : i + 1], b[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(between(name)(a, b), torch.cat(halves), rtol=0, atol=1e-15)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"discrepancy must be one of kl, .*, got 'lk'"):
        check_discrepancy("lk")
    for name in NAMED:
        with pytest.raises(ValueError, match=r"two batches of logits.* of one shape"):
            between(name)(Z, Z_ADV[:1])
    assert between(BY_HAND.get) is not None  # any function will do
