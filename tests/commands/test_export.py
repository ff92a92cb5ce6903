"""`robustreg export`: a run in RobustBench's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from robustreg.cli import main
from robustreg.data import load
from robustreg.evaluation import Evaluation
from robustreg.integrations import ModelCard, load_exported


def test_the_network_and_its_card(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--no-progress", "--threads", "1"]) == 0
    capsys.readouterr()
    words = [
        "--name",
        "Mine2026Test",
        "--title",
        "A paper",
        "--link",
        "https://example.org",
        "--additional-data",
    ]
    assert main(["export", str(trained), "--to", str(tmp_path), *words]) == 0
    out = capsys.readouterr().out
    assert "still empty on the card: authors, venue (see --authors, --venue)" in out
    assert "no autoattack_acc" in out
    evaluation = Evaluation.load(trained / "evaluation")
    card = ModelCard.read(tmp_path / "model_info" / "digits" / "Linf" / "Mine2026Test.json")
    assert card.threat() == evaluation.threat
    assert evaluation.worst_case is not None
    assert card.clean_acc == pytest.approx(evaluation.clean.accuracy, abs=1e-4)
    assert card.reported == pytest.approx(evaluation.worst_case.accuracy, abs=1e-4)
    assert card.autoattack_acc is None
    assert (card.name, card.additional_data) == ("A paper", True)
    test = load("digits").test.floats().take(40)
    predicted = load_exported(tmp_path)(test.x).argmax(1)
    assert torch.equal(predicted == test.y, evaluation.clean.outcomes)


def test_the_standard_ensemble_fills_the_card(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = "evaluation.attacks=[fgsm, standard_ensemble]"
    few = ["evaluation.samples=2", "--no-progress", "--threads", "1"]
    assert main(["evaluate", str(trained), attacks, *few]) == 0
    assert main(["export", str(trained), "--to", str(tmp_path)]) == 0
    assert "no autoattack_acc" not in capsys.readouterr().out
    values = json.loads((tmp_path / "model_info" / "digits" / "Linf" / "plain.json").read_text())
    accuracy = Evaluation.load(trained / "evaluation")["standard_ensemble"].score.accuracy
    assert float(values["autoattack_acc"]) == pytest.approx(100 * accuracy, abs=0.01)
    assert "on 2 test samples" in values["footnote"]


def test_a_norm_that_the_standard_ensemble_is_not_made_for(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["threat.norm=l1.5", "evaluation.attacks=[fgsm]", "evaluation.samples=2", "--no-progress"]
    assert main(["evaluate", str(trained), *words, "--threads", "1"]) == 0
    assert main(["export", str(trained), "--to", str(tmp_path)]) == 0
    assert "RobustBench has the threats Linf and L2; this run's is L1.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope", "--to", "zoo"], "nope is no run folder"),
        (["RUN"], "Missing option '--to'"),
        (["RUN", "--to", "zoo", "--name", "a/b"], "the identifier of a card names a file"),
    ],
)
def test_what_cannot_be_exported(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(word.replace("RUN", str(trained)) for word in words)]) != 0
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_not_evaluated(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "recipe.yaml").write_text((trained / "recipe.yaml").read_text())
    assert main(["export", str(bare), "--to", str(tmp_path / "zoo")]) == 2
    assert "is not trained and evaluated yet" in capsys.readouterr().err
