"""Edge alignment: the edges of known images, the authors' loss by hand, and label-free whatever happens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg.methods import card_of, edge_reg
from robustreg.penalties.edges import EdgeAlignment, SampledLogit, edges, gaussian
from robustreg.probe import Probe
from robustreg.streams import Stream


def run(term: rr.Term, net: Any, x: Tensor, seed: int = 0) -> Any:
    return rr.Objective.of(term).evaluate(Probe(net, x, None, stream=Stream(seed)), {term.name: 1.0})


def images(n: int = 5, channels: int = 2, size: int = 6) -> Tensor:
    return torch.rand(
        n, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def network(channels: int = 2, size: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(channels * size * size, 6), nn.Tanh(), nn.Linear(6, 3)
        ).double()


# -- edges -------------------------------------------------


def test_the_kernel_is_the_discrete_gaussian() -> None:
    special = pytest.importorskip("scipy.special", reason="the Bessel function to compare with")
    for t in (0.3, 1.0, 2.0):
        reach = math.ceil(3 * t)
        expected = torch.tensor([math.exp(-t) * special.iv(n, t) for n in range(-reach, reach + 1)])
        torch.testing.assert_close(gaussian(t), expected / expected.sum(), rtol=0, atol=1e-14)


def test_a_straight_edge_is_found_where_it_is() -> None:
    image = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    image[..., 6:] = 1.0
    e = edges(image)
    assert e.shape == image.shape
    assert torch.equal(e[:, 0], e[:, 2])
    assert (e - e[:, :, :1]).abs().max() < 1e-12  # no change along the edge
    row = e[0, 0, 0]
    torch.testing.assert_close(row, row.flip(0))
    assert int(row.argmax()) in (5, 6)
    assert row[0] < 0.02 * row.max()
    torch.testing.assert_close(edges(image.transpose(2, 3)), e.transpose(2, 3))


def test_channels_add_in_quadrature_and_a_flat_image_has_no_edges() -> None:
    x = images(2, 1)
    torch.testing.assert_close(edges(x.repeat(1, 4, 1, 1))[:, :1], 2 * edges(x))
    assert edges(torch.full((1, 1, 6, 6), 0.3)).abs().max() < 1e-6
    assert not edges(x.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(2, 16), (2, 1, 3, 8)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images \[B, C, H, W\] of at least 4 x 4 pixels, got"):
        edges(torch.rand(shape))


# -- the term -------------------------------------------------


def test_the_loss_is_the_authors() -> None:
    net, x = network(), images()
    probe = Probe(net, x, None, stream=Stream(0))
    level = torch.special.ndtr(probe.normal((5, 1), "sampled logit", 0))
    with torch.no_grad():
        k = ((net(x) / 0.5).softmax(1).cumsum(1) < level).sum(1)
    u = x.clone().requires_grad_()
    (s,) = torch.autograd.grad(net(u).gather(1, k.unsqueeze(1)).sum(), u, create_graph=True)
    e = edges(x)
    expected = F.mse_loss(s / s.square().mean().sqrt(), e / e.square().mean().sqrt())
    found = run(EdgeAlignment(), net, x).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    grads = [
        torch.autograd.grad(
            v, list(net.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for v in (found, expected)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_a_gradient_that_is_the_edges_costs_nothing_whatever_its_size() -> None:
    x = images(3, 1)
    e = edges(x).detach()

    def net(u: Tensor) -> Tensor:
        z = 7.0 * (u * e).flatten(1).sum(1, keepdim=True)
        return torch.cat([z, z], 1)

    assert run(EdgeAlignment(), net, x).loss < 1e-24
    # and one that is minus the edges costs 4, an unrelated one about 2
    assert run(EdgeAlignment(), lambda u: -net(u), x).loss.item() == pytest.approx(4.0)


def test_classes_are_drawn_as_often_as_they_are_believed() -> None:
    x = torch.zeros(20_000, 2)
    logits = torch.tensor([0.0, 0.5, 1.0]).expand(20_000, 3)
    probe = Probe(lambda u: logits, x, None, stream=Stream(0))
    drawn = SampledLogit(0.5).bind(probe, "train")(logits, None)
    shares = torch.stack([(drawn - v).abs().lt(1e-6).float().mean() for v in logits[0]])
    torch.testing.assert_close(shares, (logits[0] / 0.5).softmax(0), rtol=0, atol=0.015)


def test_steps_draw_anew_and_no_labels_are_read() -> None:
    net, x = network(), images()
    values = [run(EdgeAlignment(temperature=100.0), net, x, seed).loss.item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert EdgeAlignment().needs == frozenset()


def test_gradcheck() -> None:
    net, x = network(1, 4), images(3, 1, 4)
    names = [n for n, _ in net.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return run(EdgeAlignment(), lambda u: functional_call(net, state, (u,)), x).loss

    assert gradcheck(loss, [p.detach().clone().requires_grad_() for p in net.parameters()], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_finite_without_gradient_and_without_edges(dtype: torch.dtype) -> None:
    dead = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(dtype)
    nn.init.zeros_(dead[1].weight)
    for x in (torch.rand(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)):
        loss = run(EdgeAlignment(), dead, x.to(dtype)).loss
        loss.backward()
        assert loss.isfinite()
        assert dead[1].weight.grad.isfinite().all()


def test_the_method_ramps_the_penalty_and_costs_one_double_backward(batch: Any, relu_net: nn.Module) -> None:
    objective = edge_reg()
    plan = objective.plan((1, 4, 4), 3)
    assert (plan.forwards, plan.input_backwards, plan.double_backwards) == (1, 1, 1)
    out = objective.detailed(relu_net, *batch, progress=0.5, step=0)
    assert out.weights["edge_alignment"] == 5.5
    expected = out.values["cross_entropy"] + 5.5 * out.values["edge_alignment"]
    torch.testing.assert_close(out.loss, expected)
    assert "35.02" in str(card_of(edge_reg))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"sigma": -1.0}, {"mode": "test"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        EdgeAlignment(**options)
