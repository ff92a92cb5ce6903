"""MI-FGSM: the paper's recursion, in the threat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import numerics
from robustreg.attacks.momentum import MIFGSM

THREATS = [rr.Threat("linf", 0.05), rr.Threat("l2", 0.16), rr.Threat("l1", 0.35), rr.Threat("l1.5", 0.2)]
EACH_THREAT = pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
T = THREATS[0]


def right(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def iterates(net: nn.Module, x: Tensor, y: Tensor, threat: rr.Threat, steps: int, decay: float) -> Tensor:
    """The recursion of Dong et al. with the gradient of the cross-entropy, `[steps + 1, B, ...]`."""
    momentum, points = torch.zeros_like(x), [x]
    for _ in range(steps):
        u = points[-1].clone().requires_grad_()
        (g,) = torch.autograd.grad(numerics.cross_entropy(net(u), y).sum(), u)
        momentum = decay * momentum + g / g.abs().flatten(1).sum(1)[:, None, None]
        length = momentum.flatten(1).norm(dim=1)[:, None, None]
        step = momentum / length if threat.norm == 2 else momentum.sign()
        points.append(threat.project(points[-1] + threat.eps / steps * step, x))
    return torch.stack(points)


@pytest.mark.parametrize("threat", THREATS[:2], ids=lambda t: t.name)
@pytest.mark.parametrize("decay", [0.0, 1.0, 0.5])
def test_it_is_the_papers_recursion(threat: rr.Threat, decay: float, classifier: Any) -> None:
    net, x, y = classifier(4)
    points = iterates(net, x, y, threat, 6, decay)
    losses = torch.stack([numerics.cross_entropy(net(z), y) for z in points]).detach()
    best = points[losses.argmax(0), torch.arange(64)]
    found = MIFGSM(threat, 6, decay, early_exit=False)(net, x, y)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-8)  # the cross-entropy's own gradient has no more
    assert (losses.argmax(0) == 6).sum() > 50  # nearly always the last


@EACH_THREAT
def test_it_fools_within_the_threat(threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(4)
    found = MIFGSM(threat)(net, x, y)
    assert threat.contains(found, x).all()
    fooled = ~right(net, found, y)
    assert fooled.any()
    # who goes on is further in the wrong
    late = MIFGSM(threat, early_exit=False)(net, x, y)
    with torch.no_grad():
        margins = [numerics.margin(net(z), y)[fooled] for z in (found, late)]
    assert (margins[1] <= margins[0] + 1e-9).all()
    assert margins[1].mean() < margins[0].mean() - 0.1


def test_momentum_goes_on_where_the_gradient_is_zero_or_nan() -> None:
    slopes = iter([1.0, 0.0, torch.nan])

    def model(u: Tensor) -> Tensor:
        return torch.cat([-next(slopes, 1.0) * u, torch.zeros_like(u)], dim=1)

    x, y = torch.full((1, 1), 0.5), torch.zeros(1, dtype=torch.long)
    found = MIFGSM(rr.Threat("linf", 0.3), 3, loss=lambda z, _: z[:, 1] - z[:, 0], early_exit=False)(
        model, x, y
    )
    torch.testing.assert_close(found, x + 0.3)


def test_a_dead_network_does_no_harm(batch: Any) -> None:
    for threat in THREATS:
        found = MIFGSM(threat)(lambda u: u.flatten(1)[:, :3] * 0, *batch)
        assert found.isfinite().all()
        assert threat.contains(found, batch[0]).all()


def test_a_confident_network_does_not_hide(classifier: Any) -> None:
    net, x, y = classifier(4)
    x = x.float()

    def scaled(u: Tensor) -> Tensor:
        return 1e3 * net(u.double()).float()

    margin = right(scaled, MIFGSM(T, loss="margin")(scaled, x, y), y).sum()
    assert right(scaled, MIFGSM(T)(scaled, x, y), y).sum() <= margin + 2 < 50


def test_the_batch_does_not_matter_and_unlabelled_samples_stay(classifier: Any) -> None:
    net, x, y = classifier(4)
    whole = MIFGSM(T)(net, x, y)
    apart = torch.cat([MIFGSM(T)(net, x[i : i + 7], y[i : i + 7]) for i in range(0, 64, 7)])
    torch.testing.assert_close(apart, whole, rtol=0, atol=1e-12)
    half = MIFGSM(T)(net, x, torch.where(torch.arange(64) < 30, y, -1))
    torch.testing.assert_close(half[:30], whole[:30], rtol=0, atol=1e-12)
    assert torch.equal(half[30:], x[30:])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MIFGSM(T, 0), "needs steps >= 1, got 0"),
        (lambda: MIFGSM(T, decay=-0.5), "decay must be >= 0, got -0.5"),
        (lambda: MIFGSM(T, step_size=0.0), "step_size must be positive, got 0.0"),
        (lambda: MIFGSM(T, loss="hinge"), "loss must be one of"),
    ],
)
def test_bad_rules_are_refused(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
