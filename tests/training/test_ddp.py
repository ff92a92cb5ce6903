"""Two gloo processes against one process on the joined batch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import safetensors.torch
import torch

SCRIPT = '''
import atexit
import gc
import os
import sys
from pathlib import Path
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import nn
import robustreg as rr
from robustreg.data import Loader, from_arrays
from robustreg.training import (EMA, Checkpoint, Handler, MetricsLog, NaNGuard, LastGood, Trainer, TrainingStopped,
                                Validation, build_optimizer, build_schedule, checkpoint, tree)
from robustreg.module import ObjectiveModule


def data(n=33):
    g = torch.Generator().manual_seed(0)
    return from_arrays(torch.rand(n, 1, 6, 6, generator=g), torch.arange(n) % 3, classes=3)


def make_net(dropout):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(48, 3))


def trainer(fabric, handlers=(), dropout=0.0, attack=None, epochs=2):
    """Batches of 11: shards of 6 and 5."""
    threat = rr.Threat("l2", 0.5)
    net = make_net(dropout)
    loader = Loader(data(), 11, shuffle=True, seed=1, augment=["crop1"], rank=fabric.global_rank,
                    world_size=fabric.world_size)
    optimizer = build_optimizer("sgd", net.parameters(), lr=0.1, momentum=0.9)
    schedule = build_schedule("cosine", optimizer, epochs * len(loader))
    start = rr.Clean() if attack is None else attack
    objective = rr.CrossEntropy() + 0.5 * rr.GradientNorm(threat)
    objective = objective + rr.CrossEntropy(at=rr.PGD(threat, steps=2, start=start))
    return Trainer(ObjectiveModule(net, objective, seed=3), optimizer, loader, epochs=epochs, scheduler=schedule,
                   fabric=fabric, handlers=handlers)


def save(trainer, path):
    state = {k: v.detach().clone() for k, v in trainer.module.net.state_dict().items()}
    grads = {f"grad/{n}": p.grad.clone() for n, p in trainer.module.net.named_parameters()}
    safetensors.torch.save_file({**state, **grads}, path)


class StopOnRank1(Handler):
    def step_end(self, trainer):
        if trainer.step == 2 and trainer.fabric.global_rank == 1:
            trainer.stop()


class BadOnRank1(Handler):
    def step_start(self, trainer):
        if trainer.step == 2 and trainer.fabric.global_rank == 1:
            trainer.module.net[4].bias.data[0] = float("nan")


def watched(fabric, folder, *more):
    random_start = rr.Uniform(rr.Threat("l2", 0.5))
    handlers = [EMA(0.9), Checkpoint(folder), MetricsLog(folder / "metrics.csv"),
                Validation(data(20), rr.PGD(rr.Threat("l2", 0.2), steps=2), batch_size=3, path=folder / "v.csv"), *more]
    return trainer(fabric, handlers, dropout=0.3, attack=random_start)


def work(fabric, out):
    out = Path(out)
    exact = trainer(fabric).fit()
    if fabric.is_global_zero:
        save(exact, out / f"world{fabric.world_size}.safetensors")
    if fabric.world_size == 1:
        return
    whole = watched(fabric, out / "whole").fit()
    assert whole.module.rank == fabric.global_rank  # each process draws its own random points
    first = watched(fabric, out / "parts", StopOnRank1()).fit()
    assert (first.status, first.step) == ("interrupted", 2), (first.status, first.step)
    torch.manual_seed(50 + fabric.global_rank)
    second = watched(fabric, out / "parts")
    checkpoint.resume(second, out / "parts" / "last")
    second.fit()
    mine, theirs = whole.state_dict(), second.state_dict()
    for key in mine:
        assert tree.same(mine[key], theirs[key]), key
    for parameter in second.module.net.parameters():
        both = fabric.all_gather(parameter.detach())
        assert torch.equal(both[0], both[1])
    kept = LastGood(out / "good", 1)
    bad = trainer(fabric, [NaNGuard(kept), kept, BadOnRank1()])
    try:
        bad.fit()
    except TrainingStopped as stopped:
        assert stopped.step == 3
    else:
        raise AssertionError("one process saw NaN and nothing stopped")
    if fabric.is_global_zero:
        (out / "done").write_text("all")


def leave(fabric, out):
    """Work, and then end this process without the interpreter's own tidying up, in which torch's threads sometimes
    abort: the test is of what was done."""
    work(fabric, out)
    gc.collect()
    fabric.barrier()
    torch.distributed.destroy_process_group()
    atexit.register(os._exit, 0)


if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn", precision="64-true")
    fabric.launch(leave, sys.argv[1])
'''


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_gradients_and_weights_are_those_of_the_joined_batch(two_processes):
    """Six steps with attack and double backward on shards of 6 and 5 samples, in float64."""
    import importlib.util

    from lightning_fabric import Fabric

    spec = importlib.util.spec_from_file_location("ddp_script", two_processes / "script.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.work(Fabric(accelerator="cpu", devices=1, precision="64-true"), two_processes)
    one = safetensors.torch.load_file(two_processes / "world1.safetensors")
    two = safetensors.torch.load_file(two_processes / "world2.safetensors")
    assert any(name.startswith("grad/") for name in one)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-12)


def test_stop_resume_and_guard_agree_over_processes(two_processes, tools):
    """Asserted inside the processes: a stop or NaN on one stops both; the resumed run has the same bits."""
    assert (two_processes / "done").read_text() == "all"
    for file in ("metrics.csv", "v.csv"):
        whole, parts = (tools.rows(two_processes / name / file) for name in ("whole", "parts"))
        assert whole == parts
        assert len(whole) == (6 if file == "metrics.csv" else 2)
