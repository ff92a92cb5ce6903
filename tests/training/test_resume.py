"""n steps = k steps + resume + n - k steps, bit for bit on the CPU."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from robustreg import CrossEntropy
from robustreg.data import Loader
from robustreg.training import checkpoint, tree
from robustreg.training.averaging import EMA, SWA
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.clipping import ClipGradients
from robustreg.training.logging import MetricsLog
from robustreg.training.validation import Validation


class NoisyNet(nn.Module):
    """Draws from every global random state, as a user's network may."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        noise = random.random() + np.random.rand() + torch.rand(()).item() if self.training else 0.0
        return self.net(x) * (1 + 0.01 * noise)


def handlers(tools, folder, averaging, every=0):
    attack = lambda model, x, y, generator: (x + 0.05 * torch.rand(x.shape, generator=generator)).clamp(0, 1)  # noqa: E731
    return (
        MetricsLog(folder / "metrics.csv"),
        Validation(tools.data(30, seed=5), attack, path=folder / "validation.csv"),
        Checkpoint(folder / "checkpoints", every),
        ClipGradients(1.0),
        *averaging(),
    )


def swa_inputs(tools):
    return lambda: (x for x, _ in Loader(tools.data(), 8))


OPTIMIZERS = {
    "sgd": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "adam": {"name": "adam", "lr": 0.01, "amsgrad": True},
    "adamw": {"name": "adamw", "lr": 0.01},
}
SCHEDULES = {
    "sgd": {"name": "cosine", "warmup": 0.2, "momentum": [0.5, 0.9]},
    "adam": {"name": "onecycle", "momentum": [0.8, 0.95]},
    "adamw": {"name": "multistep", "milestones": [1, 2]},
}


def assert_same_state(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    for key in mine:
        assert tree.same(mine[key], theirs[key]), key


@pytest.mark.parametrize(("name", "stop"), [("sgd", 1), ("sgd", 3), ("sgd", 5), ("adam", 8), ("adamw", 12)])
def test_interrupted_equals_uninterrupted(tools, tmp_path, name, stop):
    """Mid-epoch and at an epoch's end, with dropout, BatchNorm, augmentation, random points and EMA."""
    settings = {"optimizer": OPTIMIZERS[name], "schedule": SCHEDULES[name], "epochs": 3}

    def build(folder, *more):
        net = NoisyNet(tools.net())
        return tools.trainer((*handlers(tools, folder, lambda: [EMA(0.9)]), *more), net=net, **settings)

    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    whole = build(tmp_path / "whole").fit()

    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    first = build(tmp_path / "parts", tools.StopAt(stop)).fit()
    assert first.status == "interrupted"
    tools.scramble()
    second = build(tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "checkpoints" / "last")
    assert second.step == stop
    second.fit()

    assert_same_state(whole, second)
    assert tree.same(whole.eval_net.state_dict(), second.eval_net.state_dict())
    assert not tree.same(whole.eval_net.state_dict(), whole.module.net.state_dict())
    for file in ("metrics.csv", "validation.csv"):
        assert tools.rows(tmp_path / "whole" / file) == tools.rows(tmp_path / "parts" / file), file
    assert len(tools.rows(tmp_path / "parts" / "metrics.csv")) == 15
    assert len(tools.rows(tmp_path / "parts" / "validation.csv")) == 3


@pytest.mark.parametrize("stop", [10, 13])
def test_swa_resumes(tools, tmp_path, stop):
    def build(folder, *more):
        average = lambda: [SWA(2, swa_inputs(tools))]  # noqa: E731
        return tools.trainer((*handlers(tools, folder, average), *more), epochs=3)

    torch.manual_seed(0)
    whole = build(tmp_path / "whole").fit()
    torch.manual_seed(0)
    build(tmp_path / "parts", tools.StopAt(stop)).fit()
    tools.scramble()
    second = build(tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "checkpoints" / "last")
    second.fit()
    assert_same_state(whole, second)
    for file in ("metrics.csv", "validation.csv"):
        assert tools.rows(tmp_path / "whole" / file) == tools.rows(tmp_path / "parts" / file), file


class Noisy(Dataset):
    """Augments at random from the global states, sample by sample, as many data sets do."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return (x + 0.1 * torch.rand(()) + 0.1 * random.random()).clamp(0, 1), y


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_data_loader_is_replayed_to_its_place(tools, tmp_path, own_generator):
    """A torch DataLoader cannot save its place; the resumed run still gets the very same batches."""

    def build(*more):
        generator = torch.Generator().manual_seed(4) if own_generator else None
        loader = DataLoader(Noisy(tools.data()), batch_size=8, shuffle=True, generator=generator)
        return tools.trainer(
            (Checkpoint(tmp_path), *more), net=NoisyNet(tools.net()), loader=loader, epochs=3
        )

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    whole = build().fit()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    build(tools.StopAt(8)).fit()
    tools.scramble()
    second = build()
    checkpoint.resume(second, tmp_path / "last")
    second.fit()
    assert tree.same(whole.module.net.state_dict(), second.module.net.state_dict())
    assert tree.same(whole.optimizer.state_dict(), second.optimizer.state_dict())


def test_after_a_crash_rows_beyond_the_checkpoint_are_written_once(tools, tmp_path):
    """A kill leaves rows of steps that the checkpoint does not know: they are dropped and written again."""

    class Kill(RuntimeError):
        pass

    class KillAt(tools.StopAt):
        def step_end(self, trainer):
            if trainer.step == self.step:
                raise Kill

    def build(folder, *more):
        return tools.trainer((*handlers(tools, folder, lambda: [EMA(0.9)], every=4), *more))

    torch.manual_seed(0)
    build(tmp_path / "whole").fit()
    torch.manual_seed(0)
    with pytest.raises(Kill):
        build(tmp_path / "parts", KillAt(11)).fit()
    assert tools.rows(tmp_path / "parts" / "metrics.csv")[-1]["step"] == "11"
    tools.scramble()
    second = build(tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "checkpoints" / "last")
    assert second.step == 10
    second.fit()
    for file in ("metrics.csv", "validation.csv"):
        assert tools.rows(tmp_path / "whole" / file) == tools.rows(tmp_path / "parts" / file), file


def test_a_stop_between_the_last_step_of_an_epoch_and_its_end(tools, tmp_path):
    """`last` written by step at the epoch's last batch: the resumed run owes the epoch's end, once."""

    class Kill(RuntimeError):
        pass

    class KillAtEpochEnd(tools.StopAt):
        order = 35  # after validation wrote its row, before the checkpoint

        def step_end(self, trainer):
            pass

        def epoch_end(self, trainer):
            if trainer.step == self.step:
                raise Kill

    def build(folder, *more):
        return tools.trainer((*handlers(tools, folder, list, every=5), *more))

    torch.manual_seed(0)
    whole = build(tmp_path / "whole").fit()
    torch.manual_seed(0)
    with pytest.raises(Kill):
        build(tmp_path / "parts", KillAtEpochEnd(10)).fit()
    second = build(tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "checkpoints" / "last")
    assert (second.step, second.epoch, second.batches.position) == (10, 1, 5)
    second.fit()
    assert_same_state(whole, second)
    assert tools.rows(tmp_path / "whole" / "validation.csv") == tools.rows(
        tmp_path / "parts" / "validation.csv"
    )


def test_a_finished_run_resumes_to_nothing(tools, tmp_path):
    tools.trainer(handlers(tools, tmp_path, list), epochs=1).fit()
    before = (tmp_path / "metrics.csv").read_text(), (tmp_path / "validation.csv").read_text()
    again = tools.trainer(handlers(tools, tmp_path, list), epochs=1)
    checkpoint.resume(again, tmp_path / "checkpoints" / "last")
    again.fit()
    assert again.status == "finished"
    assert ((tmp_path / "metrics.csv").read_text(), (tmp_path / "validation.csv").read_text()) == before


def test_the_seed_comes_back_where_none_was_given(tools, tmp_path):
    torch.manual_seed(123)
    tools.trainer((Checkpoint(tmp_path), tools.StopAt(2)), seed=None).fit()
    torch.manual_seed(99)
    second = tools.trainer((Checkpoint(tmp_path),), seed=None)
    checkpoint.resume(second, tmp_path / "last")
    assert second.module.seed == 123


def test_the_objectives_state_comes_back(tools, tmp_path):
    class Counting(CrossEntropy):
        calls = 0

        def __call__(self, probe):
            type(self).calls += 1
            return super().__call__(probe)

        def state_dict(self):
            return {"calls": self.calls}

        def load_state_dict(self, state):
            type(self).calls = state["calls"]

    tools.trainer((Checkpoint(tmp_path), tools.StopAt(3)), objective=Counting()).fit()
    counted = Counting.calls
    assert counted >= 3
    Counting.calls = 0
    checkpoint.resume(tools.trainer((Checkpoint(tmp_path),), objective=Counting()), tmp_path / "last")
    assert Counting.calls == counted
