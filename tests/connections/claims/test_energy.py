"""Energies: the notes' logistic model, closed forms for linear and quadratic losses, paths that sums do not follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case, Claim, Residual
from robustreg.connections import quantities as q
from robustreg.connections.energies import ball_gradients, segment, steepest, steepest_path

Plant = Callable[[str, Case, Any], Residual]
Exact = Callable[[str, Case], None]


class Wave(nn.Module):
    """Two logits; the label's probability goes down and comes back within a length of 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sin(torch.pi * x) ** 2 * -3, 0 * x], 1)


@pytest.fixture
def wave() -> Case:
    """From 0.1 to 0.9, where the loss is the same."""
    return Case(Wave(), torch.tensor([[0.1]]), torch.tensor([0]), radius=0.8)


@pytest.mark.parametrize("key", ["E5", "E6b", "E15", "E16", "E16b", "E16c"])
def test_exact_on_three_networks(key: str, logistic: Case, binary: Case, pair: Case, exact: Exact) -> None:
    for case in (logistic, binary, pair.at_radius(1e-3)):
        exact(key, case)


def test_numbers_of_the_notes(logistic: Case, claims: dict[str, Claim]) -> None:
    """Of the logistic model at radius 0.3, to the digits that the notes give."""
    numbers = {"E3": 0.145418, "E3c": 0.133289, "E5": 0.133289, "E6": 0.145418, "E6b": 0.157639}
    for key, value in numbers.items():
        assert claims[key].sides(logistic)[0].item() == pytest.approx(value, abs=6e-7), key
    assert claims["E3c"].sides(logistic)[1].item() == pytest.approx(0.157639, abs=6e-7)


def test_the_ball_of_the_notes(logistic: Case) -> None:
    """The mean of the gradient norm over the ball, by many draws within their error."""
    many = Case(logistic.model, logistic.x.repeat(2500, 1), logistic.y.repeat(2500), radius=0.3)
    norms = ball_gradients(many).norm(dim=2).flatten()
    assert abs(norms.mean() - 0.444665) < 4 * norms.std() / len(norms) ** 0.5
    assert norms.std() / len(norms) ** 0.5 < 5e-4


def test_a_quadratic_loss_by_draws_from_the_ball(pair: Case, claims: dict[str, Claim]) -> None:
    """The two points on each axis stand for uniform ones, which are drawn here."""
    case, size = pair.at_radius(0.5), 16
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(20_000, size, generator=generator, dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True)
    inside = 0.5 * v * torch.rand(20_000, 1, generator=generator, dtype=torch.float64) ** (1 / size)
    hessian = q.hessian_by_autograd(case)
    for key, draws in (("E16", inside), ("E16b", 0.5 * v)):
        gradients = case.gradient[:, None] + torch.einsum("bde,ne->bnd", hessian, draws)
        drawn = gradients.square().sum(2)
        left = claims[key].sides(case)[0]
        assert ((drawn.mean(1) - left).abs() < 5 * drawn.std(1) / 20_000**0.5).all(), key


def test_what_goes_up_and_down(wave: Case, claims: dict[str, Claim]) -> None:
    """Adversarial training sees nothing, the energy twice the height of the wave."""
    up_and_down = claims["E17"].residual(wave)
    assert up_and_down.verdict == "holds"
    assert up_and_down.left.item() == pytest.approx(up_and_down.right.item(), rel=1e-2)
    assert up_and_down.left.item() > 4
    rise = claims["E1"].residual(wave)
    assert rise.verdict == "holds"
    assert abs(rise.left.item()) < 1e-7


def test_sums_that_do_not_follow_the_loss_say_so(wave: Case, claims: dict[str, Claim]) -> None:
    """A kink in a short step of the path: 20 points miss what lies between."""

    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-(1000 * (x - 0.5)).clamp(0, 3), 0 * x], 1)

    case = Case(Step(), torch.tensor([[0.4997]]), torch.tensor([0]), radius=0.2)
    case.direction = torch.ones(1, 1, dtype=torch.float64)
    assert case.loss_at(case.end).item() > 3
    for key in ("E4", "E4b"):
        residual = claims[key].residual(case)
        assert residual.verdict == "does not apply"
        assert not all(there.all() for there in residual.conditions.values())
    assert case.measured(steepest_path).resolved.all()  # the flat loss has no way to go
    assert wave.measured(steepest_path).resolved.all()


WRONG: dict[str, tuple[str, Any]] = {
    "d for d + 2": ("E16", lambda a, b, c: (a, b + c.radius**2 * q.squared(q.hessian_by_autograd(c)) / 3 - extra(c))),
    "the trace for the norm": (
        "E16b",
        lambda a, b, c: (a, q.squared(c.gradient) + c.radius**2 * q.trace(c).square()),
    ),
    "the gradient at the centre at the worst point": ("E6b", lambda a, b, c: (a, c.radius * q.igr(c))),
    "a margin of the other sign": (
        "E6b",
        lambda a, b, c: (a, c.radius * length(c) * torch.sigmoid(c.radius * length(c) + 0.3)),
    ),
    "one energy twice another": ("E15", lambda a, b, c: (2 * a, b)),
    "a bound turned round": ("E3b", lambda a, b, c: (b, a)),
    "half the energy": ("E1", lambda a, b, c: (a, b / 2)),
    "a smoothed gradient of another length": ("E16c", lambda a, b, c: (1.001 * a, b)),
    "no half in front of the curvature": ("E7", lambda a, b, c: (a, 2 * b)),
    "the whole way up and down, and half more": ("E17", lambda a, b, c: (1.5 * a, b)),
    "more than half of the probability, at log 3": ("E4b", lambda a, b, c: (a + 1.0986, b)),
}  # fmt: skip


def length(case: Case) -> Tensor:
    return q.weight(case).norm(dim=1)


def extra(case: Case) -> Tensor:
    return case.radius**2 * q.squared(q.hessian_by_autograd(case)) / 5


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_show(name: str, logistic: Case, planted: Plant) -> None:
    key, wrong = WRONG[name]
    case = logistic.at_radius(0.2) if key == "E4b" else logistic
    assert planted(key, case, wrong).verdict == "violated"


@pytest.mark.parametrize("key", ["E3b", "E3c", "E5b", "E7b", "E9b"])
def test_on_smooth_networks_too(
    key: str, network: Callable[[str], nn.Module], samples: Tensor, claims: dict[str, Claim]
) -> None:
    case = Case(network("gelu"), samples, torch.arange(6) % 3, radius=0.3)
    residual = claims[key].residual(case)
    assert residual.verdict == "holds"
    assert residual.applies.all()
    assert segment(case, end=steepest(case)).shape == (6,)
