from __future__ import annotations

import importlib.util

import pytest
from lightning_fabric.loggers.logger import Logger

from robustreg.training import loggers
from robustreg.training.loggers import build_logger
from robustreg.training.logging import MetricsLog
from robustreg.training.validation import Validation


class Memory(Logger):
    name, version = "memory", 0

    def __init__(self):
        self.sent, self.ended = [], None

    def log_metrics(self, metrics, step=None):
        self.sent.append((step, metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def finalize(self, status):
        self.ended = status


def test_a_row_holds_the_step_as_it_was(tools, tmp_path):
    seen = []

    class Watch(tools.StopAt):
        def gradients(self, trainer):
            seen.append((trainer.optimizer.param_groups[0]["lr"], trainer.loss.item(), dict(trainer.values)))

        def step_end(self, trainer):
            pass

    tools.trainer((MetricsLog(tmp_path / "metrics.csv"), Watch(0)), epochs=2).fit()
    rows = tools.rows(tmp_path / "metrics.csv", without=())
    assert list(rows[0]) == [
        "step", "epoch", "lr", "loss", "cross_entropy", "gradient_norm", "cross_entropy#2", "seconds",
    ]  # fmt: skip
    assert [row["step"] for row in rows] == [str(i) for i in range(1, 11)]
    assert [row["epoch"] for row in rows] == ["1"] * 5 + ["2"] * 5
    for row, (lr, loss, values) in zip(rows, seen, strict=True):
        assert (float(row["lr"]), float(row["loss"])) == (lr, loss)
        assert {name: float(row[name]) for name in values} == {k: v.item() for k, v in values.items()}
        assert float(row["seconds"]) > 0
    assert float(rows[0]["lr"]) == 0.1  # the rate the step was taken with, not the next one's


def test_rows_every_so_many_steps_with_the_first_and_the_last(tools, tmp_path):
    tools.trainer((MetricsLog(tmp_path / "metrics.csv", every=4),), steps=11).fit()
    assert [row["step"] for row in tools.rows(tmp_path / "metrics.csv")] == ["1", "4", "8", "11"]


def test_loggers_get_the_same_numbers_and_the_validation(tools, tmp_path):
    memory = Memory()
    log = MetricsLog(tmp_path / "metrics.csv", every=5, loggers=[memory])
    tools.trainer((log, Validation(tools.data(12), None)), epochs=2).fit()
    assert [step for step, _ in memory.sent] == [1, 5, 5, 10, 10]
    row = tools.rows(tmp_path / "metrics.csv")[-1]
    train = dict(reversed(memory.sent))[10]
    assert train["train/loss"] == float(row["loss"])
    assert set(memory.sent[-1][1]) == {"validation/clean"}
    assert memory.ended == "finished"


def test_logging_draws_no_random_numbers_and_changes_no_bits(tools, tmp_path):
    from robustreg.training import tree

    plain = tools.trainer(epochs=1).fit()
    logged = tools.trainer((MetricsLog(tmp_path / "m.csv"),), epochs=1).fit()
    assert tree.same(dict(plain.module.net.state_dict()), dict(logged.module.net.state_dict()))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(
        ModuleNotFoundError, match=r'needs the package .*: pip install "robustreg\[loggers\]"'
    ):
        build_logger(name, tmp_path)


def test_an_unknown_logger_names_the_closest(tmp_path):
    with pytest.raises(ValueError, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        build_logger("tensorbord", tmp_path)


@pytest.mark.parametrize("name", sorted(loggers.PACKAGES))
def test_the_real_loggers_take_a_run(tools, tmp_path, monkeypatch, name):
    pytest.importorskip(loggers.PACKAGES[name], reason=f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = build_logger(name, tmp_path, "a run")
    logger.log_hyperparams({"lr": 0.1})
    tools.trainer((MetricsLog(None, loggers=[logger]),), epochs=1).fit()
    assert any(path.is_file() for path in tmp_path.rglob("*"))


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="every must be"):
        MetricsLog(tmp_path / "m.csv", every=0)
