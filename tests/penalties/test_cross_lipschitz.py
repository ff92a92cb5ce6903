"""Cross-Lipschitz penalties and their relatives: fixtures, and the identities that relate them to each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.penalties import AnchoredCrossLipschitz, CrossLipschitz, Curvature, FisherTrace, JacobianNorm

SQUARE = rr.GradientNorm(rr.Threat("l2", 1.0, None), squared=True)


def per_sample(term: rr.Term, net: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    return rr.Objective.of(term).detailed(net, x, y, step=0).per_sample[term.name]


def value(term: rr.Term, net: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    return rr.Objective.of(term)(net, x, y, step=0)


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def jacobian_of(net: Any, x: Tensor) -> Tensor:
    """The Jacobian `[B, C, D]`, row by row."""
    u = x.clone().requires_grad_()
    z = net(u)
    rows = [torch.autograd.grad(z[:, k].sum(), u, retain_graph=True)[0].flatten(1) for k in range(z.shape[1])]
    return torch.stack(rows, 1)


@pytest.fixture
def piecewise(relu_net: nn.Module, batch: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """A ReLU network in float64 with a batch."""
    return relu_net.double(), batch[0].double(), batch[1]


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


NETS = {
    "FA": (OneHidden(None, [[1.5, -2], [-1.5, 2]]), [[0.2, 0.1]], 0),
    "FB": (OneHidden(None, [[1, 0], [0, 1], [-1, -1]]), [[0.3, -0.2]], 0),
    "FC": (OneHidden([[1, 2], [-1, 1], [2, -1]], [[1, 0, 1], [0, 1, -1], [-1, 1, 0.5]]), [[0.5, 0.25]], 1),
}
EXPECTED = {
    "FA": (12.5, 6.18791432, 11.25415007),
    "FB": (8 / 3, 1.27265573, 2.00481373),
    "FC": (13.88888889, 3.00736985, 22.56105608),
}


@pytest.mark.parametrize("which", ["FA", "FB", "FC"])
def test_fixtures(which: str) -> None:
    net, x, y = NETS[which]
    x, labels = torch.tensor(x, dtype=torch.float64), torch.tensor([y])
    terms = (CrossLipschitz(), FisherTrace(None), AnchoredCrossLipschitz("probability"))
    for term, expected in zip(terms, EXPECTED[which], strict=True):
        assert value(term, net, x, labels).item() == pytest.approx(expected, abs=1e-8)


def test_the_closed_form_of_one_hidden_layer() -> None:
    """The formula of the paper's section on one-hidden-layer networks."""
    g = torch.Generator().manual_seed(2)
    net = OneHidden(torch.randn(6, 4, generator=g).tolist(), torch.randn(5, 6, generator=g).tolist())
    x = torch.randn(7, 4, generator=g).double()
    u, v = net.u.detach(), net.v.detach()
    active = (x @ u.T > 0).double()
    classes = v.shape[0]
    between = classes * v.T @ v - torch.outer(v.sum(0), v.sum(0))
    expected = 2 / (7 * classes**2) * (between * (u @ u.T) * (active.T @ active)).sum()
    assert value(CrossLipschitz(), net, x).item() == pytest.approx(expected.item(), rel=1e-12)


# -- identities --------------------------------------------------------------------------------------------------------


def test_the_input_gradient_sees_only_differences_of_logits(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    j = jacobian_of(smooth_net, x)
    p = smooth_net(x).softmax(1)
    error = p - F.one_hot(y, 3)
    centred = j - j.mean(1, keepdim=True)
    for rows in (j, centred):
        g = (error[:, :, None] * rows).sum(1)
        torch.testing.assert_close(
            g.square().sum(1), per_sample(SQUARE, smooth_net, x, y), rtol=0, atol=1e-15
        )


def test_cross_lipschitz_is_the_double_sum_and_the_centred_jacobian(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x = double_batch[0]
    j = jacobian_of(smooth_net, x)
    found = per_sample(CrossLipschitz(), smooth_net, x)
    double_sum = (j[:, :, None] - j[:, None]).square().sum((1, 2, 3)) / 9
    torch.testing.assert_close(found, double_sum, rtol=1e-13, atol=0)
    one_sum = (6 * j.square().sum((1, 2)) - 2 * j.sum(1).square().sum(1)) / 9
    torch.testing.assert_close(found, one_sum, rtol=1e-12, atol=0)
    common = j.sum(1).square().sum(1)
    jacobian = per_sample(JacobianNorm(), smooth_net, x)
    torch.testing.assert_close(jacobian, 3 / 4 * found + common / 6, rtol=1e-13, atol=0)


@pytest.mark.parametrize("which", ["smooth", "piecewise"])
def test_the_fisher_trace_is_the_mean_squared_gradient_over_predicted_labels(
    which: str, smooth_net: nn.Module, double_batch: Any, piecewise: Any
) -> None:
    net, x = (smooth_net, double_batch[0]) if which == "smooth" else piecewise[:2]
    p = net(x).softmax(1)
    by_label = [per_sample(SQUARE, net, x, torch.full((6,), k)) for k in range(3)]
    expected = sum(p[:, k] * by_label[k] for k in range(3))
    torch.testing.assert_close(per_sample(FisherTrace(None), net, x), expected, rtol=1e-12, atol=1e-16)


def test_in_a_linear_region_the_fisher_trace_is_the_hessians(piecewise: Any) -> None:
    net, x, y = piecewise
    fisher = per_sample(FisherTrace(None), net, x)
    j, p = jacobian_of(net, x), net(x).softmax(1).detach()
    pairs = p[:, :, None] * p[:, None] * (j[:, :, None] - j[:, None]).square().sum(3)
    torch.testing.assert_close(fisher, 0.5 * pairs.sum((1, 2)), rtol=1e-12, atol=1e-16)
    for i in range(3):
        h = hessian(lambda u, i=i: F.cross_entropy(net(u[None]), y[i : i + 1]), x[i]).reshape(16, 16)
        assert fisher[i].item() == pytest.approx(h.trace().item(), rel=1e-10)
        outer = sum(
            p[i, k] * torch.outer(g, g) for k, g in enumerate((p[i][None] - torch.eye(3).double()) @ j[i])
        )
        torch.testing.assert_close(h, outer, rtol=0, atol=1e-14)


def test_curvature_and_squared_gradient_add_up_to_the_anchored_penalty(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    anchored = per_sample(AnchoredCrossLipschitz("probability"), smooth_net, *double_batch)
    fisher = per_sample(FisherTrace(None), smooth_net, *double_batch)
    torch.testing.assert_close(
        anchored, fisher + per_sample(SQUARE, smooth_net, *double_batch), rtol=1e-12, atol=0
    )


def test_in_a_linear_region_curvature_is_the_change_of_the_prediction(piecewise: Any) -> None:
    net, x, y = piecewise
    h = 1e-3
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(net(u), y, reduction="sum"), u)
    there = x + h * g / g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    j, p, moved = jacobian_of(net, x), net(x).softmax(1), net(there).softmax(1)
    same = (jacobian_of(net, there) - j).abs().amax((1, 2)) < 1e-12
    assert same.sum() >= 4
    expected = ((moved - p).detach()[:, :, None] * j).sum(1).norm(dim=1)
    found = per_sample(Curvature(h, "gradient", squared=False), net, x, y)
    torch.testing.assert_close(found[same], expected[same], rtol=1e-9, atol=0)


def test_a_network_without_biases_is_homogeneous() -> None:
    net, x, y = NETS["FC"]
    x = torch.tensor(x, dtype=torch.float64).requires_grad_()
    z = net(x)
    (g,) = torch.autograd.grad(F.cross_entropy(z, torch.tensor([y])), x)
    along = (x * g).sum().item()
    assert along == pytest.approx(2.13737376, abs=1e-8)
    assert along == pytest.approx(
        ((z.softmax(1) - F.one_hot(torch.tensor([y]), 3)) * z).sum().item(), abs=1e-13
    )


@pytest.mark.parametrize(("d", "expected"), [((-0.7 / 5) / 5, 0.06082191), ((0.7 / 5) / 5, 0.05813121)])
def test_the_linearisations_gap_is_a_divergence(d: float, expected: float) -> None:
    net, x, _ = NETS["FA"]
    x = torch.tensor(x, dtype=torch.float64)
    step = d * torch.tensor([[3.0, -4.0]]).double()
    divergence = numerics.kl(net(x), net(x + step)).item()
    assert divergence == pytest.approx(expected, abs=1e-8)
    for y in (0, 1):
        u = x.clone().requires_grad_()
        loss = F.cross_entropy(net(u), torch.tensor([y]))
        (g,) = torch.autograd.grad(loss, u)
        gap = F.cross_entropy(net(x + step), torch.tensor([y])) - loss - (step * g).sum()
        assert gap.item() == pytest.approx(divergence, abs=1e-13)


def test_binary_models_depend_on_one_vector() -> None:
    net, x, y = NETS["FA"]
    x, labels = torch.tensor(x, dtype=torch.float64), torch.tensor([y])
    p, size = 0.54983400, 25.0  # w = (3, -4)
    assert value(CrossLipschitz(), net, x).item() == pytest.approx(size / 2, abs=1e-12)
    assert value(FisherTrace(None), net, x).item() == pytest.approx(p * (1 - p) * size, abs=1e-6)
    assert value(SQUARE, net, x, labels).item() == pytest.approx((1 - p) ** 2 * size, abs=1e-6)


# -- structure ---------------------------------------------------------------------------------------------------------

EXACT = [
    CrossLipschitz(),
    AnchoredCrossLipschitz(),
    AnchoredCrossLipschitz("probability", floor=0.2),
    FisherTrace(None),
    FisherTrace(None, detach=True),
]
RANDOM = [
    CrossLipschitz(2),
    AnchoredCrossLipschitz(projections=2),
    AnchoredCrossLipschitz("probability", 0.2, 2),
    FisherTrace(),
]


@pytest.mark.parametrize("term", EXACT + RANDOM, ids=repr)
def test_a_direction_that_all_logits_share_is_invisible(
    term: rr.Term, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    tilted = lambda u: smooth_net(u) + 30 * u.flatten(1).sum(1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(
        per_sample(term, tilted, x, y), per_sample(term, smooth_net, x, y), rtol=1e-9, atol=1e-12
    )


def test_a_large_shared_direction_does_not_cancel_in_single_precision(
    relu_net: nn.Module, batch: Any
) -> None:
    tilted = lambda u: relu_net(u) + 1e3 * u.flatten(1).sum(1, keepdim=True)  # noqa: E731
    found = per_sample(CrossLipschitz(), tilted, batch[0])
    assert (found >= 0).all()
    torch.testing.assert_close(found, per_sample(CrossLipschitz(), relu_net, batch[0]), rtol=0.02, atol=0)


def test_it_scales_with_the_square_and_not_with_the_batch(smooth_net: nn.Module, double_batch: Any) -> None:
    x = double_batch[0]
    one = value(CrossLipschitz(), smooth_net, x)
    torch.testing.assert_close(value(CrossLipschitz(), lambda u: 3 * smooth_net(u), x), 9 * one)
    torch.testing.assert_close(value(CrossLipschitz(), smooth_net, torch.cat([x, x])), one)


def test_the_anchored_penalty_by_hand(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    j, p = jacobian_of(smooth_net, x), smooth_net(x).softmax(1).detach()
    squares = (j - j[torch.arange(6), y][:, None]).square().sum(2)
    torch.testing.assert_close(per_sample(AnchoredCrossLipschitz(), smooth_net, x, y), squares.sum(1) / 2)
    weights = p.clamp(min=0.34) * (1 - F.one_hot(y, 3))
    found = per_sample(AnchoredCrossLipschitz("probability", floor=0.34), smooth_net, x, y)
    torch.testing.assert_close(found, (weights * squares).sum(1))


def test_a_floor_cannot_be_cheated_by_confidence(smooth_net: nn.Module, double_batch: Any) -> None:
    x = double_batch[0]
    with torch.no_grad():
        y = smooth_net(x).argmax(1)
    sure = lambda u: 200 * smooth_net(u)  # noqa: E731
    for floor, cheated in ((0.0, True), (0.1, False)):
        term = AnchoredCrossLipschitz("probability", floor)
        plain, inflated = (per_sample(term, net, x, y) for net in (smooth_net, sure))
        assert (inflated < plain).any() == cheated


# -- estimates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["FA", "FB", "FC"])
@pytest.mark.parametrize(
    ("estimate", "exact"),
    [
        (CrossLipschitz(1), CrossLipschitz()),
        (CrossLipschitz(3), CrossLipschitz()),
        (AnchoredCrossLipschitz(projections=2), AnchoredCrossLipschitz()),
        (AnchoredCrossLipschitz("probability", 0.3, 1), AnchoredCrossLipschitz("probability", 0.3)),
        (FisherTrace(1), FisherTrace(None, detach=True)),
        (FisherTrace(3), FisherTrace(None, detach=True)),
    ],
    ids=lambda t: repr(t)[:60],
)
def test_estimates_and_their_gradients_are_unbiased(which: str, estimate: rr.Term, exact: rr.Term) -> None:
    n = 100_000
    net, x, y = NETS[which]
    x, labels = torch.tensor(x, dtype=torch.float64), torch.tensor([y])
    loss = value(exact, net, x, labels)
    values = per_sample(estimate, net, x.expand(n, 2), labels.expand(n))
    error = values.std().item() / n**0.5
    assert values.mean().item() == pytest.approx(loss.item(), abs=4 * error + 1e-12)
    estimated = gradients(value(estimate, net, x.expand(n, 2), labels.expand(n)), net)
    torch.testing.assert_close(estimated, gradients(loss, net), rtol=0, atol=0.02 * loss.item() + 0.02)


def test_labels_are_sampled_as_predicted() -> None:
    from robustreg.penalties.cross_lipschitz import SampledLabel
    from robustreg.probe import Probe
    from robustreg.streams import Stream

    n = 50_000
    z = torch.tensor([[1.0, 0.0, -2.0, 0.5]]).double().expand(n, 4)
    losses = SampledLabel().bind(Probe(lambda u: u, z, None, stream=Stream(0)), "train")(z, None)
    p = z[0].softmax(0)
    for k in range(4):
        share = ((losses + p[k].log()).abs() < 1e-9).double().mean().item()
        assert share == pytest.approx(p[k].item(), abs=0.01)


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term", [CrossLipschitz(), CrossLipschitz(2), AnchoredCrossLipschitz(), FisherTrace(None)], ids=repr
)
def test_gradcheck(term: rr.Term, smooth_net: nn.Module, double_batch: Any) -> None:
    objective, x, y = rr.Objective.of(term), double_batch[0][:2], double_batch[1][:2]
    names = [n for n, _ in smooth_net.named_parameters()]

    def of(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return objective(lambda u: functional_call(smooth_net, state, (u,)), x, y, step=0)

    assert torch.autograd.gradcheck(of, tuple(p.detach().requires_grad_() for p in smooth_net.parameters()))


def test_where_probabilities_are_constants_the_gradient_says_so(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    u = x.clone().requires_grad_()
    z = smooth_net(u)
    j = torch.stack(
        [torch.autograd.grad(z[:, k].sum(), u, create_graph=True)[0].flatten(1) for k in range(3)], 1
    )
    p = z.softmax(1)
    squares = (j - j[torch.arange(6), y][:, None]).square().sum(2)
    anchored = (p.detach() * squares).sum(1).mean()
    fisher = (p.detach() * (j - (p[:, :, None] * j).sum(1, keepdim=True)).square().sum(2)).sum(1).mean()
    for term, expected in (
        (AnchoredCrossLipschitz("probability"), anchored),
        (FisherTrace(None, detach=True), fisher),
    ):
        found = gradients(value(term, smooth_net, x, y), smooth_net)
        expected = torch.autograd.grad(
            expected, list(smooth_net.parameters()), retain_graph=True, allow_unused=True
        )
        expected = torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(smooth_net.parameters(), expected, strict=True)
            ]
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


# -- what every term must stand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", EXACT, ids=repr)
def test_a_sample_does_not_depend_on_its_company(
    term: rr.Term, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    whole = per_sample(term, smooth_net, x, y)
    parts = torch.cat(
        [per_sample(term, smooth_net, x[s], y[s]) for s in (slice(0, 1), slice(1, 4), slice(4, 6))]
    )
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-13)


@pytest.mark.parametrize("term", EXACT + RANDOM, ids=repr)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_it_stays_finite(term: rr.Term, scale: float, relu_net: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        relu_net[-1].weight.mul_(scale)
    loss = value(term, relu_net, *batch)
    assert loss.isfinite()
    assert gradients(loss, relu_net).isfinite().all()
    if scale == 0:
        assert loss == 0


@pytest.mark.parametrize("term", EXACT + RANDOM, ids=repr)
def test_low_precision(term: rr.Term, relu_net: nn.Module, batch: Any) -> None:
    net = relu_net.bfloat16()
    loss = value(term, net, batch[0].bfloat16(), batch[1])
    assert loss.dtype == torch.float32
    assert gradients(loss, net).isfinite().all()
    if term in EXACT:  # the others draw anew in another precision
        assert loss.item() == pytest.approx(value(term, net.float(), *batch).item(), rel=0.15)


@pytest.mark.parametrize("term", EXACT + RANDOM, ids=repr)
def test_labels(term: rr.Term, relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    none = torch.full_like(y, -1)
    if not isinstance(term, AnchoredCrossLipschitz):
        assert term.needs == frozenset()
        assert len({value(term, relu_net, x, labels).item() for labels in (None, y, none)}) == 1
        return
    assert term.needs == {"labels"}
    out = rr.Objective.of(term).detailed(relu_net, x, torch.where(torch.arange(6) < 2, y, -1), step=0)
    values = out.per_sample["anchored_cross_lipschitz"]
    assert (values[2:] == 0).all()
    assert out.loss.item() == pytest.approx(values[:2].mean().item())
    assert value(term, relu_net, x, none) == 0
    with pytest.raises(ValueError, match="needs labels, but y is None"):
        value(term, relu_net, x)


def test_labels_beyond_the_classes_are_refused(relu_net: nn.Module, batch: Any) -> None:
    for term in (AnchoredCrossLipschitz(), AnchoredCrossLipschitz(projections=1)):
        with pytest.raises(ValueError, match="labels run up to 3, but the model has 3 classes"):
            value(term, relu_net, batch[0], batch[1] + 1)


@pytest.mark.parametrize(
    ("objective", "counts"),
    [
        (rr.CrossEntropy() + CrossLipschitz(), (1, 10, 1, 10)),
        (rr.CrossEntropy() + CrossLipschitz(1), (1, 1, 1, 1)),
        (rr.CrossEntropy() + FisherTrace() + AnchoredCrossLipschitz(projections=1), (1, 2, 1, 2)),
        (CrossLipschitz() + FisherTrace(None) + AnchoredCrossLipschitz() + JacobianNorm(), (1, 10, 1, 10)),
    ],
    ids=repr,
)
def test_the_plan_counts_the_passes(
    objective: rr.Objective, counts: tuple[int, ...], relu_net: nn.Module, batch: Any
) -> None:
    plan = objective.plan()
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == counts
    runs: list[int] = []
    relu_net.register_forward_hook(lambda *_: runs.append(1))
    objective(relu_net, *batch)
    assert len(runs) == plan.forwards


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: CrossLipschitz(0), "projections must be a number from 1"),
        (
            lambda: AnchoredCrossLipschitz("softmax"),
            "weights must be 'uniform' or 'probability', got 'softmax'",
        ),
        (lambda: AnchoredCrossLipschitz(floor=2.0), r"floor .* must lie in \[0, 1\], got 2.0"),
        (lambda: FisherTrace(0), "samples must be a number from 1"),
        (lambda: CrossLipschitz(mode="test"), "mode must be one of"),
    ],
)
def test_bad_options_are_refused(build: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
