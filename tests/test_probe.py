"""The probe: everything asked of a batch is computed once, under a stated mode, and shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


def probe_of(model: Any, batch: Any, step: int = 0, **options: Any) -> Probe:
    x, y = batch
    return Probe(model, x, y, stream=Stream(0, step), **options)


def counted(probe: Probe) -> tuple[int, int]:
    kinds = [p.kind for p in probe.passes]
    return kinds.count("forward"), kinds.count("input backward")


# -- values --------------------------------------------------------------------------------------------------


def test_logits_loss_and_gradient_are_plain_pytorch(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    probe = probe_of(smooth_net, double_batch)
    u = x.clone().requires_grad_()
    losses = F.cross_entropy(smooth_net(u), y, reduction="none")
    (g,) = torch.autograd.grad(losses.sum(), u)
    torch.testing.assert_close(probe.logits(), smooth_net(x), rtol=0, atol=0)
    torch.testing.assert_close(probe.loss(), losses, rtol=0, atol=0)
    torch.testing.assert_close(probe.grad(), g, rtol=0, atol=1e-15)


def test_the_gradient_is_of_each_samples_own_loss_whatever_the_batch_size(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    whole = probe_of(smooth_net, double_batch).grad()
    one_by_one = torch.cat([probe_of(smooth_net, (x[i : i + 1], y[i : i + 1])).grad() for i in range(6)])
    torch.testing.assert_close(whole, one_by_one, rtol=0, atol=1e-14)


def test_only_a_differentiable_gradient_carries_a_graph(smooth_net: nn.Module, double_batch: Any) -> None:
    probe = probe_of(smooth_net, double_batch)
    assert not probe.grad().requires_grad
    assert probe.grad(differentiable=True).requires_grad
    assert not probe.grad().requires_grad
    assert torch.equal(probe.grad(), probe.grad(differentiable=True).detach())


def test_low_precision_logits_are_raised_to_float32(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    model = relu_net.bfloat16()
    probe = probe_of(model, (x.bfloat16(), y))
    assert probe.logits().dtype == torch.float32
    assert probe.loss().dtype == torch.float32
    assert probe.grad().dtype == torch.bfloat16


def test_kl_is_from_the_clean_prediction_held_constant(smooth_net: nn.Module, double_batch: Any) -> None:
    probe = probe_of(smooth_net, (double_batch[0], None))
    point = rr.Uniform(T)
    values = probe.loss(point, "kl", "eval")
    expected = numerics.kl(smooth_net(double_batch[0]).detach(), smooth_net(probe.at(point)))
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-14)
    parameters = list(smooth_net.parameters())
    for a, b in zip(
        torch.autograd.grad(values.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_points_are_constants_even_if_their_rule_keeps_a_graph(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    class Leaky(rr.Point):
        def locate(self, probe: Probe) -> Tensor:
            return probe.x + probe.logits().mean()

    assert not probe_of(smooth_net, double_batch).at(Leaky()).requires_grad


@dataclass(frozen=True)
class Drift:
    """A loss of the logits here and at the clean sample: what a user writes for a loss that looks around."""

    reads_labels = False

    def bind(self, probe: Probe, mode: Any) -> Any:
        clean = probe.logits(mode=mode).detach()
        return lambda logits, rows: (logits - (clean if rows is None else clean[rows])).square().sum(1)


def test_a_loss_may_look_at_more_than_logits_and_labels(smooth_net: nn.Module, double_batch: Any) -> None:
    x, _ = double_batch
    probe = probe_of(smooth_net, (x, None))
    point = rr.Uniform(T)
    expected = (smooth_net(probe.at(point)) - smooth_net(x)).square().sum(1)
    torch.testing.assert_close(probe.loss(point, Drift(), "eval"), expected, rtol=0, atol=1e-14)
    attack = rr.PGD(T, 3, loss=Drift())
    assert not attack.reads_labels
    moved = (smooth_net(attack(smooth_net, x)) - smooth_net(x)).square().sum(1)
    assert (moved > expected).float().mean() > 0.5


def test_a_product_with_the_jacobian_is_the_derivative_of_the_logits(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, _ = double_batch
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    probe = probe_of(smooth_net, (x, None))
    product = probe.jvp(direction)
    _, expected = torch.autograd.functional.jvp(smooth_net, x, direction)
    torch.testing.assert_close(product, expected.detach(), rtol=0, atol=1e-14)
    assert not product.requires_grad
    assert counted(probe) == (1, 2)


def test_normal_numbers_are_named_by_their_key(relu_net: nn.Module, batch: Any) -> None:
    probe = probe_of(relu_net, batch)
    draws = [probe.normal((2, 3), "a"), probe.normal((2, 3), "b"), probe.normal((3, 2), "a")]
    draws.append(probe_of(relu_net, batch, step=1).normal((2, 3), "a"))
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 4
    assert torch.equal(probe_of(relu_net, batch).normal((2, 3), "a"), draws[0])


# -- sharing -------------------------------------------------------------------------------------------------


def test_what_is_asked_twice_is_computed_once(relu_net: nn.Module, batch: Any) -> None:
    probe = probe_of(relu_net, batch)
    for _ in range(2):
        probe.grad()
        probe.grad(loss="margin")
        probe.loss()
        probe.logits()
        probe.at(rr.Steepest(T, mode="train"))
    assert counted(probe) == (1, 2)


def test_modes_are_different_things(restless_net: nn.Module, batch: Any) -> None:
    probe = probe_of(restless_net, batch)
    assert not torch.equal(probe.logits(mode="train"), probe.logits(mode="eval"))
    assert counted(probe) == (2, 0)


def test_training_serves_batch_requests_that_come_after_it(restless_net: nn.Module, batch: Any) -> None:
    probe = probe_of(restless_net, batch)
    assert probe.logits(mode="train") is probe.logits(mode="batch")
    assert counted(probe) == (1, 0)


def test_batch_mode_has_the_bits_of_training_mode(restless_net: nn.Module, batch: Any) -> None:
    point = rr.Uniform(T)
    quiet = probe_of(restless_net, batch).logits(point, "batch")
    assert torch.equal(quiet, probe_of(restless_net, batch).logits(point, "train"))


def test_an_unforeseen_gradient_runs_again_and_changes_no_bit_and_no_statistic(
    restless_net: nn.Module, batch: Any
) -> None:
    probe = probe_of(restless_net, batch)
    first = probe.logits()
    statistics = [b.clone() for b in restless_net.buffers()]
    probe.grad()
    assert counted(probe) == (2, 1)
    assert torch.equal(probe.logits(), first)
    assert all(torch.equal(a, b) for a, b in zip(statistics, restless_net.buffers(), strict=True))
    probe.grad(differentiable=True)
    probe.logits()
    assert counted(probe) == (2, 2)


def test_who_asked_is_kept(relu_net: nn.Module, batch: Any) -> None:
    probe = probe_of(relu_net, batch)
    for asking in ("a", "b", "b"):
        probe.asking = asking
        probe.logits()
    assert [p.asked_by for p in probe.passes] == [["a", "b"]]


# -- states --------------------------------------------------------------------------------------------------


def number_of_updates(net: nn.Module) -> list[int]:
    return [
        int(m.num_batches_tracked) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]


def test_statistics_are_updated_once_for_each_training_forward(restless_net: nn.Module, batch: Any) -> None:
    probe = probe_of(restless_net, batch)
    for _ in range(2):
        probe.logits(mode="eval")
        probe.logits(mode="batch")
        probe.grad(mode="batch")
        probe.grad(mode="eval", loss="margin")
        probe.at(rr.PGD(T, 2))
        probe.at(rr.PGD(T, 2, mode="batch"))
    assert number_of_updates(restless_net) == [0, 0]
    for _ in range(2):
        probe.logits(mode="train")
        probe.loss(rr.Uniform(T), mode="train")
    assert number_of_updates(restless_net) == [2, 2]


def test_a_training_forward_updates_as_plain_training_does(restless_net: nn.Module, batch: Any) -> None:
    import copy

    plain = copy.deepcopy(restless_net)
    probe_of(restless_net, batch).loss()
    plain(batch[0])
    assert torch.equal(restless_net[1].running_mean, plain[1].running_mean)
    assert torch.equal(restless_net[1].running_var, plain[1].running_var)


def test_while_observing_nothing_is_updated_and_nothing_gets_a_graph(
    restless_net: nn.Module, batch: Any
) -> None:
    probe = probe_of(restless_net, batch)
    with torch.no_grad(), probe.observing():
        probe.loss()
        probe.at(rr.PGD(T, 2, mode="train"))
        assert not probe.grad(differentiable=True).requires_grad
    assert number_of_updates(restless_net) == [0, 0]
    assert probe.asked.input_graph == probe.asked.differentiable == probe.asked.train == set()


# -- dropout -------------------------------------------------------------------------------------------------


@pytest.fixture
def masks() -> nn.Module:
    """A network whose logits show its dropout masks."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5))


def ones() -> tuple[Tensor, Tensor]:
    return torch.ones(4, 32), torch.tensor([0, 1, 2, 3])


def test_masks_differ_between_steps_and_points_and_samples(masks: nn.Module) -> None:
    at = rr.Uniform(T, scale=0)
    probe = probe_of(masks, ones())
    seen = [probe.logits(), probe.logits(at), probe_of(masks, ones(), step=1).logits()]
    assert len({tuple(z.flatten().tolist()) for z in seen}) == 3
    assert len({tuple(z.tolist()) for z in seen[0]}) == 4
    assert torch.equal(probe_of(masks, ones()).logits(), seen[0])


def test_masks_may_be_shared(masks: nn.Module) -> None:
    probe = probe_of(masks, ones())
    clean, other = rr.Clean(), rr.Uniform(T, scale=0)
    assert torch.equal(probe.logits(other, dropout_of=clean), probe.logits())
    assert not torch.equal(probe.logits(other), probe.logits())
    assert probe.logits(clean, dropout_of=clean) is probe.logits()


def test_an_average_is_that_of_its_runs(masks: nn.Module) -> None:
    x, y = ones()
    probe, weights = probe_of(masks, (x, y)), []
    masks.register_forward_hook(lambda _, given, out: weights.append(out.detach()))
    logits, losses, g = probe.average(x, None, "ce", "train", 3, "draws", point=rr.Clean())
    assert counted(probe) == (3, 3)
    assert len({tuple(run.flatten().tolist()) for run in logits}) == 3, "each run has masks of its own"
    assert all(torch.equal(run, seen) for run, seen in zip(logits, weights, strict=True))
    torch.testing.assert_close(
        losses, torch.stack([numerics.cross_entropy(run, y) for run in logits]).mean(0)
    )
    # once more, run by run: the same stream gives the same masks in the same order
    (first,), _, slope = probe.average(x, None, "ce", "train", 1, "draws", point=rr.Clean())
    assert torch.equal(first, logits[0])
    assert g is not None
    assert slope is not None
    assert not torch.equal(g, slope)
    _, losses, g = probe.average(x, None, "ce", "train", 3, "draws", point=rr.Clean(), gradient=False)
    assert g is None
    assert not losses.requires_grad


def test_the_gradient_of_an_average(smooth_net: nn.Module, double_batch: Any) -> None:
    """Of a network that draws nothing it is the gradient itself."""
    x, _ = double_batch
    probe = probe_of(smooth_net, double_batch)
    _, losses, g = probe.average(x, None, "ce", "eval", 4, point=rr.Clean())
    torch.testing.assert_close(g, probe.grad(rr.Clean(), "ce", "eval"))
    torch.testing.assert_close(losses, probe.loss(rr.Clean(), "ce", "eval"))


def test_masks_of_an_attacks_steps_differ(masks: nn.Module) -> None:
    seen: list[Tensor] = []
    masks.register_forward_hook(lambda *args: seen.append((args[2] > 0).float()))
    probe_of(masks, ones()).at(rr.PGD(T, 3, mode="batch"))
    assert len(seen) == 3
    assert len({tuple(m.flatten().tolist()) for m in seen}) == 3


# -- bad networks and batches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "sentence"),
    [
        (lambda u: (u, u), TypeError, r"must return logits \[B, C\] as one tensor, but returned a tuple"),
        (lambda u: {"logits": u}, TypeError, "but returned a dict"),
        (lambda u: u, ValueError, r"must return logits \[B, C\] with B = 6, but returned \[6, 1, 4, 4\]"),
        (lambda u: u.flatten(1)[:2], ValueError, r"with B = 6, but returned \[2, 16\]"),
        (lambda u: u.sum(), ValueError, r"but returned \[\]"),
    ],
)
def test_a_network_that_does_not_give_logits_is_refused(
    model: Callable[[Tensor], Any], error: type[Exception], sentence: str, batch: Any
) -> None:
    with pytest.raises(error, match=sentence):
        probe_of(model, batch).logits()


def test_what_is_not_there_is_named(relu_net: nn.Module, batch: Any) -> None:
    probe = probe_of(relu_net, (batch[0], None))
    probe.asking = "my_term"
    with pytest.raises(ValueError, match="my_term needs labels, but y is None"):
        probe.loss()
    with pytest.raises(ValueError, match="my_term needs a threat, but none was given"):
        probe.required_threat()


def test_labels_beyond_the_classes_are_refused(relu_net: nn.Module, batch: Any) -> None:
    with pytest.raises(
        ValueError, match=r"labels run up to 3, but the model has 3 classes: labels must lie in 0\.\.2"
    ):
        probe_of(relu_net, (batch[0], batch[1] + 1)).loss()


def test_the_callers_tensor_is_never_part_of_a_graph(relu_net: nn.Module, batch: Any) -> None:
    x = batch[0].requires_grad_()
    probe = probe_of(relu_net, (x, batch[1]))
    probe.grad(differentiable=True).sum().backward()
    assert x.grad is None
