from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import nn

import robustreg as rr
from robustreg.data import Splits
from robustreg.training import (
    CheckpointError,
    Handler,
    RunExists,
    TrainingStopped,
    checkpoint,
    load_weights,
    train,
)


@pytest.fixture
def run(tools, tmp_path):
    """`train` with settings that suit tests, each of which may be changed."""

    def call(**changes):
        net = changes.pop("net", None) or tools.net()
        splits = Splits(tools.data(40), tools.data(18, seed=1), tools.data(18, seed=2))
        settings = {
            "objective": rr.CrossEntropy() + 0.3 * rr.GradientNorm(tools.threat),
            "splits": splits,
            "run_dir": tmp_path / "run",
            "epochs": 2,
            "batch_size": 8,
            "optimizer": {"name": "adam", "lr": 0.01},
            "device": "cpu",
            "progress": False,
            **changes,
        }
        return train(net, settings.pop("objective"), settings.pop("splits"), **settings)

    return call


def test_the_folder_of_a_run(tools, run, tmp_path):
    result = run(
        name="first",
        seed=4,
        threat=tools.threat,
        attack=rr.PGD(tools.threat, steps=2),
        augment=["crop1", "flip"],
        schedule={"name": "cosine", "warmup": 0.1},
        ema=0.9,
        clip=5.0,
        model={"name": "tiny"},
    )
    folder = tmp_path / "run"
    assert (result.status, result.step, result.total) == ("finished", 10, 10)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints", "metrics.csv", "plan.json", "run.json", "validation.csv",
    ]  # fmt: skip
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best", "last"]

    record = json.loads((folder / "run.json").read_text())
    assert record["name"] == "first"
    assert (record["seed"], record["status"], record["steps"], record["step"]) == (4, "finished", 10, 10)
    assert record["started"] <= record["finished"]
    assert record["parameters"] == sum(p.numel() for p in tools.net().parameters())
    assert record["threat"] == tools.threat.to_dict()
    assert record["model"] == {"name": "tiny"}
    assert (record["data"]["train"], record["data"]["validation"], record["data"]["test"]) == (40, 18, 18)
    assert len(record["data"]["sha256"]) == 64
    assert record["versions"]["torch"] == torch.__version__
    assert record["step_seconds"]["count"] == 5
    assert record["step_seconds"]["median"] > 0
    assert result.step_seconds == record["step_seconds"]

    plan = json.loads((folder / "plan.json").read_text())
    objective = rr.CrossEntropy() + 0.3 * rr.GradientNorm(tools.threat)
    assert plan == json.loads(json.dumps(objective.plan((1, 8, 8), 3).to_dict()))

    rows = tools.rows(folder / "metrics.csv")
    assert len(rows) == 10
    assert {"cross_entropy", "gradient_norm", "parameter_gradient_norm"} <= set(rows[0])
    validation = tools.rows(folder / "validation.csv")
    assert [row["epoch"] for row in validation] == ["1", "2"]
    assert result.scores["robust"] == float(validation[-1]["robust"])

    net = tools.net(seed=9)
    load_weights(net, result.best)
    best = max(validation, key=lambda row: (float(row["robust"]), float(row["clean"])))
    assert checkpoint.read(result.best)["epoch"] == int(best["epoch"])
    x, y = tools.data(18, seed=1)[:]
    assert (net.eval()(x).argmax(1) == y).double().mean().item() == float(best["clean"])


def test_two_runs_of_one_seed_are_equal_and_of_two_are_not(tools, run, tmp_path):
    one, two, other = (
        checkpoint.read(run(run_dir=tmp_path / name, seed=seed).last)["weights"]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_is_never_overwritten_unasked(run, tmp_path):
    run()
    before = (tmp_path / "run" / "metrics.csv").read_text()
    with pytest.raises(RunExists, match="holds a run already: resume it, or choose another folder"):
        run()
    assert (tmp_path / "run" / "metrics.csv").read_text() == before


def test_resume_where_there_is_nothing_begins(run):
    assert run(resume=True).status == "finished"


def test_resume_of_a_run_with_other_settings_is_refused(tools, run, tmp_path):
    run()
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(CheckpointError, match="number of steps is 10, this run's is 15"):
        run(resume=True, epochs=3)
    with pytest.raises(CheckpointError, match="from another model"):
        run(resume=True, net=tools.net(width=2))
    with pytest.raises(ValueError, match="batch_size was 8 when saved and is 9 now"):
        run(resume=True, batch_size=9)
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_a_failed_run_says_so(run, tmp_path):
    class Poison(Handler):
        def step_start(self, trainer):
            if trainer.step == 3:
                trainer.module.net[5].bias.data[0] = float("nan")

    with pytest.raises(TrainingStopped) as caught:
        run(handlers=[Poison()])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "not finite at step 4" in record["error"]
    assert caught.value.saved == tmp_path / "run" / "checkpoints" / "last_good"
    assert checkpoint.read(caught.value.saved)["step"] == 0


def test_a_killed_run_is_left_running(run, tmp_path):
    seen = []

    class Watch(Handler):
        def step_end(self, trainer):
            seen.append(json.loads((tmp_path / "run" / "run.json").read_text())["status"])

    run(handlers=[Watch()], epochs=1)
    assert set(seen) == {"running"}


def test_swa_and_bf16_and_threads_and_loggers(tools, run):
    threads = torch.get_num_threads()
    try:
        result = run(swa=0.5, precision="bf16", threads=1, schedule={"name": "multistep", "milestones": [1]})
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    record = json.loads((result.run_dir / "run.json").read_text())
    assert (record["precision"], record["threads"]) == ("bf16-mixed", 1)
    assert checkpoint.read(result.last)["averaged"] is True


def test_double_precision(tools, run):
    """Under "64" the network becomes float64 and so does the loss."""
    net = tools.net()
    run(net=net, precision="64", epochs=1)
    assert all(p.dtype == torch.float64 for p in net.parameters())


def test_without_validation_there_is_no_best(tools, run):
    result = run(splits=Splits(tools.data(16), None, tools.data(9, seed=2)))
    assert result.best is None
    assert result.scores == {}
    assert not (result.run_dir / "validation.csv").exists()


def test_a_last_batch_of_one_sample_is_left_out(tools, run):
    """BatchNorm over features cannot train on one sample."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert (
        run(net=net, splits=Splits(tools.data(17), None, tools.data(9)), objective=rr.CrossEntropy()).total
        == 4
    )


def test_a_term_that_cannot_be_rehearsed_trains_without_a_plan(tools, run):
    class OwnNet(rr.Term):
        name = "own"

        def __call__(self, probe):
            if not isinstance(probe.model, nn.Sequential):
                raise AttributeError("only my network has this")
            return probe.logits().square().sum(1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(objective=rr.CrossEntropy() + 0.01 * OwnNet(), epochs=1)
    assert result.status == "finished"
    assert any("could not be counted" in str(w.message) for w in caught)
    assert not (result.run_dir / "plan.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "8"}, "precision must be one of 32, 64, bf16, got '8'"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
        ({"ema": 0.9, "swa": 0.5}, "give one of them"),
        ({"swa": 1.0}, r"swa is a fraction of the run in \[0, 1\)"),
        ({"optimizer": {"name": "sdg"}}, "did you mean 'sgd'"),
        ({"optimizer": {"lr": 0.1}}, "optimizer needs a name"),
        ({"schedule": {"name": "cosine", "gamma": 1}}, "schedule cosine has no option 'gamma'"),
        ({"augment": ["filp"]}, "filp"),
        ({"clip": 0.0}, "above 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"loggers": ["tensorbord"]}, "did you mean 'tensorboard'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(run, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)
    assert not (tmp_path / "run").exists()


def test_terms_that_ask_which_samples_these_are_are_told(tools, run):
    seen = []

    class Asking(rr.Term):
        needs = frozenset({"index"})

        def __call__(self, probe):
            probe.defer(lambda: seen.append(probe.sample_index()))
            return probe.logits().square().sum(1)

    run(objective=rr.CrossEntropy() + 0.01 * Asking(), epochs=1)
    assert sorted(torch.cat(seen).tolist()) == list(range(40))
