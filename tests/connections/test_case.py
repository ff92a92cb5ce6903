"""What a case makes of a network, and what it refuses before any work is done."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustreg.connections import CLAIMS, Case
from robustreg.connections.quantities import hessian_by_autograd, igr, jacobian_term

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1])


class Constant(nn.Module):
    """Logits that know nothing of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, 2.0], dtype=x.dtype).expand(len(x), 2)


class Once(torch.autograd.Function):
    """The square, which can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Given(nn.Module):
    """A network that is a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function(x)
        return found


def test_one_logit_becomes_two() -> None:
    case = Case(nn.Linear(3, 1), X, Y)
    assert case.logits.shape == (4, 2)
    assert (case.logits[:, 0] == 0).all()
    loss = F.binary_cross_entropy_with_logits(case.logits[:, 1], Y.double(), reduction="none")
    torch.testing.assert_close(case.loss, loss)
    again = Case(case.model, X, Y)  # as certificates do
    assert torch.equal(again.logits, case.logits)


def test_constant_logits_have_gradients_of_zero() -> None:
    case = Case(Constant(), X, Y)
    assert (case.gradient == 0).all()
    assert (hessian_by_autograd(case) == 0).all()
    assert (igr(case) == 0).all()
    assert (jacobian_term(case) == 0).all()
    verdicts = [claim.residual(case) for claim in CLAIMS]
    assert not any(residual.verdict == "violated" for residual in verdicts)
    assert sum(residual.empty for residual in verdicts) > 60


def test_hardsigmoid_is_differentiated_in_float64() -> None:
    """PyTorch's own first derivative is off by 3e-8, and it has no second one."""
    case = Case(nn.Sequential(nn.Hardsigmoid(), nn.Linear(3, 2, bias=False)), X, Y)
    weight = case.model.net[1].weight
    assert (case.jacobian - weight / 6).abs().max() < 1e-15
    assert (hessian_by_autograd(case) - case.hessian).abs().max() < 1e-15


@pytest.mark.parametrize(
    ("model", "x", "y", "message"),
    [
        (nn.Flatten(0), X, Y, r"must give logits \[B, C\] with B = 4, got \[12\]"),
        (Given(lambda x: x[:, :, None]), X, Y, r"must give logits \[B, C\] with B = 4, got \[4, 3, 1\]"),
        (Given(lambda x: x / 0), X, Y, "not finite on 4 of 4 samples"),
        (Given(lambda x: x[:, :2] * 1.0), X, torch.tensor([0, 1, 2, 0]), "labels must be below 2"),
        (nn.Linear(3, 1), X, torch.tensor([0, 1, 2, 0]), "labels must be below 2"),
        (nn.Linear(3, 2), X[:0], Y[:0], "at least one sample"),
        (Given(lambda x: Once.apply(x)), X, Y, "cannot be differentiated twice"),
    ],
)
def test_what_is_refused(model: nn.Module, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case(model, x, y)


def test_a_changed_case_shares_the_network_and_the_direction() -> None:
    case = Case(nn.Linear(3, 2), X, Y)
    direction, gradient = case.direction, case.gradient
    twice = case.changed(lambda z, x: 2 * z)
    assert twice.direction is direction
    torch.testing.assert_close(twice.logits, 2 * case.logits)
    assert not torch.equal(twice.gradient, gradient)
    assert torch.equal(case.logits_at(case.x), case.logits)
