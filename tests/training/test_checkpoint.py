from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from robustreg.training import checkpoint, tree
from robustreg.training.averaging import EMA
from robustreg.training.checkpoint import Checkpoint, CheckpointError, load_weights
from robustreg.training.handler import Handler


@pytest.fixture(scope="module")
def trained(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trainer = tools.trainer((Checkpoint(folder), EMA(0.5)), epochs=1, optimizer={"name": "adam"}).fit()
    return trainer, folder / "last"


@pytest.fixture
def saved(trained, tmp_path):
    """A trainer and a copy of its checkpoint that a test may spoil."""
    trainer, folder = trained
    return trainer, Path(shutil.copytree(folder, tmp_path / "last"))


def test_weights_are_the_network_to_use(tools, saved):
    trainer, folder = saved
    net = tools.net(seed=5)
    load_weights(net, folder)
    assert tree.same(dict(net.state_dict()), dict(trainer.eval_net.state_dict()))
    content = checkpoint.read(folder)
    assert content["averaged"] is True
    assert tree.same(content["state"]["network"], dict(trainer.module.net.state_dict()))


def test_without_averaging_the_weights_are_stored_once(tools, tmp_path):
    trainer = tools.trainer((Checkpoint(tmp_path),), steps=1).fit()
    stored = safetensors.torch.load_file(tmp_path / "last" / "state.safetensors")
    assert not any(name.startswith("/network") for name in stored)
    assert tree.same(
        checkpoint.read(tmp_path / "last")["state"]["network"], dict(trainer.module.net.state_dict())
    )


def test_a_checkpoint_is_tensors_and_json_only(saved):
    _, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == [
        "state.json",
        "state.safetensors",
        "weights.safetensors",
    ]
    json.loads((folder / "state.json").read_text())
    for name in ("weights", "state"):
        assert safetensors.torch.load_file(folder / f"{name}.safetensors")


def test_reading_a_checkpoint_loads_neither_pickle_nor_lightning(saved):
    _, folder = saved
    code = (
        "import sys, pickle\n"
        "def never(*a, **k): raise AssertionError('pickle was used')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = never\n"
        "from robustreg.training import checkpoint\n"
        f"content = checkpoint.read({str(folder)!r})\n"
        "assert 'lightning_fabric' not in sys.modules\n"
        "print(content['step'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "5"


@pytest.mark.parametrize("file", ["weights.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["missing", "cut", "flipped", "empty"])
def test_a_damaged_file_is_named_in_one_sentence(tools, saved, file, harm):
    _, folder = saved
    data = bytearray((folder / file).read_bytes())
    if harm == "missing":
        (folder / file).unlink()
    else:
        if harm == "flipped":
            data[len(data) // 2] ^= 0xFF
        (folder / file).write_bytes({"cut": data[: len(data) // 2], "flipped": data, "empty": b""}[harm])
    with pytest.raises(CheckpointError, match=file) as error:
        checkpoint.read(folder)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no state\.json"):
        checkpoint.read(tmp_path / "nowhere")
    (tmp_path / "state.json").write_text('{"format": "something else"}')
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        checkpoint.read(tmp_path)


def other_nets(tools):
    wider = tools.net(width=5)
    fewer = nn.Sequential(*list(tools.net())[:-1])
    more = tools.net()
    more.append(nn.Linear(3, 3))
    return [
        (wider, r"'0\.weight' has the shape \[4, 1, 3, 3\] there and \[5, 1, 3, 3\] here"),
        (fewer, r"it has '5\.bias', which this model has not"),
        (more, r"it has no '6\.weight', which this model has"),
    ]


@pytest.mark.parametrize("case", [0, 1, 2])
def test_another_model_is_refused_by_the_first_difference(tools, saved, case):
    _, folder = saved
    net, message = other_nets(tools)[case]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(net, folder)
    assert tree.same(before, dict(net.state_dict()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "number of steps is 5, this run's is 10"),
        ({"seed": 8}, "seed is 7, this run's is 8"),
        ({"optimizer": {"name": "sgd"}}, "optimizer is 'Adam', this run's is 'SGD'"),
        ({"handlers": ()}, "list of handlers with a memory"),
        ({"net": 0}, "from another model"),
    ],
)
def test_another_run_is_refused(tools, saved, tmp_path, change, message):
    _, folder = saved
    change = dict(change)
    if "net" in change:
        change["net"] = tools.net(width=2)
    handlers = change.pop("handlers", (Checkpoint(tmp_path), EMA(0.5)))
    settings = {"epochs": 1, "optimizer": {"name": "adam"}, **change}
    with pytest.raises(CheckpointError, match=message):
        checkpoint.resume(tools.trainer(handlers, **settings), folder)


def test_other_data_are_refused(tools, saved, tmp_path):
    _, folder = saved
    with pytest.raises(ValueError, match="samples was 40 when saved and is 39 now"):
        checkpoint.resume(
            tools.trainer((Checkpoint(tmp_path), EMA(0.5)), n=39, epochs=1, optimizer={"name": "adam"}),
            folder,
        )


@pytest.mark.parametrize("rename", [1, 2])
def test_a_stop_while_saving_leaves_a_whole_checkpoint(tools, tmp_path, monkeypatch, rename):
    """Whichever rename the machine stops at, the old state or the new one is there and whole."""
    folder = tmp_path / "last"
    first = tools.trainer((Checkpoint(tmp_path),), steps=1).fit()
    second = tools.trainer(steps=1, optimizer={"name": "sgd", "lr": 0.3}).fit()
    content = checkpoint.snapshot(second)
    count, real = 0, os.rename

    def stopped(a, b):
        nonlocal count
        count += 1
        if count == rename:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(folder, content)
    monkeypatch.undo()
    assert tree.same(checkpoint.read(folder)["weights"], dict(first.module.net.state_dict()))
    checkpoint.write(folder, content)
    assert tree.same(checkpoint.read(folder)["weights"], dict(second.module.net.state_dict()))
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("file", ["weights.safetensors", "state.safetensors", "state.json"])
def test_a_stop_while_a_file_is_written_leaves_the_old_checkpoint(tools, tmp_path, monkeypatch, file):
    first = tools.trainer((Checkpoint(tmp_path),), steps=1).fit()
    content = checkpoint.snapshot(tools.trainer(steps=1, optimizer={"name": "sgd", "lr": 0.3}).fit())
    real = checkpoint.write_bytes_synced

    def full(path, data):
        if path.name == file:
            real(path, data[: len(data) // 2])
            raise OSError("disk full")
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes_synced", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(tmp_path / "last", content)
    assert tree.same(checkpoint.read(tmp_path / "last")["weights"], dict(first.module.net.state_dict()))


def test_last_is_saved_every_so_many_steps(tools, tmp_path):
    class Saves(Checkpoint):
        at = ()

        def save(self, trainer):
            self.at += (trainer.step,)
            super().save(trainer)

    handler = Saves(tmp_path, every=3)
    tools.trainer((handler,), steps=11).fit()
    assert handler.at == (3, 5, 6, 9, 10, 11)


def test_quick_epochs_are_not_all_saved_and_nothing_is_lost_at_the_end(tools, tmp_path):
    saves = []

    class Saves(Checkpoint):
        def save(self, trainer):
            saves.append(trainer.step)
            super().save(trainer)

    class Fake(Handler):
        order = 30

        def epoch_end(self, trainer):
            trainer.scores = {"step": trainer.step, "clean": [0.1, 0.2, 0.5, 0.3][trainer.epoch - 1]}

    tools.trainer((Saves(tmp_path, pause=3600), Fake()), epochs=4).fit()
    assert saves == [5, 20]
    assert checkpoint.read(tmp_path / "best")["epoch"] == 3
    assert checkpoint.read(tmp_path / "last")["epoch"] == 4


def test_the_best_network_survives_a_failure(tools, tmp_path):
    class Fake(Handler):
        order = 30

        def epoch_end(self, trainer):
            trainer.scores = {"step": trainer.step, "clean": 0.1 * trainer.epoch}

        def step_start(self, trainer):
            if trainer.step == 12:
                raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        tools.trainer((Checkpoint(tmp_path, pause=3600), Fake()), epochs=4).fit()
    assert checkpoint.read(tmp_path / "best")["epoch"] == 2
    assert checkpoint.read(tmp_path / "last")["epoch"] == 1


def test_best_is_the_best_validated_epoch_and_ties_keep_the_first(tools, tmp_path):
    scores = [(0.5, 0.9), (0.7, 0.6), (0.7, 0.8), (0.7, 0.8), (0.6, 1.0)]

    class Fake(tools.StopAt):
        order = 30

        def step_end(self, trainer):
            pass

        def epoch_end(self, trainer):
            robust, clean = scores[trainer.epoch - 1]
            trainer.scores = {"step": trainer.step, "robust": robust, "clean": clean}

    tools.trainer((Checkpoint(tmp_path), Fake(0)), epochs=5).fit()
    assert checkpoint.read(tmp_path / "best")["epoch"] == 3
    assert checkpoint.read(tmp_path / "last")["epoch"] == 5


def test_the_best_score_survives_a_resume(tools, tmp_path):
    class Fake(tools.StopAt):
        order = 30

        def epoch_end(self, trainer):
            trainer.scores = {"step": trainer.step, "clean": 1.0 - 0.1 * trainer.epoch}

    tools.trainer((Checkpoint(tmp_path), Fake(7)), epochs=3).fit()
    second = tools.trainer((Checkpoint(tmp_path), Fake(0)), epochs=3)
    checkpoint.resume(second, tmp_path / "last")
    second.fit()
    assert checkpoint.read(tmp_path / "best")["epoch"] == 1


def test_bad_settings():
    with pytest.raises(ValueError, match="every must be a number of steps"):
        Checkpoint("x", every=-1)


def test_tied_weights_are_saved_and_loaded(tools, tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    one, two = Tied(), Tied()
    weights, _ = tree.pack(dict(one.state_dict()))
    content = {
        "weights": {k[1:]: v for k, v in weights.items()},
        "tensors": {},
        "meta": {"format": checkpoint.FORMAT, "state": {}},
    }
    checkpoint.write(tmp_path / "c", content)
    load_weights(two, tmp_path / "c")
    assert torch.equal(one.b.weight, two.b.weight)
    assert two.b.weight is two.a.weight
