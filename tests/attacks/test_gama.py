"""GAMA-PGD: its loss, its schedules, and that it fools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import robustreg as rr
from robustreg.attacks.gama import GAMA, GuidedMargin
from robustreg.points import draw_per_sample

THREATS = [rr.Threat("linf", 0.05), rr.Threat("l2", 0.16), rr.Threat("l1", 0.35)]
EACH_THREAT = pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
T = THREATS[0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def test_the_loss_is_that_of_the_paper() -> None:
    z, clean = (torch.randn(8, 5, generator=seeded(s), dtype=torch.float64) for s in (0, 1))
    y = torch.tensor([0, 1, 2, 3, 4, 0, 1, -1])
    p, q = z.softmax(1), clean.softmax(1)
    margin = [max(v for k, v in enumerate(row) if k != c) - row[c] for row, c in zip(p, y, strict=True)]
    expected = torch.stack(margin) + 3.0 * (p - q).square().sum(1)
    expected[7] = 0
    loss = GuidedMargin(y, q, 3.0)
    torch.testing.assert_close(loss(z, None), expected, rtol=0, atol=1e-14)
    rows = torch.tensor([5, 2])
    torch.testing.assert_close(loss(z[rows], rows), expected[rows], rtol=0, atol=1e-14)
    assert gradcheck(lambda v: loss(v, None), (z.requires_grad_(),))


def test_the_loss_has_a_slope_where_the_probabilities_have_none() -> None:
    z = torch.tensor([[2000.0, 3.0, 1.0], [40.0, 3.0, 1.0]], requires_grad=True)
    y = torch.zeros(2, dtype=torch.long)
    (g,) = torch.autograd.grad(GuidedMargin(y, z.detach().softmax(1), 50.0)(z, None).sum(), z)
    assert (g[:, 0] < 0).all()
    assert (g[:, 1] > 0).all()
    # p_y is 1 to rounding; its slope is exact all the same: -(2 p_1 + p_2) beside 2 p_1
    torch.testing.assert_close(g[1, 0] / g[1, 1], -1 - torch.tensor(-2.0).exp() / 2, rtol=1e-4, atol=0)


def test_the_schedules_are_the_authors() -> None:
    attack = GAMA(T)
    assert attack.weights()[:3] == [50.0, 48.0, 46.0]
    assert attack.weights()[24:27] == pytest.approx([2.0, 0.0, 0.0])
    sizes = [size / T.eps for size in attack.sizes()]
    assert sizes == pytest.approx([2.0] * 60 + [0.2] * 25 + [0.02] * 15)
    assert len(GAMA(T, 1).weights()) == len(GAMA(T, 1).sizes()) == 1


def by_hand(net: Any, x: Tensor, y: Tensor, start: Tensor, steps: int) -> list[Tensor]:
    """Iterates of GAMA-PGD in linf as the paper writes them."""
    clean, points = net(x).softmax(1).detach(), [start]
    for weight, size in zip(GAMA(T, steps).weights(), GAMA(T, steps).sizes(), strict=True):
        u = points[-1].clone().requires_grad_()
        p = net(u).softmax(1)
        others = p.scatter(1, y[:, None], 0.0).amax(1)
        loss = others - p.gather(1, y[:, None]).squeeze(1) + weight * (p - clean).square().sum(1)
        (g,) = torch.autograd.grad(loss.sum(), u)
        z = (points[-1] + size * g.sign() - x).clamp(-T.eps, T.eps) + x
        points.append(z.clamp(0, 1))
    return points


def test_it_is_the_papers_iteration(classifier: Any) -> None:
    net, x, y = classifier(4)
    attack = GAMA(T, 12, early_exit=False)
    noise = draw_per_sample(attack, x, list(range(64)))
    (signs,) = noise.values()
    points = torch.stack(by_hand(net, x, y, (x + T.eps * signs).clamp(0, 1), 12))
    logits = torch.stack([net(z) for z in points]).detach()
    gap = logits.scatter(2, y.expand(13, -1)[:, :, None], -torch.inf).amax(2) - logits.gather(
        2, y.expand(13, -1)[:, :, None]
    ).squeeze(2)
    best = points[gap.argmax(0), torch.arange(64)]
    torch.testing.assert_close(attack(net, x, y, noise=noise), best, rtol=0, atol=1e-10)


@EACH_THREAT
def test_it_fools_within_the_threat_about_as_many_as_pgd(threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(5)
    found = GAMA(threat, 40)(net, x, y, generator=seeded())
    assert threat.contains(found, x).all()
    pgd = right(net, rr.PGD(threat, 40)(net, x, y, generator=seeded()), y).sum()
    assert right(net, found, y).sum() <= pgd + 2 < 64


def test_more_restarts_are_never_worse_and_the_batch_does_not_matter(classifier: Any) -> None:
    net, x, y = classifier(4)
    one, three = (right(net, GAMA(T, 8, restarts=n)(net, x, y, generator=seeded()), y) for n in (1, 3))
    assert not (three & ~one).any()
    attack = GAMA(T, 10)
    noise = draw_per_sample(attack, x, list(range(64)))

    def attacked(rows: slice) -> Tensor:
        return attack(net, x[rows], y[rows], noise={p: d[rows] for p, d in noise.items()})

    apart = torch.cat([attacked(slice(i, i + 7)) for i in range(0, 64, 7)])
    torch.testing.assert_close(apart, attacked(slice(0, 64)), rtol=0, atol=1e-12)


def test_a_confident_network_does_not_hide(classifier: Any) -> None:
    net, x, y = classifier(4)
    x = x.float()

    def standing(scale: float) -> Tensor:
        def model(u: Tensor) -> Tensor:
            return scale * net(u.double()).float()

        return right(model, GAMA(T, 30)(model, x, y, generator=seeded()), y).sum()

    assert standing(1e3) <= standing(1.0) + 4 < 50


def test_dead_networks_unlabelled_samples_and_few_classes_do_no_harm(batch: Any, classifier: Any) -> None:
    for threat in THREATS:
        found = GAMA(threat, 5)(lambda u: u.flatten(1)[:, :3] * 0, *batch)
        assert found.isfinite().all()
        assert threat.contains(found, batch[0]).all()
    net, x, y = classifier(2)
    found = GAMA(T, 5)(net, x, torch.where(torch.arange(64) < 30, y, -1), generator=seeded())
    assert torch.equal(found[30:], x[30:])
    assert not torch.equal(found[:30], x[:30])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: GAMA(T, 0), "needs steps >= 1 and restarts >= 1, got 0 and 1"),
        (lambda: GAMA(T, restarts=0), "got 100 and 0"),
        (lambda: GAMA(T, weight=-1.0), "weight must be >= 0, got -1.0"),
        (lambda: GAMA(T, start=rr.Clean(), restarts=2), "use a random start"),
    ],
)
def test_bad_rules_are_refused(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_it_needs_labels(batch: Any, relu_net: Any) -> None:
    with pytest.raises(ValueError, match="GAMA needs labels"):
        GAMA(T)(relu_net, batch[0])
