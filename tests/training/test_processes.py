"""Training by several processes from the command line, and how they are started."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from robustreg.training import processes

needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)


@needs_gloo
def test_two_processes_train_what_one_does(tmp_path):
    """A gradient penalty in float64: what one process makes of a batch, two make of its halves."""
    changes = ["data.train_size=200", "epochs=1", "precision=64", "model.width=4", "evaluation.samples=40"]
    changes += ["evaluation.attacks=[fgsm]", "evaluation.curve=[]"]
    for devices in ("1", "2"):
        command = [sys.executable, "-m", "robustreg", "train", "gradient_l2", *changes, "--device", "cpu"]
        command += ["--devices", devices, "--threads", "1", "--no-progress"]
        done = subprocess.run(
            [*command, "--run-dir", str(tmp_path / devices)], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("training gradient_l2") == 1
        assert done.stdout.count("worst case") == 1
    one, two = (load_file(tmp_path / d / "checkpoints" / "last" / "weights.safetensors") for d in "12")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-12)
    assert json.loads((tmp_path / "2" / "run.json").read_text())["processes"] == 2


def test_the_processes_know_each_other_and_their_statuses_are_told(tmp_path, monkeypatch):
    (tmp_path / "part.py").write_text(
        "import os, sys\n"
        "rank, world = os.environ['RANK'], os.environ['WORLD_SIZE']\n"
        "assert os.environ['LOCAL_RANK'] == rank and os.environ['LOCAL_WORLD_SIZE'] == world\n"
        "open(sys.argv[1] + '/' + rank + '-of-' + world, 'w').close()\n"
        "sys.exit(int(sys.argv[2]) if rank == '1' else 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert processes.start(3, "part", [str(tmp_path), "0"]) == 0
    assert {p.name for p in tmp_path.glob("*-of-*")} == {"0-of-3", "1-of-3", "2-of-3"}
    assert processes.start(2, "part", [str(tmp_path), "5"]) == 5


def test_one_that_fails_ends_the_others(tmp_path):
    (tmp_path / "waits.py").write_text(
        "import os, sys, time\nsys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)\n"
    )
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        assert processes.start(2, "waits", []) == 3
    assert time.monotonic() - began < 30


def test_who_is_first(monkeypatch):
    assert processes.is_first()
    assert not processes.of_many()
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert processes.of_many()
    assert not processes.is_first(), "the second machine's first process has local rank 0"
