"""AAER's regulariser: the formula by hand, where gradient flows, the cases where it is 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import N_FGSM
from robustreg.penalties import AbnormalExamples
from robustreg.points import CLEAN
from robustreg.streams import Stream

Y = torch.tensor([0, 0, 1, 1, 2])


class Table(nn.Module):
    """Looks the logits of sample number x up: the parameters are the logits themselves."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x.flatten().round().long()]


@dataclass(frozen=True)
class Beside(rr.Point):
    """The sample five numbers further on."""

    start: rr.Point = CLEAN

    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.x + 5


def five(abnormal: tuple[bool, ...]) -> tuple[Table, Tensor]:
    """Five samples, and five ends of which the given ones have a lower loss."""
    g = torch.Generator().manual_seed(3)
    start = torch.randn(5, 3, generator=g, dtype=torch.float64)
    shift = 0.3 * torch.randn(5, 3, generator=g, dtype=torch.float64)
    up = torch.where(torch.tensor(abnormal), 1.5, -1.5).unsqueeze(1) * F.one_hot(Y, 3)
    return Table(torch.cat([start, start + shift + up])), torch.arange(5, dtype=torch.float64).reshape(5, 1)


def by_hand(net: Table, lam2: float, lam3: float, y: Tensor = Y) -> Tensor:
    """The authors' formula, in loops."""
    start, end = net.logits[:5].detach(), net.logits[5:]
    before = F.cross_entropy(start, y.clamp(min=0), reduction="none").tolist()
    after = F.cross_entropy(end, y.clamp(min=0), reduction="none").tolist()
    known = [i for i in range(5) if y[i] >= 0]
    a = [i for i in known if before[i] > after[i]]
    n = [i for i in known if before[i] <= after[i]]
    if not a or not n:
        return torch.zeros((), dtype=torch.float64)
    vary = [((start[i] - end[i]) ** 2).sum() for i in range(5)]
    v_a, v_n = sum(vary[i] for i in a) / len(a), sum(vary[i].item() for i in n) / len(n)
    fall = sum(before[i] - after[i] for i in a) / len(a)
    return len(a) / len(known) * (lam2 * fall + lam3 * torch.relu(v_a - v_n))


def found(net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return rr.Objective.of(AbnormalExamples(Beside(), **options))(net, x, y, step=0)


@pytest.mark.parametrize(
    "abnormal",
    [(True, False, False, True, False), (False, True, False, False, False), (True, True, True, True, False)],
)
def test_value_and_gradient_are_those_of_the_formula(abnormal: tuple[bool, ...]) -> None:
    net, x = five(abnormal)
    for lam2, lam3 in ((1.5, 0.15), (0.0, 2.0), (3.0, 0.0)):
        expected, value = by_hand(net, lam2, lam3), found(net, x, Y, by_loss=lam2, by_variation=lam3)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert value > 0 or not lam2
        if expected.requires_grad and lam3:
            gradients = [torch.autograd.grad(v, net.logits)[0] for v in (value, expected)]
            torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_the_published_gradient_moves_the_abnormal_ends_alone() -> None:
    abnormal = (True, False, False, True, False)
    net, x = five(abnormal)
    found(net, x, Y, by_loss=3.0, by_variation=1.0).backward()
    assert net.logits.grad is not None
    assert (net.logits.grad[:5] == 0).all()  # the starts are constants
    assert (net.logits.grad[5:].abs().sum(1) > 0).tolist() == list(abnormal)


def test_through_the_losses_their_difference_has_a_gradient() -> None:
    abnormal = (True, False, False, True, False)
    net, x = five(abnormal)
    value = found(net, x, Y, by_loss=3.0, by_variation=0.0, through_loss=True)
    assert value.item() == pytest.approx(by_hand(net, 3.0, 0.0).item(), rel=1e-12)
    (g,) = torch.autograd.grad(value, net.logits)
    rows = torch.tensor(abnormal)
    probabilities = net.logits.detach().softmax(1) - F.one_hot(torch.cat([Y, Y]), 3)
    expected = torch.where(torch.cat([rows, rows]).unsqueeze(1), 3.0 / 5 * probabilities, 0.0)
    expected[5:] *= -1
    torch.testing.assert_close(g, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("abnormal", [(True,) * 5, (False,) * 5])
def test_all_or_none_abnormal_gives_zero(abnormal: tuple[bool, ...]) -> None:
    net, x = five(abnormal)
    value = found(net, x, Y)
    assert value == 0
    value.backward()
    assert net.logits.grad is not None
    assert (net.logits.grad == 0).all()


def test_less_variation_than_normal_is_not_penalised() -> None:
    net, x = five((True, False, False, False, False))
    with torch.no_grad():
        net.logits[6:] -= 5.0 * F.one_hot(Y[1:], 3)  # the normal ends are far from their starts
    value = found(net, x, Y, by_loss=0.0, by_variation=1.0)
    assert by_hand(net, 0.0, 1.0) == value == 0


def test_samples_without_a_label_do_not_count() -> None:
    net, x = five((True, False, False, True, False))
    y = torch.tensor([0, -1, 1, 1, -1])
    values = AbnormalExamples(Beside())(rr.Probe(net, x, y, stream=Stream(0)))
    assert (values != 0).tolist() == [True, False, False, True, False]
    assert found(net, x, y).item() == pytest.approx(by_hand(net, 1.5, 0.15, y).item(), rel=1e-12)
    assert found(net, x, torch.full_like(y, -1)) == 0


def test_a_batch_of_one_is_zero(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    assert rr.Objective.of(AbnormalExamples(N_FGSM(rr.Threat("linf", 0.1))))(smooth_net, x[:1], y[:1]) == 0


def test_what_is_missing_is_said(smooth_net: nn.Module, double_batch: Any) -> None:
    assert AbnormalExamples().needs == {"labels", "adversary"}
    with pytest.raises(ValueError, match="abnormal_examples needs an adversary"):
        (rr.CrossEntropy() + AbnormalExamples())(smooth_net, *double_batch)
    with pytest.raises(ValueError, match="needs labels"):
        rr.Objective.of(AbnormalExamples(Beside()))(smooth_net, double_batch[0])
