"""Operators against dense matrices made by other means, and their estimates against the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case
from robustreg.connections.operators import CentredJacobian, Fisher, GaussNewton, Hessian, Jacobian, Operator
from robustreg.connections.quantities import hessian_by_autograd

Build = Callable[[str], nn.Module]
NETWORKS = ["relu_pool", "batch_norm", "by_hand", "gelu", "attention", "encoder", "affine", "two_classes"]


def case_of(network: Build, name: str, samples: Tensor) -> Case:
    y = torch.arange(len(samples)) % (2 if name == "two_classes" else 3)
    return Case(network(name), samples, y)


def fisher_by_definition(case: Case) -> Tensor:
    """``sum_k p_k g_k g_k^T``, a gradient for each label."""
    total = torch.zeros_like(case.hessian)
    for k in range(case.logits.shape[1]):
        g = case.gradient_of(lambda z, k=k: -z.log_softmax(1)[:, k], case.x)  # type: ignore[misc]
        total += case.p[:, k, None, None] * g[:, :, None] * g[:, None, :]
    return total


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_forms_and_products(name: str, network: Build, samples: Tensor) -> None:
    case = case_of(network, name, samples)
    expected: list[tuple[Operator, Tensor]] = [
        (Jacobian(case), case.jacobian),
        (CentredJacobian(case), case.centred),
        (GaussNewton(case), case.hessian),
        (Fisher(case), fisher_by_definition(case)),
        (Hessian(case), hessian_by_autograd(case)),
    ]
    generator = torch.Generator().manual_seed(1)
    for operator, matrix in expected:
        assert operator.shape == tuple(matrix.shape)
        torch.testing.assert_close(operator.dense(), matrix, rtol=1e-9, atol=1e-12)
        v, u = (
            torch.randn(len(samples), n, generator=generator, dtype=torch.float64)
            for n in operator.shape[2:0:-1]
        )
        torch.testing.assert_close(
            operator.matvec(v), torch.einsum("bmn,bn->bm", matrix, v), rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(
            operator.rmatvec(u), torch.einsum("bmn,bm->bn", matrix, u), rtol=1e-9, atol=1e-12
        )


def test_the_hessian_of_a_smooth_network_is_not_of_gauss_newton_form(network: Build, samples: Tensor) -> None:
    case = case_of(network, "gelu", samples)
    assert (Hessian(case).dense() - GaussNewton(case).dense()).abs().max() > 1e-4


def test_traces_within_their_error_bars(network: Build, samples: Tensor) -> None:
    case = case_of(network, "gelu", samples)
    for operator, matrix in ((Hessian(case), hessian_by_autograd(case)), (GaussNewton(case), case.hessian)):
        truth = torch.einsum("bdd->b", matrix)
        estimate = operator.trace(draws=200)
        assert (estimate.error > 0).all()
        assert ((estimate.value - truth).abs() <= 5 * estimate.error).all()
        assert (operator.trace(draws=800).error < 0.7 * estimate.error).all()  # half, but for chance


def test_hutch_plus_plus_is_exact_on_a_small_rank(network: Build, samples: Tensor) -> None:
    """``J^T S J`` of three classes has rank two."""
    case = case_of(network, "relu_pool", samples)
    truth = torch.einsum("bdd->b", case.hessian)
    estimate = GaussNewton(case).trace_by_sketch(draws=9)
    torch.testing.assert_close(estimate.value, truth, rtol=1e-8, atol=1e-12)
    assert (GaussNewton(case).trace(draws=9).value - truth).abs().max() > 1e-3 * truth.max()


def test_frobenius_norms_within_their_error_bars(network: Build, samples: Tensor) -> None:
    case = case_of(network, "relu_pool", samples)
    for operator, matrix in ((Jacobian(case), case.jacobian), (CentredJacobian(case), case.centred)):
        estimate = operator.frobenius_squared(draws=300)
        assert ((estimate.value - matrix.square().sum((1, 2))).abs() <= 5 * estimate.error).all()


def test_frobenius_norms_by_sketch_are_exact_for_few_classes(network: Build, samples: Tensor) -> None:
    case = case_of(network, "gelu", samples)
    for operator, matrix in ((Jacobian(case), case.jacobian), (CentredJacobian(case), case.centred)):
        estimate = operator.frobenius_squared_by_sketch(draws=9)
        torch.testing.assert_close(estimate.value, matrix.square().sum((1, 2)), rtol=1e-8, atol=1e-12)
    sketch = Hessian(case).frobenius_squared_by_sketch(draws=24)  # of a larger rank than the sketch
    truth = hessian_by_autograd(case).square().sum((1, 2))
    assert ((sketch.value - truth).abs() <= 5 * sketch.error + 1e-9 * truth).all()


@pytest.mark.parametrize("name", ["relu_pool", "gelu", "two_classes"])
def test_spectral_norms(name: str, network: Build, samples: Tensor) -> None:
    case = case_of(network, name, samples)
    for operator, matrix in ((Jacobian(case), case.jacobian), (Hessian(case), hessian_by_autograd(case))):
        found = operator.spectral_norm(tolerance=1e-10, most=500)
        truth = torch.linalg.matrix_norm(matrix, ord=2)
        assert found.converged.all()
        assert (found.value <= truth * (1 + 1e-12)).all()
        torch.testing.assert_close(found.value, truth, rtol=1e-4, atol=1e-10)
    short = Jacobian(case).spectral_norm(tolerance=1e-15, most=1)
    assert short.iterations == 1
    assert not short.converged.all()


def with_singular_values(values: Tensor, seed: int) -> Case:
    """A linear network whose Jacobian has these, at 8 samples with starting vectors of their own."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    )
    net = nn.Linear(len(values), len(values), bias=False).double()
    net.weight.data = left @ torch.diag(values) @ right.T
    return Case(net, torch.rand(8, len(values), generator=generator), torch.arange(8))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
def test_the_tolerance_holds_where_others_are_close_behind(gap: float, tolerance: float) -> None:
    """One singular value of 1, thirty that are less by the gap: power iteration says it is done far too early."""
    rest = torch.cat([torch.full((30,), 1.0 - gap), torch.linspace(0.9, 0.1, 33)])
    values = torch.cat([torch.ones(1), rest]).double()
    for seed in range(5):
        found = Jacobian(with_singular_values(values, seed)).spectral_norm(tolerance=tolerance, seed=seed)
        assert found.converged.all()
        assert (found.error <= tolerance).all()
        assert ((found.value - 1).abs() <= tolerance).all()


def test_what_has_not_converged_says_so_and_by_how_much() -> None:
    """The error that is told holds an actual singular value at any number of iterations."""
    values = torch.linspace(1.0, 0.9, 64).double()
    case = with_singular_values(values, 0)
    for most in (1, 2, 4, 8, 16):
        found = Jacobian(case).spectral_norm(tolerance=1e-12, most=most)
        assert not found.converged.any()
        nearest = (found.value[:, None] - values).abs().amin(1)
        assert (nearest <= found.error * found.value).all()
        assert (found.value <= 1 + 1e-12).all()


def test_the_largest_magnitude_of_an_indefinite_matrix(network: Build, samples: Tensor) -> None:
    """Where the lowest eigenvalue is the largest in magnitude too."""
    case = case_of(network, "gelu", samples)
    signs = torch.linalg.eigvalsh(hessian_by_autograd(case))
    assert (signs[:, 0] < 0).any()
    found = Hessian(case).spectral_norm(tolerance=1e-10)
    torch.testing.assert_close(found.value, signs.abs().amax(1), rtol=1e-9, atol=1e-14)


def test_one_run_of_the_network_for_all_products(samples: Tensor) -> None:
    class Counting(nn.Module):
        runs = 0

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            Counting.runs += 1
            found: Tensor = self.net(x)
            return found

    case = Case(Counting(), samples, torch.arange(6) % 3)
    operator, hessian = Jacobian(case), Hessian(case)
    v, u = torch.randn(6, 16).double(), torch.randn(6, 3).double()
    operator.matvec(v), operator.rmatvec(u), hessian.matvec(v)
    before = Counting.runs
    operator.spectral_norm()
    hessian.trace(draws=8)
    assert Counting.runs == before


def test_a_zero_matrix_has_norm_zero() -> None:
    net = nn.Linear(3, 2)
    nn.init.zeros_(net.weight)
    found = Jacobian(Case(net, torch.rand(2, 3), torch.tensor([0, 1]))).spectral_norm()
    assert (found.value == 0).all()
    assert found.converged.all()


def test_scipy_takes_one_sample(network: Build, samples: Tensor) -> None:
    sparse = pytest.importorskip("scipy.sparse.linalg")
    case = case_of(network, "relu_pool", samples)
    operator = Jacobian(case).to_scipy(2)
    matrix = case.jacobian[2].numpy()
    np.testing.assert_allclose(operator @ np.eye(16), matrix, atol=1e-12)
    np.testing.assert_allclose(
        operator.rmatvec(np.array([1.0, -2.0, 0.5])), matrix.T @ [1.0, -2.0, 0.5], atol=1e-12
    )
    largest = sparse.svds(operator, k=1, return_singular_vectors=False)[0]
    assert largest == pytest.approx(np.linalg.norm(matrix, 2))
    assert Jacobian(case).spectral_norm(1e-10).value[2].item() == pytest.approx(largest)
    with pytest.raises(IndexError, match="there are 6 samples"):
        Jacobian(case).to_scipy(6)


def test_an_error_bar_needs_two_draws(network: Build, samples: Tensor) -> None:
    case = case_of(network, "affine", samples)
    with pytest.raises(ValueError, match="at least 2 draws"):
        GaussNewton(case).trace(draws=1)
    with pytest.raises(ValueError, match="at least 6 draws"):
        GaussNewton(case).trace_by_sketch(draws=5)
