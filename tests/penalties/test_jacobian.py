"""The Jacobian's norm: fixtures, random projections, the spectral norm, and the training gradient."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import robustreg as rr
from robustreg.penalties import CrossLipschitz, JacobianNorm
from robustreg.penalties.jacobian import Pairing, class_gradients, sum_of_squares
from robustreg.probe import Probe
from robustreg.streams import Stream


def per_sample(term: rr.Term, net: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    return rr.Objective.of(term).detailed(net, x, y, step=0).per_sample[term.name]


def value(term: rr.Term, net: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    return rr.Objective.of(term)(net, x, y, step=0)


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def jacobian_of(net: Any, x: Tensor) -> Tensor:
    """The Jacobian `[B, C, D]`, row by row, with a graph."""
    u = x.clone().requires_grad_()
    z = net(u)
    rows = [torch.autograd.grad(z[:, k].sum(), u, create_graph=True)[0].flatten(1) for k in range(z.shape[1])]
    return torch.stack(rows, 1)


# -- fixtures ----------------------------------------------------------------------------------------------------------


class OneHidden(nn.Module):
    """A ReLU network with one hidden layer and no bias; with `u = None` a linear one."""

    def __init__(self, u: list[list[float]] | None, v: list[list[float]]) -> None:
        super().__init__()
        self.u = None if u is None else nn.Parameter(torch.tensor(u, dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor(v, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.u is None else torch.relu(x @ self.u.T)
        return hidden @ self.v.T


FA = (OneHidden(None, [[1.5, -2], [-1.5, 2]]), [[0.2, 0.1]], {"frobenius": 6.25, "spectral": 6.25})
FB = (OneHidden(None, [[1, 0], [0, 1], [-1, -1]]), [[0.3, -0.2]], {"frobenius": 2.0, "spectral": 1.5})
FC = (
    OneHidden([[1, 2], [-1, 1], [2, -1]], [[1, 0, 1], [0, 1, -1], [-1, 1, 0.5]]),
    [[0.5, 0.25]],
    {"frobenius": 10.625, "spectral": 6.600970508},
)


@pytest.mark.parametrize(("net", "x", "expected"), [FA, FB, FC], ids=["FA", "FB", "FC"])
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_fixtures(net: nn.Module, x: Any, expected: dict[str, float], norm: Any) -> None:
    x = torch.tensor(x, dtype=torch.float64)
    assert value(JacobianNorm(norm=norm, iterations=60), net, x).item() == pytest.approx(
        expected[norm], abs=1e-8
    )
    root = value(JacobianNorm(norm=norm, iterations=60, squared=False), net, x).item()
    assert root == pytest.approx((2 * expected[norm]) ** 0.5, abs=1e-8)


def test_the_training_gradient_of_the_hidden_layer_fixture() -> None:
    net, x, _ = FC
    dv, du = torch.autograd.grad(
        value(JacobianNorm(), net, torch.tensor(x, dtype=torch.float64)), [net.v, net.u]
    )
    expected = torch.tensor([[5, 0, 5], [0, 0, -5], [-5, 0, 2.5]]).double()
    torch.testing.assert_close(dv, expected, rtol=0, atol=1e-13)
    assert (du[1] == 0).all()  # the dead unit


def test_one_projection_by_hand() -> None:
    net, x, _ = FC
    probe = Probe(net, torch.tensor(x, dtype=torch.float64), None, stream=Stream(0))
    g = probe.grad(rr.Clean(), Pairing("first", torch.tensor([[1.0, 0, 0]]).double()), differentiable=True)
    assert 3 / 2 * sum_of_squares([g]).item() == pytest.approx(15, abs=1e-12)


def test_products_with_the_jacobian(smooth_net: nn.Module, double_batch: Any) -> None:
    x = double_batch[0]
    exact = jacobian_of(smooth_net, x).detach()
    probe = Probe(smooth_net, x, None, stream=Stream(0))
    rows = torch.stack([g.flatten(1) for g in class_gradients(probe, rr.Clean(), "train")], 1)
    torch.testing.assert_close(rows, exact, rtol=0, atol=1e-15)
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    product = probe.jvp(d)
    torch.testing.assert_close(product, (exact @ d.flatten(1)[:, :, None])[:, :, 0], rtol=0, atol=1e-14)
    assert not product.requires_grad


# -- estimates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "x", "expected"), [FA, FB, FC], ids=["FA", "FB", "FC"])
def test_random_projections_are_unbiased(net: nn.Module, x: Any, expected: dict[str, float]) -> None:
    n = 100_000
    many = torch.tensor(x, dtype=torch.float64).expand(n, 2)
    for projections in (1, 3):
        values = per_sample(JacobianNorm(projections), net, many)
        error = values.std().item() / n**0.5
        assert values.mean().item() == pytest.approx(expected["frobenius"], abs=4 * error)
        assert error < 0.01 * expected["frobenius"]
    exact = gradients(value(JacobianNorm(), net, many[:1]), net)
    estimated = gradients(value(JacobianNorm(3), net, many), net)
    torch.testing.assert_close(estimated, exact, rtol=0, atol=0.05)


def test_samples_and_projections_draw_their_own(smooth_net: nn.Module, double_batch: Any) -> None:
    same = double_batch[0][:1].expand(4, 1, 4, 4)
    values = per_sample(JacobianNorm(1), smooth_net, same)
    assert len(set(values.tolist())) == 4
    two = per_sample(JacobianNorm(2), smooth_net, same)
    assert not torch.allclose(two, values)
    assert torch.equal(per_sample(JacobianNorm(1), smooth_net, same), values)


def test_a_single_logit_needs_no_chance(double_batch: Any) -> None:
    net = lambda u: 3 * torch.tanh(u.flatten(1).sum(1, keepdim=True) - 8)  # noqa: E731
    torch.testing.assert_close(
        per_sample(JacobianNorm(1), net, double_batch[0]), per_sample(JacobianNorm(), net, double_batch[0])
    )


def test_the_spectral_norm_and_its_training_gradient(smooth_net: nn.Module, double_batch: Any) -> None:
    x = double_batch[0]
    with torch.no_grad():
        smooth_net[-1].weight[0] *= 3  # one singular value well above the others
    exact = 0.5 * torch.linalg.matrix_norm(jacobian_of(smooth_net, x), 2).square().mean()
    found = value(JacobianNorm(norm="spectral", iterations=30), smooth_net, x)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        gradients(found, smooth_net), gradients(exact, smooth_net), rtol=1e-6, atol=1e-10
    )
    previous = 0.0
    for iterations in (1, 2, 4):
        lower = value(JacobianNorm(norm="spectral", iterations=iterations), smooth_net, x).item()
        assert previous <= lower <= exact.item() + 1e-12
        previous = lower


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [JacobianNorm(), JacobianNorm(2), JacobianNorm(squared=False)], ids=repr)
def test_gradcheck(term: rr.Term, smooth_net: nn.Module, double_batch: Any) -> None:
    objective, x = rr.Objective.of(term), double_batch[0][:2]
    names = [n for n, _ in smooth_net.named_parameters()]

    def of(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return objective(lambda u: functional_call(smooth_net, state, (u,)), x, step=0)

    assert torch.autograd.gradcheck(of, tuple(p.detach().requires_grad_() for p in smooth_net.parameters()))


# -- structure ---------------------------------------------------------------------------------------------------------


def test_it_scales_with_the_square_of_the_logits_and_sees_common_directions(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x = double_batch[0]
    one = per_sample(JacobianNorm(), smooth_net, x)
    torch.testing.assert_close(per_sample(JacobianNorm(), lambda u: 3 * smooth_net(u), x), 9 * one)
    tilted = per_sample(JacobianNorm(), lambda u: smooth_net(u) + u.flatten(1).sum(1, keepdim=True), x)
    assert not torch.allclose(tilted, one)


def test_a_sample_does_not_depend_on_its_company(smooth_net: nn.Module, double_batch: Any) -> None:
    x, term = double_batch[0], JacobianNorm()
    whole = per_sample(term, smooth_net, x)
    parts = torch.cat([per_sample(term, smooth_net, x[s]) for s in (slice(0, 1), slice(1, 4), slice(4, 6))])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-14)


def test_it_reads_no_labels(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    for term in (JacobianNorm(), JacobianNorm(1), JacobianNorm(norm="spectral")):
        assert term.needs == frozenset()
        found = {value(term, relu_net, x, labels).item() for labels in (None, y, torch.full_like(y, -1))}
        assert len(found) == 1


def test_it_can_be_taken_around_the_sample(smooth_net: nn.Module, double_batch: Any) -> None:
    x = double_batch[0]
    point = rr.Uniform(rr.Threat("linf", 0.1))
    found = per_sample(JacobianNorm(at=point), smooth_net, x)
    at = Probe(smooth_net, x, None, stream=Stream(torch.initial_seed(), 0)).at(point)
    torch.testing.assert_close(found, per_sample(JacobianNorm(), smooth_net, at), rtol=0, atol=1e-13)


TERMS = [
    JacobianNorm(),
    JacobianNorm(2),
    JacobianNorm(norm="spectral"),
    JacobianNorm(squared=False),
    JacobianNorm(2, squared=False),
    JacobianNorm(norm="spectral", squared=False),
]


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_it_stays_finite(term: rr.Term, scale: float, relu_net: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        relu_net[-1].weight.mul_(scale)
    loss = value(term, relu_net, batch[0])
    assert loss.isfinite()
    assert gradients(loss, relu_net).isfinite().all()
    assert (loss.item() == 0) == (scale == 0)


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_low_precision(term: rr.Term, relu_net: nn.Module, batch: Any) -> None:
    exact = value(term, relu_net, batch[0]).item()
    net = relu_net.bfloat16()
    loss = value(term, net, batch[0].bfloat16())
    assert loss.dtype == torch.float32
    if term.projections is None:  # projections are drawn anew in another precision
        assert loss.item() == pytest.approx(exact, rel=0.1)
    assert gradients(loss, net).isfinite().all()


def test_modes(restless_net: nn.Module, batch: Any) -> None:
    trained, deployed = (
        value(JacobianNorm(mode=m), restless_net, batch[0]).item() for m in ("train", "eval")
    )
    assert trained != deployed
    restless_net.eval()
    assert value(JacobianNorm(), restless_net, batch[0]).item() != trained


# -- cost and traces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "counts"),
    [
        (rr.CrossEntropy() + JacobianNorm(), (1, 10, 1, 10)),
        (rr.CrossEntropy() + JacobianNorm() + CrossLipschitz(), (1, 10, 1, 10)),
        (rr.CrossEntropy() + JacobianNorm(2), (1, 2, 1, 2)),
        (rr.CrossEntropy() + JacobianNorm(norm="spectral", iterations=3), (1, 1 + 3 * 3, 1, 1)),
        (rr.CrossEntropy() + JacobianNorm(1, mode="eval"), (2, 1, 1, 1)),
    ],
    ids=repr,
)
def test_the_plan_counts_the_passes(objective: rr.Objective, counts: tuple[int, ...], batch: Any) -> None:
    plan = objective.plan()
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == counts


@pytest.mark.parametrize("term", TERMS[:3], ids=repr)
def test_it_leaves_no_trace(
    term: rr.Term, restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    before = snapshot(restless_net, buffers=False)
    objective = rr.CrossEntropy() + term
    objective(restless_net, *batch, step=0)
    assert snapshot(restless_net, buffers=False) == before
    assert restless_net[1].num_batches_tracked == 1
    runs: list[int] = []
    restless_net.register_forward_hook(lambda *_: runs.append(1))
    objective(restless_net, *batch, step=1)
    assert len(runs) == objective.plan().forwards == 1


@pytest.mark.parametrize("term", TERMS[:3], ids=repr)
def test_it_may_be_only_logged(term: rr.Term, relu_net: nn.Module, batch: Any) -> None:
    logged = (rr.CrossEntropy() + 0 * term).detailed(relu_net, *batch, step=0)
    trained = (rr.CrossEntropy() + term).detailed(relu_net, *batch, step=0)
    torch.testing.assert_close(logged.values["jacobian_norm"], trained.values["jacobian_norm"])


def test_a_step_is_freed_without_waiting_for_the_collector(relu_net: nn.Module, batch: Any) -> None:
    probe = Probe(relu_net, batch[0], None, stream=Stream(0))
    JacobianNorm(1)(probe)
    gone = weakref.ref(probe)
    gc.disable()
    try:
        del probe
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"projections": 0}, "projections must be a number from 1, or None for the exact value, got 0"),
        ({"norm": "nuclear"}, "norm must be 'frobenius' or 'spectral', got 'nuclear'"),
        ({"norm": "spectral", "projections": 1}, "projections are for the Frobenius norm"),
        ({"iterations": 0}, "iterations >= 1, got 0"),
        ({"mode": "test"}, "mode must be one of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        JacobianNorm(**options)
