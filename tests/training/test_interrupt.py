from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading

import pytest

from robustreg.training import checkpoint, tree
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.interrupt import Interrupt


def sending(tools, *signals_at):
    """A handler that sends the process a signal during the given steps."""

    class Send(tools.StopAt):
        def __init__(self):
            self.rest = dict(signals_at)

        def gradients(self, trainer):
            if trainer.step in self.rest:
                os.kill(os.getpid(), self.rest[trainer.step])

        def step_end(self, trainer):
            pass

    return Send()


@pytest.fixture(autouse=True)
def signals_are_as_before():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_step_is_finished_saved_and_told(tools, tmp_path, capsys, number):
    handlers = (Checkpoint(tmp_path), Interrupt("Run it again to go on."), sending(tools, (6, number)))
    trainer = tools.trainer(handlers).fit()
    assert (trainer.status, trainer.step) == ("interrupted", 7)
    assert checkpoint.read(tmp_path / "last")["step"] == 7
    told = capsys.readouterr().err
    assert f"{number.name}: finishing the step in hand" in told
    assert "Stopped after step 7 of 15. Run it again to go on." in told


def test_a_second_ctrl_c_aborts(tools, tmp_path):
    class Twice(tools.StopAt):
        def gradients(self, trainer):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer = tools.trainer((Checkpoint(tmp_path), Interrupt(), Twice(0)))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.status == "failed"
    assert not (tmp_path / "last").exists()


def test_signals_are_given_back_after_an_error(tools):
    class Boom(tools.StopAt):
        def gradients(self, trainer):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        tools.trainer((Interrupt(), Boom(0))).fit()


def test_in_another_thread_it_does_nothing(tools):
    result = []

    def work():
        result.append(tools.trainer((Interrupt(),), steps=2).fit().status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == ["finished"]


SCRIPT = """
import os, signal, sys
import torch
from robustreg import CrossEntropy, GradientNorm, Threat
from robustreg.data import Splits, from_arrays
from robustreg.training import Handler, train

class CtrlC(Handler):
    def gradients(self, trainer):
        if trainer.step == 6 and "stop" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)

def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    return from_arrays(torch.rand(n, 1, 4, 4, generator=g), torch.arange(n) % 3, classes=3)

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(),
                          torch.nn.Dropout(0.3), torch.nn.Linear(8, 3))
result = train(net, CrossEntropy() + GradientNorm(Threat("l2", 0.5)), Splits(data(40, 0), data(9, 1), data(9, 2)),
               run_dir=sys.argv[1], epochs=3, batch_size=8, optimizer={"name": "adam"}, ema=0.9, device="cpu",
               resume="resume" in sys.argv, progress=False, handlers=[CtrlC()])
print(result.status, result.step)
"""


def test_ctrl_c_and_resume_in_new_processes_give_the_bits_of_one_run(tools, tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(*arguments):
        command = [sys.executable, str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done

    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "whole")])
    runpy.run_path(str(script))
    assert capsys.readouterr().out.split() == ["finished", "15"]
    stopped = run(tmp_path / "parts", "stop")
    assert stopped.stdout.split() == ["interrupted", "7"]
    assert "Stopped after step 7 of 15. The same call with resume=True goes on from there." in stopped.stderr
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["status"] == "interrupted"
    assert run(tmp_path / "parts", "resume").stdout.split() == ["finished", "15"]
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["status"] == "finished"
    assert len(record["resumed"]) == 1
    whole, parts = (checkpoint.read(tmp_path / name / "checkpoints" / "last") for name in ("whole", "parts"))
    for key in ("network", "optimizer", "handlers", "schedule", "batches", "scores", "random", "objective"):
        assert tree.same(whole["state"][key], parts["state"][key]), key
    for file in ("metrics.csv", "validation.csv"):
        assert tools.rows(tmp_path / "whole" / file) == tools.rows(tmp_path / "parts" / file)
