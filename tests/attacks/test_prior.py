"""FGSM-PGI's start and step: what is remembered of each sample, written down once more in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import PriorStart, PriorStep
from robustreg.attacks.prior import Perturbations, Prior
from robustreg.attacks.single_step import Rademacher
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


class ByHand:
    """The authors' loop with per-sample tables, for a network in float64."""

    def __init__(self, net: nn.Module, n: int, shape: tuple[int, ...], prior: Prior, reset: int) -> None:
        self.net, self.prior, self.reset = net, prior, reset
        self.delta = np.zeros((n, *shape))
        self.momentum = np.zeros((n, *shape))
        self.visits = np.zeros(n, dtype=int)

    def step(self, x: Tensor, y: Tensor, index: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The start and the end of a step at samples ``x``; the tables move on."""
        point = Rademacher(T, 0, 1.0, "none")
        signs = point.draw(x, Stream(0, step).generator("cpu", "draw", point.key)).numpy()
        where = index if self.prior != "batch" else np.arange(len(index))
        if self.prior != "batch":
            self.visits[where] %= self.reset
        new = (self.visits[where] == 0).reshape(-1, 1, 1, 1)
        eta = np.where(new, 0.1 * signs, self.delta[where])
        momentum = np.where(new, 0, self.momentum[where])
        u = (x + torch.from_numpy(eta)).requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(self.net(u), y), u)[0].numpy()
        momentum = g / np.abs(g).sum() + 0.3 * momentum
        low, high = np.maximum(-0.1, -x.numpy()), np.minimum(0.1, 1 - x.numpy())
        delta = np.clip(eta + 0.1 * np.sign(g), low, high)
        following = np.clip(eta + 0.1 * np.sign(momentum), low, high)
        self.delta[where] = following if self.prior == "momentum" else delta
        self.momentum[where] = momentum
        self.visits[where] += 1
        return x.numpy() + eta, x.numpy() + delta


@pytest.mark.parametrize("prior", ["momentum", "epoch", "batch"])
def test_several_epochs_are_those_of_the_authors_loop(prior: Prior, smooth_net: nn.Module) -> None:
    g = torch.Generator().manual_seed(5)
    data, labels = torch.rand(7, 1, 4, 4, generator=g, dtype=torch.float64), torch.arange(7) % 3
    start = PriorStart(T, prior, 3)
    point = PriorStep(T, start)
    objective = rr.Objective.of(rr.CrossEntropy(at=point))
    hand = ByHand(smooth_net, 7, (1, 4, 4), prior, 3)
    for step in range(16):  # eight epochs of two batches: every sample is forgotten twice
        order = torch.randperm(7, generator=torch.Generator().manual_seed(step // 2))
        index = order[:4] if step % 2 == 0 else order[4:]
        x, y = data[index], labels[index]
        eta, end = hand.step(x, y, index.numpy(), step)
        probe = rr.Probe(smooth_net, x, y, stream=Stream(0, step), index=index)
        np.testing.assert_allclose(probe.at(start).numpy(), eta, rtol=0, atol=1e-14)
        np.testing.assert_allclose(probe.at(point).numpy(), end, rtol=0, atol=1e-14)
        loss = objective(smooth_net, x, y, stream=Stream(0, step), index=index)
        with torch.no_grad():
            for p, d in zip(
                smooth_net.parameters(),
                torch.autograd.grad(loss, list(smooth_net.parameters())),
                strict=True,
            ):
                p.sub_(0.3 * d)
    assert start.memory.deltas is not None
    held = len(start.memory.deltas)
    assert held == (4 if prior == "batch" else 7)
    np.testing.assert_allclose(start.memory.deltas.numpy(), hand.delta[:held], rtol=0, atol=1e-14)


def test_momentum_and_plain_priors_differ(smooth_net: nn.Module, double_batch: Any) -> None:
    ends = []
    for prior in ("momentum", "epoch"):
        point = PriorStep(T, PriorStart(T, prior), decay=1.0)  # type: ignore[arg-type]
        objective = rr.Objective.of(rr.CrossEntropy(at=point))
        for step in range(4):
            objective(smooth_net, *double_batch, step=step, index=torch.arange(6))
            with torch.no_grad():
                for p in smooth_net.parameters():
                    p.neg_()  # turns the gradients round
        ends.append(point.start.memory.deltas)
    assert not torch.equal(*ends)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_stays_within_the_threat(norm: str, relu_net: nn.Module, batch: Any) -> None:
    threat = rr.Threat(norm, 0.3)
    point = PriorStep(threat, PriorStart(threat, clip="box"))
    objective = rr.Objective.of(rr.CrossEntropy(at=point))
    for step in range(5):
        objective(relu_net, *batch, step=step, index=torch.arange(6))
        probe = rr.Probe(relu_net, *batch, stream=Stream(0, step + 1), index=torch.arange(6))
        for where in (point, point.start):
            assert threat.contains(probe.at(where), batch[0]).all()


def test_the_memory_grows_and_is_a_copy() -> None:
    memory = Perturbations()
    rows, index = torch.arange(8.0).reshape(2, 4), torch.tensor([5, 1])
    memory.keep(index, rows, None, torch.ones(2, dtype=torch.long))
    assert memory.deltas is not None
    assert memory.deltas.shape == (6, 4)
    assert memory.momenta is None
    delta, momentum, visits = memory.recall(torch.tensor([1, 0, 5, 11]), torch.zeros(4, 4))
    assert torch.equal(delta, torch.stack([rows[1], torch.zeros(4), rows[0], torch.zeros(4)]))
    assert (momentum == 0).all()
    assert visits.tolist() == [1, 0, 1, 0]
    other = Perturbations()
    other.load_state_dict(memory.state_dict())
    other.keep(torch.tensor([8]), rows[:1], rows[:1], torch.ones(1, dtype=torch.long))
    assert memory.deltas.shape == (6, 4)
    assert other.deltas is not None
    assert other.deltas.shape == (9, 4)
    assert torch.equal(other.deltas[:6], memory.deltas)
    assert other.state_dict()["momenta"].shape == (9, 4)
    other.load_state_dict({})
    assert other.state_dict() == {}


def test_samples_of_another_shape_start_anew() -> None:
    memory = Perturbations()
    memory.keep(torch.tensor([0]), torch.ones(1, 4), None, torch.ones(1, dtype=torch.long))
    _, _, visits = memory.recall(torch.tensor([0]), torch.zeros(1, 5))
    assert visits.tolist() == [0]
    memory.keep(torch.tensor([1]), torch.ones(1, 5), None, torch.ones(1, dtype=torch.long))
    assert memory.deltas is not None
    assert memory.deltas.shape == (2, 5)


def test_a_smaller_and_a_larger_batch_share_rows(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    point = PriorStep(T, PriorStart(T, "batch"))
    objective = rr.Objective.of(rr.CrossEntropy(at=point))
    objective(smooth_net, x[:2], y[:2], step=0)
    before = point.start.memory.deltas.clone()  # type: ignore[union-attr]
    found = rr.Probe(smooth_net, x, y, stream=Stream(0, 1)).at(point.start) - x
    torch.testing.assert_close(found[:2], before)
    torch.testing.assert_close(found[2:].abs(), torch.full_like(found[2:], 0.1))


def test_the_samples_must_be_known(smooth_net: nn.Module, double_batch: Any) -> None:
    step = PriorStep(T, PriorStart(T))
    objective = rr.Objective.of(rr.CrossEntropy(at=step))
    assert step.reads_index
    assert not PriorStep(T, PriorStart(T, "batch")).reads_index
    with pytest.raises(ValueError, match="remembers something of every sample"):
        rr.Probe(smooth_net, *double_batch, stream=Stream(0)).at(step)
    with pytest.raises(ValueError, match="index"):
        (objective + rr.penalties.Consistency(step))(smooth_net, *double_batch)


def test_as_an_attack_it_notes_nothing(smooth_net: nn.Module, double_batch: Any) -> None:
    step = PriorStep(T, PriorStart(T, "batch"))
    assert T.contains(step(smooth_net, *double_batch), double_batch[0]).all()
    assert step.start.memory.deltas is None


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: PriorStart(T, "last"), "prior must be 'momentum', 'epoch' or 'batch'"),  # type: ignore[arg-type]
        (lambda: PriorStart(T, reset=0), "reset is a number of visits"),
        (lambda: PriorStep(T, PriorStart(T), decay=1.5), "decay is a factor per visit"),
        (lambda: PriorStart(T, clip="ball"), "clip must be one of"),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_refused(build: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
