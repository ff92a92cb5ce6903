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
    short = Jacobian(case).spectral_norm(tolerance=1e-15, most=2)
    assert short.iterations == 2
    assert not short.converged.all()


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
    with pytest.raises(IndexError, match="there are 6 samples"):
        Jacobian(case).to_scipy(6)


def test_an_error_bar_needs_two_draws(network: Build, samples: Tensor) -> None:
    case = case_of(network, "affine", samples)
    with pytest.raises(ValueError, match="at least 2 draws"):
        GaussNewton(case).trace(draws=1)
    with pytest.raises(ValueError, match="at least 6 draws"):
        GaussNewton(case).trace_by_sketch(draws=5)
