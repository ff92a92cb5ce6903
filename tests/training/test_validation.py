from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from robustreg.attacks import PGD
from robustreg.training import tree
from robustreg.training.averaging import EMA
from robustreg.training.validation import Validation, correct


def shift(model, x, y, generator):
    return (x + 0.3).clamp(0, 1)


class Threshold(nn.Module):
    """Class 1 where the mean exceeds 0.5."""

    def forward(self, x):
        m = x.flatten(1).mean(1)
        return torch.stack([0.5 - m, m - 0.5], dim=1)


def test_a_sample_counts_as_robust_only_if_clean_and_attacked_are_right():
    x = torch.tensor([0.1, 0.4, 0.6, 0.4]).reshape(4, 1)
    y = torch.tensor(
        [0, 0, 1, 1]
    )  # right and robust; right and fooled; right and robust; wrong, "fixed" by the shift
    result = correct(Threshold(), x, y, shift, torch.Generator())
    assert result.tolist() == [[1, 1, 1, 0], [1, 0, 1, 0]]


def test_scores_and_rows(tools, tmp_path):
    data = tools.data(30, seed=9)
    handler = Validation(data, PGD(tools.threat, steps=2), batch_size=7, path=tmp_path / "validation.csv")
    trainer = tools.trainer((handler,), epochs=2).fit()
    rows = tools.rows(tmp_path / "validation.csv")
    assert list(rows[0]) == ["epoch", "step", "clean", "robust"]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "5"), ("2", "10")]
    net = trainer.module.net.eval()
    x, y = data[:]
    assert (
        float(rows[-1]["clean"]) == (net(x).argmax(1) == y).double().mean().item() == trainer.scores["clean"]
    )
    assert 0 <= float(rows[-1]["robust"]) <= float(rows[-1]["clean"])


def test_every_k_epochs_and_always_at_the_end(tools, tmp_path):
    handler = Validation(tools.data(12), None, every=2, path=tmp_path / "v.csv")
    tools.trainer((handler,), epochs=5).fit()
    assert [row["epoch"] for row in tools.rows(tmp_path / "v.csv")] == ["2", "4", "5"]
    assert tools.rows(tmp_path / "v.csv")[0]["robust"] == ""


def test_the_averaged_network_is_measured(tools):
    handler = Validation(tools.data(30), None)
    trainer = tools.trainer((handler, EMA(0.99, warmup=False)), epochs=1).fit()
    x, y = tools.data(30)[:]
    expected = (trainer.eval_net(x).argmax(1) == y).double().mean().item()
    live = (trainer.module.net.eval()(x).argmax(1) == y).double().mean().item()
    assert trainer.scores["clean"] == expected != live


def test_training_does_not_notice(tools):
    """Weights, BatchNorm statistics, modes and random states are those of a run without validation."""
    torch.manual_seed(0)
    alone = tools.trainer(epochs=2).fit()
    torch.manual_seed(0)
    watched = tools.trainer((Validation(tools.data(12), PGD(tools.threat, steps=2)),), epochs=2).fit()
    for key in ("network", "optimizer", "random", "batches"):
        assert tree.same(alone.state_dict()[key], watched.state_dict()[key]), key
    assert watched.module.net.training


def test_the_attack_starts_alike_each_time(tools):
    draws = []

    def attack(model, x, y, generator):
        draws.append(torch.rand(3, generator=generator))
        return x

    net = tools.net()
    with torch.no_grad():  # right about class 0 at least, so that there is something to attack
        net[5].bias[0] = 100.0
    tools.trainer(
        (Validation(tools.data(12), attack),), epochs=2, net=net, optimizer={"name": "sgd", "lr": 1e-6}
    ).fit()
    assert len(draws) == 2
    assert torch.equal(draws[0], draws[1])


def test_a_torch_dataset_will_do(tools):
    x, y = tools.data(12)[:]
    trainer = tools.trainer((Validation(TensorDataset(x, y), None),), epochs=1).fit()
    assert 0 <= trainer.scores["clean"] <= 1


def test_settings_that_cannot_be(tools):
    with pytest.raises(ValueError, match="number of samples must be at least 1"):
        Validation(TensorDataset(torch.zeros(0, 1)), None)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Validation(tools.data(12), None, every=0)
