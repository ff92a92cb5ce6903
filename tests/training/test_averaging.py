from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from robustreg.data import Loader
from robustreg.training import tree
from robustreg.training.averaging import EMA, SWA, batch_norms, bn_update


def recorder(tools):
    class Record(tools.StopAt):
        order = 10

        def __init__(self):
            self.steps, self.epochs = [], []

        def updated(self, trainer):
            self.steps.append([p.detach().clone() for p in trainer.module.net.parameters()])

        def step_end(self, trainer):
            pass

        def epoch_end(self, trainer):
            self.epochs.append(copy.deepcopy(trainer.module.net.state_dict()))

    return Record()


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_its_formula(tools, warmup):
    record = recorder(tools)
    start = [p.detach().clone().double() for p in tools.net().parameters()]
    trainer = tools.trainer((EMA(0.8, warmup), record), steps=7).fit()
    expected = start
    for t, weights in enumerate(record.steps):
        decay = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        expected = [decay * a + (1 - decay) * w.double() for a, w in zip(expected, weights, strict=True)]
    for mine, theirs in zip(trainer.eval_net.parameters(), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-7)


def test_emas_buffers_are_the_live_ones(tools):
    trainer = tools.trainer((EMA(0.9),), steps=3).fit()
    live = trainer.module.net
    for mine, theirs in zip(trainer.eval_net.buffers(), live.buffers(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()


def test_swa_is_the_mean_of_the_epochs_from_its_start_on(tools):
    record = recorder(tools)
    net = tools.net(batch_norm=False)
    trainer = tools.trainer((SWA(2), record), epochs=4, net=net).fit()
    for name, mine in trainer.eval_net.state_dict().items():
        mean = torch.stack([epoch[name].double() for epoch in record.epochs[1:]]).mean(0)
        torch.testing.assert_close(mine.double(), mean, rtol=1e-5, atol=1e-7)


def test_before_its_start_swa_is_the_live_network(tools):
    trainer = tools.trainer((SWA(9, list),), epochs=2).fit()
    assert tree.same(dict(trainer.eval_net.state_dict()), dict(trainer.module.net.state_dict()))


def test_swa_measures_batch_norm_on_its_own_weights(tools):
    inputs = lambda: [x for x, _ in Loader(tools.data(), 8)]  # noqa: E731
    trainer = tools.trainer((SWA(1, inputs),), epochs=3).fit()
    averaged = trainer.eval_net
    first, norm = averaged[0], averaged[1]
    with torch.no_grad():
        outputs = [first(x) for x in inputs()]
    mean = torch.stack([o.mean(dim=(0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    assert not torch.allclose(norm.running_mean, trainer.module.net[1].running_mean)


@pytest.mark.parametrize(
    "average", [lambda tools: EMA(0.9), lambda tools: SWA(1, lambda: [tools.data()[:8][0]])]
)
def test_the_live_network_never_notices(tools, average):
    """Same weights, optimiser and random states with and without averaging."""
    torch.manual_seed(0)
    alone = tools.trainer(epochs=2).fit()
    after = torch.get_rng_state()
    torch.manual_seed(0)
    watched = tools.trainer((average(tools),), epochs=2).fit()
    assert torch.equal(after, torch.get_rng_state())
    for key in ("network", "optimizer", "schedule", "batches", "random"):
        assert tree.same(alone.state_dict()[key], watched.state_dict()[key]), key
    assert watched.module.net.training


def test_bn_update_changes_statistics_and_nothing_else(tools):
    net = tools.net().eval()
    net[1].momentum = 0.3
    net[1].eval()
    before = copy.deepcopy(net)
    bn_update(net, [tools.data()[:8][0], tools.data()[8:16][0]])
    assert not torch.equal(net[1].running_mean, before[1].running_mean)
    assert net[1].num_batches_tracked == 2
    assert net[1].momentum == 0.3
    assert not any(module.training for module in net.modules())
    for mine, theirs in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_bn_update_puts_flags_back_after_an_error(tools):
    net = tools.net().eval()

    def broken():
        yield tools.data()[:8][0]
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        bn_update(net, broken())
    assert net[1].momentum == 0.1
    assert not net[1].training


def test_layers_without_statistics_are_not_batch_norms():
    net = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2), nn.BatchNorm1d(2))
    assert batch_norms(net) == [net[2]]


def test_settings_that_cannot_be(tools):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        EMA(1.0)
    with pytest.raises(ValueError, match="from 1 on, got 0"):
        SWA(0)
    with pytest.raises(ValueError, match="keep one"):
        tools.trainer((EMA(0.9), SWA(1, list)))
    with pytest.raises(ValueError, match="BatchNorm needs inputs"):
        tools.trainer((SWA(1),))
