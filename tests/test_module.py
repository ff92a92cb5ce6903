"""The objective as a module: the same step, carried by any engine."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)
OBJECTIVE = (
    rr.CrossEntropy()
    + 0.3 * rr.GradientNorm(T)
    + rr.Ramp(0, 1) * rr.CrossEntropy(at=rr.PGD(T, 2))
    + 0 * rr.Perturbed(L2)
)


def build(net: nn.Module, **options: Any) -> rr.ObjectiveModule:
    return rr.ObjectiveModule(copy.deepcopy(net), copy.copy(OBJECTIVE), **options)


def gradients(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def test_its_forward_is_the_objective(restless_net: nn.Module, batch: Any) -> None:
    from robustreg.streams import Stream

    module = build(restless_net, seed=7)
    loss = module(*batch, step=3, progress=0.5)
    out = OBJECTIVE.detailed(restless_net, *batch, stream=Stream(7, 3), progress=0.5)
    assert loss == out.loss
    assert module.values == out.values
    loss.backward()
    out.loss.backward()
    assert torch.equal(gradients(module.net), gradients(restless_net))
    assert all(not v.requires_grad for v in module.values.values())


def test_a_single_term_will_do(relu_net: nn.Module, batch: Any) -> None:
    module = rr.ObjectiveModule(relu_net, rr.CrossEntropy())
    assert module(*batch).item() == pytest.approx(F.cross_entropy(relu_net(batch[0]), batch[1]).item())


def test_steps_are_counted_from_the_last_one_named(restless_net: nn.Module, batch: Any) -> None:
    named = [build(restless_net, seed=0)(*batch, step=i, progress=0.5).item() for i in range(6)]
    assert len(set(named)) == 6

    def running(module: nn.Module, step: int | None) -> float:
        module.load_state_dict(start)  # the same statistics every time
        return module(*batch, step=step, progress=0.5).item()

    module = build(restless_net, seed=0)
    start = copy.deepcopy(module.state_dict())
    assert [running(module, i) for i in (None, None, 4, None)] == [named[i] for i in (0, 1, 4, 5)]


def test_seeds_and_ranks_draw_different_numbers(restless_net: nn.Module, batch: Any) -> None:
    options: list[dict[str, int]] = [
        {"seed": 0},
        {"seed": 1},
        {"seed": 0, "rank": 1},
        {"seed": 0, "rank": 2},
        {},
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # what decides where no seed is given
        losses = [build(restless_net, **o)(*batch, step=0, progress=0.5).item() for o in options]
    assert len(set(losses)) == len(losses)
    assert build(restless_net, seed=0)(*batch, step=0, progress=0.5).item() == losses[0]


def test_only_the_network_is_saved(relu_net: nn.Module) -> None:
    module = build(relu_net)
    assert set(module.state_dict()) == {f"net.{name}" for name in relu_net.state_dict()}
    assert [n for n, _ in module.named_parameters()] == [f"net.{n}" for n, _ in relu_net.named_parameters()]
    other = build(nn.Sequential(*[copy.deepcopy(m) for m in relu_net]))
    other.load_state_dict(module.state_dict(), strict=True)


def test_a_saved_state_opens_without_code(relu_net: nn.Module) -> None:
    buffer = io.BytesIO()
    torch.save(build(relu_net).state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_is_on_its_own(copied: Any, used: bool, relu_net: nn.Module, batch: Any) -> None:
    module = build(relu_net, seed=0)
    if used:
        module(*batch, progress=0.5)
    twin = copied(module)
    assert twin(*batch, step=1, progress=0.5).item() == module(*batch, step=1, progress=0.5).item()
    with torch.no_grad():
        twin.net[5].weight.zero_()
        twin.net[5].bias.zero_()
    assert twin(*batch, step=1, progress=0.5).item() != module(*batch, step=1, progress=0.5).item()


def test_its_mode_is_the_networks(restless_net: nn.Module, batch: Any) -> None:
    module = build(restless_net, seed=0).eval()
    before = copy.deepcopy(module.state_dict())
    module(*batch, progress=0.5)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    module.train()(*batch, progress=0.5)
    assert int(module.net[1].num_batches_tracked) > 0


def test_autocast_gives_finite_gradients_near_those_of_float32(relu_net: nn.Module, batch: Any) -> None:
    exact, mixed = build(relu_net, seed=0), build(relu_net, seed=0)
    exact(*batch, progress=0.5).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(*batch, progress=0.5)
    loss.backward()
    assert loss.dtype == torch.float32
    assert gradients(mixed.net).isfinite().all()
    assert float(F.cosine_similarity(gradients(mixed.net), gradients(exact.net), dim=0)) > 0.98


def test_autocast_keeps_the_parameters_gradients_after_an_attack_without_graphs(
    relu_net: nn.Module, batch: Any
) -> None:
    # autocast keeps casts of the weights, and one that was made under no_grad has no way back to the weight
    module = rr.ObjectiveModule(relu_net, rr.CrossEntropy(at=rr.PGD(T, 2, restarts=2)), seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            relu_net(batch[0])
        module(*batch).backward()
    assert all((p.grad != 0).any() for p in relu_net.parameters())


def test_training_with_it_reaches_the_objective(batch: Any, relu_net: nn.Module) -> None:
    module = rr.ObjectiveModule(relu_net, rr.methods.gradient_family(T, "penalty"), seed=0)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = module(*batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
