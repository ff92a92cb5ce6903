"""Adding a term, or logging one, changes no bit of the others: what makes objectives composable."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)

BASE = (
    rr.CrossEntropy()
    + 0.3 * rr.GradientNorm(T)
    + rr.Perturbed(L2)
    + rr.CrossEntropy(at=rr.Uniform(T))
    + rr.CrossEntropy(at=rr.PGD(T, 2))
    + rr.GradientNorm(T, estimator="forward")
)

EXTRA = [
    rr.CrossEntropy(),
    rr.CrossEntropy(at=rr.Uniform(L2)),
    rr.CrossEntropy(at=rr.Uniform(T, number=1)),
    rr.CrossEntropy(at=rr.PGD(L2, 2, restarts=2)),
    rr.CrossEntropy(at=rr.PGD(T, 2, mode="train")),
    rr.CrossEntropy(mode="eval"),
    rr.GradientNorm(L2),
    rr.GradientNorm(L2, at=rr.Gaussian(0.1), estimator="central"),
    rr.GradientNorm(T, mode="eval"),
    rr.Perturbed(T, same_dropout=True),
    rr.LossAt(rr.FGSM(T, mode="batch", loss="margin"), "kl"),
    rr.weighted(rr.GradientNorm(L2), by=rr.Vulnerability(rr.FGSM(T))),
]


def step(objective: rr.Objective, net: nn.Module, batch: Any) -> tuple[dict[str, Tensor], Tensor, nn.Module]:
    """Values, gradient of the loss and the network after a step, always from the same start."""
    net = copy.deepcopy(net)
    out = objective.detailed(net, *batch, step=3)
    grads = torch.autograd.grad(out.loss, list(net.parameters()))
    return out.values, torch.cat([g.flatten() for g in grads]), net


@pytest.mark.parametrize("extra", EXTRA, ids=lambda t: t.name)
@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_adding_a_term_leaves_the_values_of_the_others(
    extra: rr.Term, first: bool, restless_net: nn.Module, batch: Any
) -> None:
    expected, _, _ = step(BASE, restless_net, batch)
    values, _, _ = step(extra + BASE if first else BASE + extra, restless_net, batch)
    # the added term may have the name of another, which then is numbered: compare in order
    added = list(values.values())[1:] if first else list(values.values())[:-1]
    assert [v.item() for v in added] == [v.item() for v in expected.values()]


@pytest.mark.parametrize("extra", EXTRA, ids=lambda t: t.name)
@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_logging_a_term_changes_no_bit_of_the_step(
    extra: rr.Term, first: bool, restless_net: nn.Module, batch: Any
) -> None:
    for base in (BASE, rr.Objective.of(rr.Perturbed(L2))):
        expected, gradient, net = step(base, restless_net, batch)
        logged = 0 * extra
        values, with_logged, after = step(logged + base if first else base + logged, restless_net, batch)
        kept = list(values.values())[1:] if first else list(values.values())[:-1]
        assert [v.item() for v in kept] == [v.item() for v in expected.values()]
        assert torch.equal(with_logged, gradient)
        assert all(torch.equal(a, b) for a, b in zip(after.buffers(), net.buffers(), strict=True))


@pytest.mark.parametrize("extra", EXTRA, ids=lambda t: t.name)
def test_a_logged_value_is_the_value_it_would_have_with_weight(
    extra: rr.Term, restless_net: nn.Module, batch: Any
) -> None:
    logged, _, _ = step(BASE + 0 * extra, restless_net, batch)
    weighted, _, _ = step(BASE + extra, restless_net, batch)
    assert list(logged.values())[-1].item() == list(weighted.values())[-1].item()


def test_a_term_alone_has_the_value_it_has_in_company(restless_net: nn.Module, batch: Any) -> None:
    together, _, _ = step(BASE, restless_net, batch)
    for (_, term), value in zip(BASE.entries, together.values(), strict=True):
        alone, _, _ = step(rr.Objective.of(term), restless_net, batch)
        assert alone[term.name].item() == value.item()


def test_steps_differ_in_everything_random(restless_net: nn.Module, batch: Any) -> None:
    values = [BASE.detailed(copy.deepcopy(restless_net), *batch, step=i).values for i in range(2)]
    assert all(values[0][name] != values[1][name] for name in BASE.names)


@pytest.mark.parametrize("extra", EXTRA, ids=lambda t: t.name)
def test_the_gradients_of_terms_add_up(extra: rr.Term, restless_net: nn.Module, batch: Any) -> None:
    """Also where an evaluation-mode forward in the loss comes before a training forward that updates statistics."""
    double, (x, y) = restless_net.double(), batch
    data = (x.double(), y)
    _, together, _ = step(extra + BASE, double, data)
    alone = [step(objective, double, data)[1] for objective in (rr.Objective.of(extra), BASE)]
    torch.testing.assert_close(together, alone[0] + alone[1], rtol=0, atol=1e-12)
