"""Ctrl-C loses nothing: what was finished is returned, saved, and not done again."""

from __future__ import annotations

import itertools
import math
import signal
from dataclasses import dataclass

import pytest
import torch
from safetensors import SafetensorError

from robustreg.attacks import APGD, APGDT, FAB, PGD, Square, ensemble
from robustreg.evaluation import EvaluationInterrupted, attack_run, evaluate, evidence, verify, work
from robustreg.evaluation.caught import Caught
from robustreg.evaluation.predict import logits_of
from robustreg.evaluation.work import Work
from robustreg.points import FGSM, draw_per_sample
from robustreg.streams import derive_seed
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


@pytest.mark.parametrize(
    "attack",
    [
        APGD(Threat("l2", 0.4), steps=10),
        APGDT(Threat("l2", 0.4), steps=10),
        FAB(Threat("l2", 0.4), steps=5),
        Square(Threat("l2", 0.4), queries=60),
        Square(Threat("linf", 0.1), queries=60),
        PGD(Threat("l2", 0.4), steps=10, restarts=3),
    ],
    ids=["apgd", "apgdt", "fab", "square-l2", "square-linf", "pgd"],
)
def test_a_batch_in_progress_keeps_who_is_fooled(net, images, attack, tmp_path):
    threat = attack.threat
    options = {"batch_size": 40, "seed": 3}
    whole = evaluate(net, images, {"a": attack}, threat, evidence_dir=tmp_path / "whole", **options)
    fooled = whole.clean.correct - whole["a"].score.correct
    assert fooled >= 4, "for the test to mean anything"

    def press(progress):
        if progress.stage == "a" and 2 <= progress.done < progress.total:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(EvaluationInterrupted):
        evaluate(net, images, {"a": attack}, threat, evidence_dir=tmp_path / "a", progress=press, **options)
    told = []
    rest = evaluate(
        net, images, {"a": attack}, threat, evidence_dir=tmp_path / "a", progress=told.append, **options
    )
    assert 2 <= next(p.done for p in told if p.stage == "a") < whole.clean.correct
    assert torch.equal(rest.outcomes["a"], whole.outcomes["a"])
    assert verify(tmp_path / "a", net, images).ok


def test_an_interrupted_batch_keeps_nothing_that_is_not_so():
    """What an attack says of its search is checked as its answer would be."""
    threat, model = Threat("linf", 0.1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([0.5, 0.0]))
    x, y = torch.full((4, 2), 0.45), torch.zeros(4, dtype=torch.int64)
    told = []
    caught = Caught(torch.tensor([5, 6, 7, 8]), told.append)
    caught(torch.tensor([0, 1, 2, 3]), torch.tensor([[0.54, 0.45], [0.46, 0.45], [0.9, 0.45], [math.nan, 0]]))
    work = Work.empty(9)
    caught.keep(model, x, y, threat, work, batch_size=3)
    assert told == [4]
    assert work.attacked.nonzero().flatten().tolist() == [5], "misclassified, in the ball, and a number"
    assert not work.standing.any()


def test_an_attack_that_fails_does_not_cost_the_others(net, images, attacks, tmp_path):
    threat = Threat("l2", 0.4)

    def fails(model, x, y):
        raise RuntimeError("out of memory\nand more")

    names = ["fgsm", "fails", "pgd"]
    with pytest.warns(
        UserWarning, match="'fails' is not counted: it stopped with RuntimeError: out of memory$"
    ):
        first = evaluate(
            net, images, {n: {**attacks, "fails": fails}[n] for n in names}, threat, evidence_dir=tmp_path
        )
    assert [result.status for result in first.attacks] == ["counted", "invalid", "counted"]
    assert torch.equal(first.worst_case.outcomes, evaluate(net, images, attacks, threat).worst_case.outcomes)
    assert verify(tmp_path, net, images).ok
    seen, handle = counted(net)
    again = evaluate(net, images, attacks, threat, evidence_dir=tmp_path)
    handle.remove()
    assert sum(seen) == 4 * len(images[0]), (
        "only the clean pass, a look at gradients and two at steadiness run again"
    )
    assert torch.equal(again.worst_case.outcomes, first.worst_case.outcomes)
    assert not (tmp_path / "unfinished").exists()


def test_what_an_attack_did_before_it_failed_is_not_done_again(net, images, tmp_path, monkeypatch):
    threat = Threat("l2", 0.4)
    options = {"batch_size": 8, "evidence_dir": tmp_path}
    whole = evaluate(net, images, {"pgd": PGD(threat, steps=3), "fgsm": FGSM(threat)}, threat)
    point, calls = PGD.locate, []

    def fails_at_the_third_batch(self, probe):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return point(self, probe)

    monkeypatch.setattr(PGD, "locate", fails_at_the_third_batch)
    attacks = {"pgd": PGD(threat, steps=3), "fgsm": FGSM(threat)}
    with pytest.warns(UserWarning, match="out of memory"):
        evaluate(net, images, attacks, threat, **options)
    told = []
    rest = evaluate(net, images, attacks, threat, progress=told.append, **options)
    assert next(p.done for p in told if p.stage == "pgd") == 16
    assert torch.equal(rest.outcomes["pgd"], whole.outcomes["pgd"])


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
    threat = Threat("linf", 0.9999)
    result = evaluate(net, images, {"a": lambda m, x, y: 1 - x}, threat, evidence_dir=tmp_path)
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


MEMBERS = {
    "fgsm": FGSM(Threat("l2", 0.2)),
    "pgd": PGD(Threat("l2", 0.4), steps=3, restarts=2),
    "more": PGD(Threat("l2", 0.4), steps=9),
}


@pytest.mark.parametrize(("stage", "done"), [("fgsm", 8), ("pgd", 8), ("more", 1)])
def test_an_ensemble_goes_on_in_the_middle_of_a_member(net, images, tmp_path, monkeypatch, stage, done):
    """Who is fooled, and who withstood a member, has not to go through it again."""
    monkeypatch.setattr(ensemble, "members", lambda threat, version="standard": MEMBERS)
    threat = Threat("l2", 0.4)
    attack = {"all": ensemble.StandardEnsemble(threat)}
    stopped = []

    def press(progress):
        stopped.append(progress)
        stop_at(f"all: {stage}", done)(progress)

    whole = evaluate(net, images, attack, threat, batch_size=8, seed=3)
    with pytest.raises(EvaluationInterrupted):
        evaluate(
            net,
            images,
            attack,
            threat,
            batch_size=8,
            seed=3,
            evidence_dir=tmp_path,
            progress=press,
        )
    told = []
    rest = evaluate(
        net, images, attack, threat, batch_size=8, seed=3, evidence_dir=tmp_path, progress=told.append
    )
    assert torch.equal(rest.outcomes["all"], whole.outcomes["all"])
    assert whole["all"].attacked.sum() == rest["all"].attacked.sum()
    first = next(p for p in told if p.stage == f"all: {stage}")
    assert first.total - first.done == stopped[-1].total - stopped[-1].done, "what was done is not done again"
    for before in list(MEMBERS)[: list(MEMBERS).index(stage)]:
        first = next(p for p in told if p.stage == f"all: {before}")
        assert first.done == first.total
    assert verify(tmp_path, net, images).ok


def test_an_ensemble_is_its_members_one_after_the_other_in_full_batches(net, images, monkeypatch):
    monkeypatch.setattr(ensemble, "members", lambda threat, version="standard": MEMBERS)
    threat = Threat("l2", 0.4)
    told = []
    by_member = evaluate(
        net, images, {"all": ensemble.StandardEnsemble(threat)}, threat, batch_size=8, progress=told.append
    )
    for name in ("pgd", "more"):
        steps = [p.done for p in told if p.stage == f"all: {name}"]
        assert all(a <= b for a, b in itertools.pairwise(steps)), "it never goes back"
        assert {*range(steps[0], steps[-1], 8)} <= {*steps}, "batches of eight"
    x, y = images
    attack = ensemble.StandardEnsemble(threat)
    seeds = [derive_seed(0, "all", i) for i in range(len(y))]
    found = attack(net, x, y, noise=draw_per_sample(attack, x, seeds))
    at_once = logits_of(net, found).argmax(1) == y
    assert torch.equal(at_once, by_member["all"].score.outcomes)
    assert 0 < by_member["all"].score.correct < by_member.clean.correct


@pytest.mark.parametrize(("flops", "size"), [(1, 8), (10**9, 40)])
def test_members_take_fewer_samples_at_once_where_the_network_is_large(net, images, monkeypatch, flops, size):
    """By its operations, not by a clock: the same run has the same batches."""
    monkeypatch.setattr(ensemble, "members", lambda threat, version="standard": MEMBERS)
    monkeypatch.setattr(attack_run, "_FEWEST", 8)
    monkeypatch.setattr(attack_run, "_PORTION_FLOPS", flops)
    sizes, run = [], attack_run._run_batch

    def watched(setting, name, member, threat, caught, size, work):
        sizes.append(size)
        run(setting, name, member, threat, caught, size, work)

    monkeypatch.setattr(attack_run, "_run_batch", watched)
    threat = Threat("l2", 0.4)
    found = evaluate(net, images, {"all": ensemble.StandardEnsemble(threat)}, threat, batch_size=40)
    assert {*sizes} == {size}
    assert found["all"].score.correct < found.clean.correct


def test_ctrl_c_while_the_evidence_is_written_loses_nothing(net, images, attacks, tmp_path, monkeypatch):
    threat = Threat("l2", 0.4)
    whole = evaluate(net, images, attacks, threat, evidence_dir=tmp_path / "whole")
    write = evidence.write_tensors_atomic

    def pressed(*args):
        write(*args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(evidence, "write_tensors_atomic", pressed)
    with pytest.raises(
        EvaluationInterrupted, match="while its evidence was written: all of it was measured"
    ) as stop:
        evaluate(net, images, attacks, threat, evidence_dir=tmp_path / "e")
    assert stop.value.evaluation.complete
    assert torch.equal(stop.value.evaluation.outcomes["pgd"], whole.outcomes["pgd"])
    assert not verify(tmp_path / "e", net, images).ok, "half of the evidence is none"
    monkeypatch.undo()
    told = []
    evaluate(net, images, attacks, threat, evidence_dir=tmp_path / "e", progress=told.append)
    assert all(p.done == p.total for p in told if p.stage in attacks), "nothing is attacked again"
    assert verify(tmp_path / "e", net, images).ok
    assert (tmp_path / "e" / "manifest.json").read_bytes() == (
        tmp_path / "whole" / "manifest.json"
    ).read_bytes()


def test_ctrl_c_while_work_is_saved_is_raised_after_it(net, images, attacks, tmp_path, monkeypatch):
    save, pressed = work.save_file, []

    def press_once(*args, **options):
        if not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)
        save(*args, **options)

    monkeypatch.setattr(work, "save_file", press_once)
    with pytest.raises(EvaluationInterrupted):
        evaluate(net, images, attacks, Threat("l2", 0.4), evidence_dir=tmp_path / "e")
    told = []
    evaluate(net, images, attacks, Threat("l2", 0.4), evidence_dir=tmp_path / "e", progress=told.append)
    assert next(p for p in told if p.stage == "fgsm").done > 0


def full_disk(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_costs_no_result(net, images, attacks, tmp_path, monkeypatch):
    threat = Threat("l2", 0.4)
    whole = evaluate(net, images, attacks, threat)
    monkeypatch.setattr(work, "save_file", full_disk)
    with pytest.warns(UserWarning, match="No space left") as told:
        found = evaluate(net, images, attacks, threat, evidence_dir=tmp_path / "e")
    sentences = [str(warning.message) for warning in told]
    assert len(sentences) == 2, "once for unfinished work, once for the evidence"
    assert sentences[0].startswith("unfinished work cannot be kept (")
    assert sentences[1].startswith("the evidence cannot be written (")
    assert found.complete
    assert torch.equal(found.outcomes["pgd"], whole.outcomes["pgd"])
    assert not [path for path in (tmp_path / "e").rglob("*") if path.is_file()]


def test_a_full_disk_hides_no_ctrl_c(net, images, attacks, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "save_file", full_disk)
    with (
        pytest.warns(UserWarning, match="unfinished work cannot be kept"),
        pytest.raises(EvaluationInterrupted) as stop,
    ):
        evaluate(
            net,
            images,
            attacks,
            Threat("l2", 0.4),
            batch_size=8,
            evidence_dir=tmp_path,
            progress=stop_at("pgd", 8),
        )
    assert list(stop.value.evaluation.outcomes) == ["fgsm"]


def test_a_member_taken_up_again_counts_whom_it_fooled_before(net, images, monkeypatch, tmp_path):
    monkeypatch.setattr(ensemble, "members", lambda threat, version="standard": MEMBERS)
    threat = Threat("l2", 0.4)
    attack, options = {"all": ensemble.StandardEnsemble(threat)}, {"batch_size": 8, "evidence_dir": tmp_path}
    whole = []
    evaluate(net, images, attack, threat, batch_size=8, progress=whole.append)
    stage = "all: pgd"
    total = next(p.total for p in whole if p.stage == stage)
    assert next(p for p in reversed(whole) if p.stage == stage).standing < total, "it fools some"

    def press(progress):
        if progress.stage == stage and progress.done >= 8 and progress.standing < progress.done:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(EvaluationInterrupted):
        evaluate(net, images, attack, threat, progress=press, **options)
    told = []
    evaluate(net, images, attack, threat, progress=told.append, **options)
    assert {p.total for p in told if p.stage == stage} == {total}
