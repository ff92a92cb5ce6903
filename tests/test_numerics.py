from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from robustreg import numerics

PS = [1.0, 1.5, 2.0, 3.0, math.inf]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
GAPS = [0.0, 1.0, 50.0, 105.0, 1e3, 1e4]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def second_derivative(f: Callable[[Tensor], Tensor], v: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of sum f at v and the product of its Hessian with a vector of ones."""
    v = v.detach().requires_grad_()
    (first,) = torch.autograd.grad(f(v).sum(), v, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), v, allow_unused=True, materialize_grads=True)
    return first.detach(), second


# --- flatten, exponents -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "flat"),
    [((3,), (3, 1)), ((3, 1), (3, 1)), ((2, 3, 4, 5), (2, 60)), ((0, 3, 4), (0, 12)), ((4, 0), (4, 0))],
)
def test_flatten_keeps_the_batch(shape: tuple[int, ...], flat: tuple[int, ...]) -> None:
    assert numerics.flatten(torch.zeros(shape)).shape == flat


def test_flatten_takes_non_contiguous_tensors_in_order() -> None:
    v = torch.arange(24).reshape(2, 3, 4).transpose(1, 2)
    assert torch.equal(numerics.flatten(v), v.contiguous().reshape(2, 12))


def test_a_tensor_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="without dimensions"):
        numerics.flatten(torch.tensor(1.0))


@pytest.mark.parametrize(("p", "dual"), [(1, math.inf), (1.5, 3), (2, 2), (3, 1.5), (math.inf, 1)])
def test_dual_exponent(p: float, dual: float) -> None:
    assert numerics.dual_exponent(p) == dual


@pytest.mark.parametrize("p", [0.99, 0.0, -1.0, math.nan])
def test_exponents_below_one_are_refused(p: float) -> None:
    for call in (lambda: numerics.dual_exponent(p), lambda: numerics.norm(torch.ones(1, 2), p)):
        with pytest.raises(ValueError, match=rf"p in \[1, inf\], got {p}"):
            call()


# --- norm ---------------------------------------------------------------------------------------------------


def slow_norm(entries: list[float], p: float) -> float:
    top = max(map(abs, entries), default=0.0)
    if top == 0 or p == math.inf:
        return top
    return top * math.fsum((abs(v) / top) ** p for v in entries) ** (1 / p)


@settings(deadline=None, max_examples=60)
@given(
    p=st.one_of(st.sampled_from(PS), st.floats(1, 20), st.just(1e6)),
    shape=st.sampled_from([(1,), (4,), (3, 1), (2, 7), (2, 3, 4, 4), (0, 5), (3, 0)]),
    seed=st.integers(0, 99),
)
def test_norm_is_the_vector_norm_of_each_sample(p: float, shape: tuple[int, ...], seed: int) -> None:
    v = normal(*shape, seed=seed)
    ours = numerics.norm(v, p)
    reference = [slow_norm(row.reshape(-1).tolist(), p) for row in v]
    assert ours.shape == shape[:1]
    torch.testing.assert_close(ours, torch.tensor(reference, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_computes_in_float32_or_better(p: float, dtype: torch.dtype) -> None:
    # 3000 entries of 300: in float16 already their sum is infinite.
    value = numerics.norm(torch.full((2, 3000), 300.0, dtype=dtype), p)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = 300.0 * 3000 ** (1 / p)
    torch.testing.assert_close(
        value.double(), torch.full((2,), expected, dtype=torch.float64), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("p", [*PS, 1.01, 10.0])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norm_of_tiny_and_huge_entries_in_float32(p: float, size: float) -> None:
    unit = normal(3, 5).float()
    v = (unit * size).requires_grad_()
    value = numerics.norm(v, p)
    torch.testing.assert_close(value.detach() / size, numerics.norm(unit, p), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), v, create_graph=True)
    exact = unit.double().requires_grad_()
    (expected,) = torch.autograd.grad(numerics.norm(exact, p).sum(), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)
    (again,) = torch.autograd.grad(gradient.sum(), v, materialize_grads=True)
    assert again.isfinite().all()


def test_every_sample_may_have_an_exponent_of_its_own() -> None:
    ps = torch.tensor([1.0, 1.00098, 1.5, 2.0, 3.0, 40.0])
    v = normal(6, 2, 3)
    v[2] = 0
    expected = torch.cat([numerics.norm(v[i : i + 1], p) for i, p in enumerate(ps.tolist())])
    torch.testing.assert_close(numerics.norm(v, ps), expected, rtol=1e-12, atol=0)
    found = numerics.norm(v.to(torch.bfloat16), ps.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=0.01, atol=0)
    rows = torch.cat([v[:2], v[3:]])
    exponents = torch.cat([ps[:2], ps[3:]])
    assert gradcheck(lambda r: numerics.norm(r, exponents), rows.requires_grad_())
    assert gradgradcheck(lambda r: numerics.norm(r, exponents), rows)
    for derivative in second_derivative(lambda r: numerics.norm(r, ps), v):
        assert derivative.isfinite().all()
        assert not derivative[2].any()
    duals = numerics.dual_exponent(torch.tensor([1.0, 1.5, 2.0, math.inf]))
    assert duals.tolist() == [math.inf, 3.0, 2.0, 1.0]


def test_exponents_that_are_not_one_for_each_sample_are_refused() -> None:
    with pytest.raises(ValueError, match=r"exponents of shape \[2\], one per sample, got \[3\]"):
        numerics.norm(normal(2, 4), torch.full((3,), 2.0))


@pytest.mark.parametrize("p", PS)
def test_norm_derivatives_away_from_zero(p: float) -> None:
    v = normal(3, 2, 4).requires_grad_()
    assert gradcheck(lambda v: numerics.norm(v, p), (v,))
    assert gradgradcheck(lambda v: numerics.norm(v, p), (v,))


@pytest.mark.parametrize("p", PS)
def test_norm_gradient_at_zero_is_zero_like_the_central_difference(p: float) -> None:
    v = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: numerics.norm(v, p), (v,))


@pytest.mark.parametrize("p", [*PS, 1.01, 1e6, 1e300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pain_2_norms_of_zero_have_finite_first_and_second_derivatives(p: float, dtype: torch.dtype) -> None:
    first, second = second_derivative(lambda v: numerics.norm(v, p), torch.zeros(3, 4, dtype=dtype))
    assert not first.any()
    assert not second.any()


@pytest.mark.parametrize("p", [*PS, 1.01, 1e6, 1e300])
def test_pain_2_a_zero_row_or_entry_does_not_spoil_the_others(p: float) -> None:
    v = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, -4.0], [1e-42, 0.0, 0.0], [1.0, 1e-40, 1e-45]])
    first, second = second_derivative(lambda v: numerics.norm(v, p), v)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert (first[1] != 0).any()
    assert not first[0].any()
    alone, _ = second_derivative(lambda v: numerics.norm(v, p), v[1:2])
    assert torch.equal(first[1:2], alone)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("kind", ["dead relu", "saturated softmax"])
def test_pain_2_penalties_of_vanishing_input_gradients_train(p: float, kind: str) -> None:
    """The input gradient is exactly zero; the penalty's parameter gradient and its Hessian product are finite."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU() if kind == "dead relu" else nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        if kind == "dead relu":
            net[0].bias.fill_(-100.0)
        else:
            net[2].bias.copy_(torch.tensor([1000.0, 0.0, 0.0]))
    x = torch.rand(2, 3, requires_grad=True)
    loss = numerics.cross_entropy(net(x), torch.tensor([0, 0])).sum()
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    assert not g.any()
    weights = list(net.parameters())
    grads = torch.autograd.grad(
        numerics.norm(g, p).sum(), weights, create_graph=True, allow_unused=True, materialize_grads=True
    )
    assert all(not grad.any() for grad in grads)
    total = sum(grad.square().sum() + grad.sum() for grad in grads)
    products = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    assert all(product.isfinite().all() for product in products)


def test_entries_that_tie_for_the_maximum_share_its_gradient() -> None:
    v = torch.tensor([[2.0, -2.0, 1.0, 2.0]], requires_grad=True)
    (g,) = torch.autograd.grad(numerics.norm(v, math.inf).sum(), v)
    torch.testing.assert_close(g, torch.tensor([[1 / 3, -1 / 3, 0.0, 1 / 3]]))


@pytest.mark.parametrize("p", PS)
def test_norm_hides_neither_nan_nor_infinity(p: float) -> None:
    value = numerics.norm(torch.tensor([[1.0, math.nan], [1.0, -math.inf], [3.0, 0.0]]), p)
    assert value[0].isnan()
    assert value[1] == math.inf
    assert value[2] == 3


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_have_no_norm(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"expected a floating point tensor, got {dtype}"):
        numerics.norm(torch.ones(2, 2).to(dtype), 2)


# --- kl -----------------------------------------------------------------------------------------------------


def test_kl_of_two_distributions_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert numerics.kl(p.log() + 3, q.log() - 5).item() == pytest.approx(expected, rel=1e-5)


def test_kl_agrees_with_torch_and_is_zero_on_itself() -> None:
    p, q = normal(5, 7), normal(5, 7, seed=1)
    expected = functional.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(numerics.kl(p, q), expected)
    torch.testing.assert_close(numerics.kl(p, p + 3), torch.zeros(5, dtype=torch.float64))


def test_kl_derivatives() -> None:
    p, q = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    assert gradcheck(numerics.kl, (p, q))
    assert gradgradcheck(numerics.kl, (p, q))


@pytest.mark.parametrize("gap", GAPS)
def test_kl_derivatives_at_any_gap(gap: float) -> None:
    p = torch.tensor([[gap, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.5, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(numerics.kl, (p, q), atol=1e-4)
    assert gradcheck(numerics.kl, (q, p), atol=1e-4)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pain_1_kl_and_both_gradients_are_finite_at_any_logit_gap(gap: float, dtype: torch.dtype) -> None:
    sharp = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0], [gap, 0.0, 0.0]], dtype=dtype)
    other = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, gap], [gap, 0.0, 0.0]], dtype=dtype)
    for left, right in ((sharp, other), (other, sharp)):
        p, q = left.clone().requires_grad_(), right.clone().requires_grad_()
        value = numerics.kl(p, q)
        to_p, to_q = torch.autograd.grad(value.sum(), (p, q), create_graph=True)
        for v in (value, to_p, to_q):
            assert v.isfinite().all()
        assert value[2].item() == pytest.approx(0, abs=1e-6)
        hessian = torch.autograd.grad(to_p.sum() + to_q.sum(), (p, q))
        assert all(h.isfinite().all() for h in hessian)
    if gap >= 105:
        # Two opposite certainties are `gap` nats apart, and the gradient to q is softmax(q) - softmax(p).
        p, q = sharp[1:2].clone(), other[1:2].clone().requires_grad_()
        value = numerics.kl(p, q)
        (to_q,) = torch.autograd.grad(value.sum(), q)
        exact = float(sharp[1, 1])  # what the dtype makes of the gap
        assert value.item() == pytest.approx(exact, rel=1e-6)
        assert to_q.float().tolist() == [[0.0, -1.0, 1.0]]


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((2, 3, 1), (2, 3, 1))])
def test_kl_refuses_shapes_that_are_not_logits(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        numerics.kl(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


# --- cross-entropy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_has_the_bits_of_torch(dtype: torch.dtype) -> None:
    ours, theirs = (normal(64, 10).to(dtype).mul(8).requires_grad_() for _ in range(2))
    y = torch.arange(64) % 10
    value, reference = numerics.cross_entropy(ours, y), functional.cross_entropy(theirs, y, reduction="none")
    assert torch.equal(value, reference)
    (a,), (b,) = torch.autograd.grad(value.sum(), ours), torch.autograd.grad(reference.sum(), theirs)
    assert torch.equal(a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_unlabelled_samples_have_no_loss_and_no_gradient(smoothing: float) -> None:
    logits, y = normal(4, 3).requires_grad_(), torch.tensor([2, -1, 0, -1])
    value = numerics.cross_entropy(logits, y, smoothing)
    (g,) = torch.autograd.grad(value.sum(), logits)
    assert value[[1, 3]].tolist() == [0, 0]
    assert not g[[1, 3]].any()
    kept = numerics.cross_entropy(logits[[0, 2]], y[[0, 2]], smoothing)
    torch.testing.assert_close(value[[0, 2]], kept)


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
def test_smoothing_mixes_the_label_with_the_uniform_target(smoothing: float) -> None:
    logits, y = normal(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    target = (1 - smoothing) * functional.one_hot(y, 5) + smoothing / 5
    expected = -(target * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(numerics.cross_entropy(logits, y, smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_derivatives(smoothing: float) -> None:
    logits, y = normal(4, 3).requires_grad_(), torch.tensor([2, -1, 0, 1])
    assert gradcheck(lambda z: numerics.cross_entropy(z, y, smoothing), (logits,))
    assert gradgradcheck(lambda z: numerics.cross_entropy(z, y, smoothing), (logits,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_finite_at_a_gap_of_1e4(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], dtype=dtype, requires_grad=True)
    value = numerics.cross_entropy(logits, torch.tensor([0, 0]), 0.1)
    (g,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert g.isfinite().all()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"smoothing must lie in \[0, 1\], got {smoothing}"):
        numerics.cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), smoothing)


@pytest.mark.parametrize("loss", [numerics.cross_entropy, numerics.margin, numerics.dlr])
def test_labels_and_logits_of_the_wrong_kind_are_refused(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected integer class labels, got torch\.float32"):
        loss(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected labels of shape \[2\], one per sample, got \[2, 3\]"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"expected logits of shape \[B, C\], got \[3\]"):
        loss(torch.zeros(3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="expected a floating point tensor"):
        loss(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long))


# --- margin and dlr -----------------------------------------------------------------------------------------


def reference_margin(logits: Tensor, y: Tensor) -> Tensor:
    return torch.stack(
        [z[k] - max(v for j, v in enumerate(z) if j != k) for z, k in zip(logits, y, strict=True)]
    )


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_margin_is_positive_exactly_where_the_prediction_is_right(classes: int) -> None:
    logits, y = normal(40, classes), torch.arange(40) % classes
    value = numerics.margin(logits, y)
    torch.testing.assert_close(value, reference_margin(logits, y), rtol=0, atol=0)
    assert torch.equal(value > 0, logits.argmax(1) == y)


def test_dlr_is_the_ratio_of_the_paper() -> None:
    logits, y = normal(40, 6), torch.arange(40) % 6
    ordered = logits.sort(1, descending=True).values
    expected = -reference_margin(logits, y) / (ordered[:, 0] - ordered[:, 2])
    torch.testing.assert_close(numerics.dlr(logits, y), expected)
    assert numerics.dlr(torch.tensor([[4.0, 3.0, 1.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(
        -1 / 3
    )


def test_dlr_does_not_change_with_shift_and_scale() -> None:
    logits, y = normal(20, 5), torch.arange(20) % 5
    torch.testing.assert_close(numerics.dlr(1e4 * logits + 7, y), numerics.dlr(logits, y))


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_of_fewer_than_four_classes_is_the_negative_margin(classes: int) -> None:
    logits, y = normal(20, classes), torch.arange(20) % classes
    assert torch.equal(numerics.dlr(logits, y), -numerics.margin(logits, y))


def test_dlr_of_equal_logits_is_finite() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.0]], requires_grad=True)
    y = torch.tensor([1, 3])
    value = numerics.dlr(logits, y)
    (g,) = torch.autograd.grad(value.sum(), logits)
    assert value.tolist() == [0, 2]
    assert g.isfinite().all()


@pytest.mark.parametrize("loss", [numerics.margin, numerics.dlr])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_margin_and_dlr_derivatives(loss: Callable[[Tensor, Tensor], Tensor], classes: int) -> None:
    logits, y = normal(6, classes).requires_grad_(), torch.tensor([0, 1, -1, 1, 0, 1])
    assert gradcheck(lambda z: loss(z, y), (logits,))
    assert gradgradcheck(lambda z: loss(z, y), (logits,))


@pytest.mark.parametrize("loss", [numerics.margin, numerics.dlr])
def test_unlabelled_samples_have_no_margin(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = normal(3, 5).requires_grad_()
    value = loss(logits, torch.tensor([1, -1, 2]))
    (g,) = torch.autograd.grad(value.sum(), logits)
    assert value[1] == 0
    assert not g[1].any()
    assert g[2].any()


def test_classes_that_tie_share_the_gradient_of_the_margin() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]], requires_grad=True)
    (g,) = torch.autograd.grad(numerics.margin(logits, torch.tensor([0])).sum(), logits)
    assert g.tolist() == [[1.0, -0.5, -0.5, 0.0]]


@pytest.mark.parametrize("loss", [numerics.margin, numerics.error_log_odds])
def test_a_margin_needs_two_classes(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        loss(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_accept_every_float_dtype_and_empty_batches(dtype: torch.dtype) -> None:
    logits, y = normal(3, 5).to(dtype), torch.tensor([0, 4, 2])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for loss in (numerics.cross_entropy, numerics.margin, numerics.dlr):
        value = loss(logits, y)
        assert value.dtype == wide
        torch.testing.assert_close(value, loss(logits.to(wide), y), rtol=0, atol=0)
        assert loss(logits[:0], y[:0]).shape == (0,)
    assert numerics.kl(logits[:0], logits[:0]).shape == (0,)


def test_everything_compiles_into_one_graph() -> None:
    def all_of_it(p: Tensor, q: Tensor, y: Tensor, v: Tensor) -> list[Tensor]:
        norms = [numerics.norm(v, exponent) for exponent in PS]
        ce = [numerics.cross_entropy(p, y), numerics.cross_entropy(p, y, 0.1)]
        return [*norms, *ce, numerics.kl(p, q), numerics.margin(p, y), numerics.dlr(p, y)]

    arguments = (normal(4, 5), normal(4, 5, seed=1), torch.tensor([0, 1, -1, 4]), normal(4, 2, 3))
    compiled = torch.compile(all_of_it, backend="aot_eager", fullgraph=True)
    for ours, eager in zip(compiled(*arguments), all_of_it(*arguments), strict=True):
        torch.testing.assert_close(ours, eager)
