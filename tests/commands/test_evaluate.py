"""`robustreg evaluate`: distances, classes, and attacks that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustreg import registry
from robustreg.cli import main
from robustreg.evaluation import Evaluation

FEW = ["--no-progress", "--threads", "1"]
ATTACKS = """\
import robustreg as rr


@rr.register("point")
def failing(threat: rr.Threat):
    def attack(model, x, y):
        raise RuntimeError("no luck")

    return attack


@rr.register("point")
def far(threat: rr.Threat):
    return lambda model, x, y: 1 - x
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "point", dict(registry._registered["point"]))


def test_distances_and_classes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distances = "evaluation.distances=[{attack: fab, steps: 3, targets: 2}, {attack: deep_fool, steps: 5}]"
    words = ["evaluation.attacks=[fgsm]", distances, "evaluation.distance_samples=20", "--per-class"]
    assert main(["evaluate", str(trained), *words, *FEW]) == 0
    out = capsys.readouterr().out
    assert "distance to the nearest misclassified point" in out
    assert "nearest of all, linf" in out
    assert "class" in out
    evaluation = Evaluation.load(trained / "evaluation")
    assert [one.name for one in evaluation.distances] == ["fab", "deep_fool"]
    assert evaluation.distances[0].n == 20
    assert evaluation.class_table().splitlines()[-1].strip() in out
    assert main(["verify", str(trained), "--threads", "1"]) == 0
    assert main(["evaluate", str(trained), "evaluation.attacks=[fgsm]", *FEW]) == 0
    assert "class" not in capsys.readouterr().out


def test_attacks_that_fail_do_not_stop_the_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd_attacks.py"
    file.write_text(ATTACKS)
    words = ["evaluation.attacks=[failing, far, fgsm]", "--import", str(file)]
    assert main(["evaluate", str(trained), *words, *FEW]) == 0
    out, err = capsys.readouterr()
    assert "failing is not counted: it stopped with RuntimeError: no luck" in out
    assert err.splitlines()[0] == (
        "robustreg: warning: attack 'failing' is not counted: it stopped with RuntimeError: no luck"
    )
    assert "robustreg: warning: attack 'far' is not counted: its point for sample" in err
    assert "workflow.py" not in err
    statuses = [result.status for result in Evaluation.load(trained / "evaluation").attacks]
    assert statuses == ["invalid", "invalid", "counted"]
    assert main(["verify", str(trained), "--threads", "1", "--import", str(file)]) == 0


def test_where_all_fail_the_error_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd_attacks.py"
    file.write_text(ATTACKS)
    assert main(["evaluate", str(trained), "evaluation.attacks=[failing]", "--import", str(file), *FEW]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "robustreg: no luck"


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustreg.attacks import FAB

    search, calls = FAB.search, []

    def stops_at_the_second_batch(self: FAB, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        search(self, *args)

    monkeypatch.setattr(FAB, "search", stops_at_the_second_batch)
    words = ["evaluation.attacks=[fgsm, {attack: fab, steps: 2, targets: 1}]", "evaluation.batch_size=2"]
    assert main(["evaluate", str(trained), *words, *FEW]) == 130
    kept = trained / "evaluation" / "evidence"
    assert capsys.readouterr().err == (
        f"robustreg: evaluation interrupted: 1 of 2 attacks were finished; the same call goes on from what is kept "
        f"in {kept}\n"
    )
    assert list((kept / "unfinished").iterdir())
    assert main(["evaluate", str(trained), *words, *FEW]) == 0
    assert not (kept / "unfinished").exists()


def test_a_full_disk_leaves_the_table_and_an_exit_code(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Evaluation, folder: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "save", full)
        assert main(["evaluate", str(trained), "evaluation.attacks=[fgsm]", *FEW]) == 1
    out, err = capsys.readouterr()
    assert "worst case" in out
    assert err == "robustreg: the results above cannot be written: [Errno 28] No space left on device\n"
    assert main(["evaluate", str(trained), "evaluation.attacks=[fgsm]", *FEW]) == 0
