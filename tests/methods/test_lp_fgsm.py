"""lp-FGSM as a method and as recipes: what its forms are, what it costs, that it trains."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.attacks.adaptive import LpFGSM, LpNoise
from robustreg.config import RecipeError, build, load_recipe
from robustreg.methods import card_of, lp_fgsm
from robustreg.penalties.gradient import AdaptiveGradientNorm

T = rr.Threat("linf", 0.1)


def test_the_forms() -> None:
    def point(objective: rr.Objective) -> rr.Point:
        ((weight, term),) = objective.entries
        assert isinstance(term, rr.CrossEntropy)
        assert (weight, term.mode) == (1.0, "train")
        return term.at

    assert point(lp_fgsm(T)) == LpFGSM(T, mode="train")
    assert point(lp_fgsm(T, "absolute", tau=0.7, clip="box", mode="eval")) == LpFGSM(
        T, p="absolute", tau=0.7, clip="box"
    )
    assert point(lp_fgsm(T, 16.0)) == LpFGSM(T, p=16.0, mode="train")
    noise = rr.Uniform(T, clip="none")
    assert point(lp_fgsm(T, 16.0, noise=True)) == LpFGSM(T, LpNoise(T, 16.0), noise, p=16.0, mode="train")


@pytest.mark.parametrize("objective", [lp_fgsm(T), lp_fgsm(T, 32.0, noise=True)], ids=["adaptive", "noise"])
def test_two_forwards_and_two_backwards(objective: rr.Objective, restless_net: nn.Module, batch: Any) -> None:
    plan = objective.plan((1, 4, 4), 3)
    passes = (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards)
    assert passes == (2, 1, 1, 0)
    modes: list[bool] = []
    norm = restless_net[1]
    norm.register_forward_hook(lambda m, *_: modes.append(m.training))
    objective(restless_net, *batch).backward()
    assert modes == [True, True]
    assert norm.num_batches_tracked == 2  # the step's forward counts, as in the authors' code


def test_the_loss_is_that_at_the_point(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    loss = lp_fgsm(T, beta=0.1)(smooth_net, x, y)
    z = LpFGSM(T, beta=0.1)(smooth_net, x, y)
    expected = nn.functional.cross_entropy(smooth_net(z), y)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-14)
    found, by_hand = (torch.autograd.grad(value, list(smooth_net.parameters())) for value in (loss, expected))
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-14)  # the point is a constant


def test_the_sign_is_its_limit(smooth_net: nn.Module, double_batch: Any) -> None:
    fgsm = rr.Objective.of(rr.CrossEntropy(at=rr.Steepest(T)))(smooth_net, *double_batch)
    assert torch.equal(lp_fgsm(T, float("inf"))(smooth_net, *double_batch), fgsm)


def test_a_floor_counts_the_entries_that_are_zero() -> None:
    """Sizes 1, 1 and 0 with a floor f: dH in closed form, and q = 1 + beta / dH."""
    f, beta = 1e-3, 0.1
    big, small = (1 + f) / (2 + 3 * f), f / (2 + 3 * f)
    gap = -(2 * math.log(big) + math.log(small)) / 3 + 2 * big * math.log(big) + small * math.log(small)
    g = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    p = LpFGSM(T, beta=beta, floor=f).exponent(g)
    assert float(p) == pytest.approx(1 + gap / beta, rel=1e-12)
    assert float(LpFGSM(T, beta=beta).exponent(g)) == 2.0  # without the zero all are equal
    ((_, term),) = lp_fgsm(T, floor=f).entries
    assert term.at.floor == AdaptiveGradientNorm(T, floor=f)._end(T, 1.0, "train").floor == f
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        LpFGSM(T, floor=-1)


def test_what_it_says() -> None:
    text = str(card_of(lp_fgsm))
    assert card_of(lp_fgsm).name == "lp_fgsm"
    assert all(number.seen for number in card_of(lp_fgsm).published)
    for words in ("arXiv 2505.02360", "q = 1 + beta / dH", "51.33", "equal digit for digit"):
        assert words in text
    with pytest.raises(
        ValueError, match="noise=True is the older code, which needs a number p, got p='relative'"
    ):
        lp_fgsm(T, noise=True)


# -- recipes ---------------------------------------------------------------------------------------------------


def few_steps(objective: rr.Objective, net: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = objective(net, x, y, progress=0.5, step=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("lp_fgsm", []),
        ("lp_fgsm", ["objective.p=absolute", "objective.tau=0.9"]),
        ("lp_fgsm", ["objective.p=32", "objective.noise=true", "objective.clip=box"]),
        ("adaptive_gradient", []),
    ],
)
def test_a_recipe_builds_and_trains(name: str, overrides: list[str]) -> None:
    built = build(load_recipe(name, overrides))
    x, y = torch.rand(16, *built.splits.train.shape), torch.arange(16) % built.splits.train.num_classes
    losses = few_steps(built.objective, built.net, x, y)
    assert losses[-1] < losses[0]  # also refuses NaN


def test_the_options_reach_the_objective() -> None:
    built = build(load_recipe("lp_fgsm", ["objective.p=16", "objective.rescale=true"]))
    ((_, term),) = built.objective.entries
    assert term.at == LpFGSM(built.threat, p=16.0, rescale=True, mode="train")
    (_, (weight, penalty)) = build(load_recipe("adaptive_gradient")).objective.entries
    assert weight == 1.0
    assert penalty == AdaptiveGradientNorm(
        built.threat, p="absolute", tau=0.9, rescale=True, estimator="forward"
    )
    attack = "evaluation.attacks=[{attack: lp_fgsm, p: 8, start: {point: lp_noise, p: 8}, base: uniform}]"
    load_recipe("lp_fgsm", [attack])
    with pytest.raises(
        RecipeError, match="'relative' or 'absolute', but is 'relativ'; did you mean 'relative'"
    ):
        build(load_recipe("lp_fgsm", ["objective.p=relativ"]))
