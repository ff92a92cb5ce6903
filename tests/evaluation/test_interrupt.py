"""Ctrl-C loses nothing: what was finished is returned, saved, and not done again."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest
import torch

from robustreg.attacks import PGD
from robustreg.evaluation import EvaluationInterrupted, evaluate, verify
from robustreg.points import FGSM
from robustreg.threat import Threat


def stop_at(stage, done):
    """A progress function that presses Ctrl-C when so much of the stage is done."""

    def press(progress):
        if progress.stage == stage and progress.done >= done:
            signal.raise_signal(signal.SIGINT)

    return press


@pytest.fixture
def attacks():
    threat = Threat("l2", 0.4)
    return {"fgsm": FGSM(threat), "pgd": PGD(threat, steps=3, restarts=2)}


def counted(net):
    """Count the samples that pass through the net."""
    seen = []
    handle = net.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return seen, handle


@pytest.mark.parametrize(("stage", "done"), [("fgsm", 8), ("pgd", 8), ("pgd", 16), ("curve eps 0.2", 8)])
def test_goes_on_where_it_stopped_and_finds_the_same(net, images, attacks, tmp_path, stage, done):
    threat = Threat("l2", 0.4)
    options = {"batch_size": 8, "curve": [0.2, 0.4], "seed": 3, "survivors": True}
    whole = evaluate(net, images, attacks, threat, evidence_dir=tmp_path / "whole", **options)
    with pytest.raises(EvaluationInterrupted, match="the same call goes on"):
        evaluate(
            net,
            images,
            attacks,
            threat,
            evidence_dir=tmp_path / "parts",
            progress=stop_at(stage, done),
            **options,
        )
    assert not (tmp_path / "parts" / "manifest.json").exists()
    told = []
    rest = evaluate(
        net, images, attacks, threat, evidence_dir=tmp_path / "parts", progress=told.append, **options
    )
    assert next(p.done for p in told if p.stage == stage) >= done, "finished samples are not attacked again"
    for name in attacks:
        assert torch.equal(rest.outcomes[name], whole.outcomes[name])
    assert rest.curve == whole.curve
    for name in ("points.safetensors", "manifest.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "parts" / "unfinished").exists()
    assert verify(tmp_path / "parts", net, images).ok


def test_finished_attacks_come_with_the_interrupt(net, images, attacks):
    threat = Threat("l2", 0.4)
    whole = evaluate(net, images, attacks, threat)
    with pytest.raises(KeyboardInterrupt) as stopped:
        evaluate(net, images, attacks, threat, batch_size=8, progress=stop_at("pgd", 8))
    assert isinstance(stopped.value, EvaluationInterrupted)
    assert str(stopped.value) == "evaluation interrupted: 1 of 2 attacks were finished"
    partial = stopped.value.evaluation
    assert list(partial.outcomes) == ["fgsm"]
    assert torch.equal(partial.outcomes["fgsm"], whole.outcomes["fgsm"])
    assert not partial.complete
    assert "interrupted" in partial.table()
    with pytest.raises(EvaluationInterrupted) as stopped:
        evaluate(net, images, attacks, threat, progress=stop_at("clean", 1))
    assert stopped.value.evaluation is None


def test_an_attack_that_fails_does_not_lose_those_before(net, images, attacks, tmp_path):
    threat = Threat("l2", 0.4)

    def fails(model, x, y):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(net, images, {**attacks, "fails": fails}, threat, evidence_dir=tmp_path)
    seen, handle = counted(net)
    evaluate(net, images, attacks, threat, evidence_dir=tmp_path)
    handle.remove()
    assert sum(seen) == len(images[0]), "only the clean pass runs again"


@pytest.mark.parametrize("change", ["model", "data", "seed", "attack", "threat"])
def test_work_on_something_else_is_not_taken_up(net, images, tmp_path, change):
    threat = Threat("l2", 0.4)
    steps = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            net, images, {"pgd": PGD(threat, steps=2)}, threat, evidence_dir=tmp_path, batch_size=8,
            progress=stop_at("pgd", 16),
        )  # fmt: skip
    seed = 0
    if change == "model":
        with torch.no_grad():
            net.body[0].weight[0, 0, 0, 0] += 1e-3
    elif change == "data":
        images[0][39, 0, 0, 0] = 0.5
    elif change == "seed":
        seed = 1
    elif change == "attack":
        steps = 3
    else:
        threat = Threat("l2", 0.4, bounds=None)
    told = []
    evaluate(
        net,
        images,
        {"pgd": PGD(threat, steps=steps)},
        threat,
        evidence_dir=tmp_path,
        seed=seed,
        progress=told.append,
    )
    assert next(p.done for p in told if p.stage == "pgd") == 0


def test_functions_are_attacked_again(net, images, tmp_path):
    """A function's name does not say what it does, so its unfinished work may be another function's."""
    threat = Threat("linf", 0.1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            net, images, {"a": lambda m, x, y: x}, threat, evidence_dir=tmp_path, progress=stop_at("a", 20)
        )
    result = evaluate(net, images, {"a": lambda m, x, y: 1 - x}, Threat("linf", 1.0), evidence_dir=tmp_path)
    assert result["a"].score.correct < result.clean.correct


def test_damaged_work_is_done_again(net, images, attacks, tmp_path):
    threat = Threat("l2", 0.4)
    whole = evaluate(net, images, attacks, threat)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            net, images, attacks, threat, evidence_dir=tmp_path, batch_size=8, progress=stop_at("pgd", 16)
        )
    files = list((tmp_path / "unfinished").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-7])
    again = evaluate(net, images, attacks, threat, evidence_dir=tmp_path)
    assert torch.equal(again.worst_case.outcomes, whole.worst_case.outcomes)


def test_a_broken_threat_stays_broken_after_resuming(net, images, tmp_path):
    threat = Threat("linf", 0.1)

    @dataclass(frozen=True)
    class Jump(type(FGSM(threat))):
        def locate(self, probe):
            return probe.x if len(probe.x) < 5 else (probe.x + 0.3).clamp(0, 1)

    jump = {"jump": Jump(threat)}
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            net, images, jump, threat, evidence_dir=tmp_path, batch_size=20, progress=stop_at("jump", 20)
        )
    with pytest.warns(UserWarning, match="lies at linf distance"):
        result = evaluate(net, images, jump, threat, evidence_dir=tmp_path, batch_size=4)
    assert result["jump"].status == "invalid"
