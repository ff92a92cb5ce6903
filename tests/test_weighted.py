"""Any term under the weight of ARoW, also those that no paper weights so: equal to closed forms in float64.

On a linear network z = x W the Jacobian is W^T, the input gradient of the cross-entropy is W (p - e_y), and the
adversarial point here is x + eps sign(W (p - e_y)).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import robustreg as rr
from robustreg.streams import Stream

EPS = 0.1
L2, LINF = rr.Threat("l2", EPS, bounds=None), rr.Threat("linf", EPS, bounds=None)

ByHand = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def errors(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """The input gradients ``[B, D]`` of the cross-entropy."""
    return ((x @ w).softmax(1) - F.one_hot(y.clamp(min=0), 3)) @ w.T


def ball_points(x: Tensor) -> list[Tensor]:
    draws = [rr.Uniform(L2, number=k, clip="none") for k in range(2)]
    return [x + u.draw(x, Stream(0, 5).generator("cpu", "draw", u.key)) for u in draws]


def curvature(x: Tensor, w: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
    sign = errors(x, w, y).sign().detach()
    there = x + 0.3 * sign / sign.norm(dim=1, keepdim=True)
    return (errors(there, w, y) - errors(x, w, y)).square().sum(1)


def segment(x: Tensor, w: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
    log_p = (x @ w).log_softmax(1).detach()
    middle = (x + x_adv) / 2
    gradient = ((middle @ w).softmax(1) - log_p.exp()) @ w.T  # of KL(p(x) || p(u)), p(x) constant
    return (x_adv - x).abs().amax(1) * gradient.abs().sum(1)


ATTACK = rr.Steepest(LINF)
TERMS: dict[str, tuple[rr.Term, ByHand]] = {
    "gradient norm, l2": (rr.GradientNorm(L2), lambda x, w, y, a: EPS * errors(x, w, y).norm(dim=1)),
    "gradient norm, linf": (rr.GradientNorm(LINF), lambda x, w, y, a: EPS * errors(x, w, y).abs().sum(1)),
    "Jacobian": (rr.JacobianNorm(), lambda x, w, y, a: 0.5 * w.square().sum().expand(len(x))),
    "cross-Lipschitz": (
        rr.CrossLipschitz(),
        lambda x, w, y, a: (2 / 3 * (w - w.mean(1, keepdim=True)).square().sum()).expand(len(x)),
    ),
    "energy of the ball": (
        rr.Energy(L2, points="ball", samples=2),
        lambda x, w, y, a: EPS * torch.stack([errors(u, w, y).norm(dim=1) for u in ball_points(x)]).mean(0),
    ),
    "energy of the segment": (rr.Energy(LINF, divergence="kl", end=ATTACK), segment),
    "logit pairing": (
        rr.Consistency(ATTACK, "squared_logits"),
        lambda x, w, y, a: ((x - a) @ w).square().sum(1),
    ),
    "squared probabilities": (
        rr.Consistency(ATTACK, "squared_probabilities"),
        lambda x, w, y, a: ((x @ w).softmax(1) - (a @ w).softmax(1)).square().sum(1),
    ),
    "curvature": (rr.Curvature(h=0.3), curvature),
}


@pytest.mark.parametrize("labels", ["all", "half"])
@pytest.mark.parametrize("name", TERMS)
def test_vulnerability_weights_any_term(name: str, labels: str) -> None:
    """Value and parameter gradient of ``mean (1 - p_y(x')) term``, over the labelled samples, in float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(8, 5, generator=g, dtype=torch.float64)
    y = torch.arange(8) % 3
    if labels == "half":
        y[1::2] = -1
    w = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    term, by_hand = TERMS[name]
    objective = rr.Objective.of(rr.weighted(term, by=rr.Vulnerability(ATTACK)))
    loss = objective(lambda u: u @ w, x, y, stream=Stream(0, 5))
    (gradient,) = torch.autograd.grad(loss, w)

    x_adv = (x + EPS * errors(x, w, y).sign()).detach()
    x_adv = torch.where((y >= 0).unsqueeze(1), x_adv, x)
    vulnerability = 1 - (x_adv @ w).softmax(1).gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
    values = vulnerability * by_hand(x, w, y, x_adv)
    expected = values[y >= 0].mean()
    (closed,) = torch.autograd.grad(expected, w)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, closed, rtol=1e-10, atol=1e-12)
    assert closed.abs().max() > 1e-6
