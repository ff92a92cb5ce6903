"""`robustreg leaderboard`: what is ranked, what is not and why, and the forms it is printed in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustreg.cli import main

THREAT = {"norm": "linf", "eps": 0.1, "bounds": [0.0, 1.0]}
Make = Callable[..., Path]


def score(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.02}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes a run folder with this worst case and returns it."""
    monkeypatch.chdir(tmp_path)

    def write(
        folder: str,
        worst: float | None,
        *,
        name: str | None = None,
        seed: int = 0,
        epochs: int = 3,
        threat: dict[str, Any] = THREAT,
        steps: int = 10,
        sha256: str = "ab",
        n: int = 100,
        complete: bool = True,
        precision: str = "full",
    ) -> Path:
        path = Path(folder)
        name = name or path.name
        path.mkdir(parents=True)
        (path / "recipe.yaml").write_text(f"# resolved\nname: {name}\nseed: {seed}\nepochs: {epochs}\n")
        data = {"name": "digits", "sha256": sha256}
        (path / "run.json").write_text(json.dumps({"name": name, "seed": seed, "data": data}))
        if worst is not None:
            attack = {"name": "pgd", "attack": f"PGD(steps={steps})", "threat": threat, "status": "counted"}
            noise = {"name": "noise", "attack": f"Gaussian({worst})", "threat": None, "status": "no threat"}
            evaluation = {
                "n": n,
                "threat": threat,
                "complete": complete,
                "precision": precision,
                "clean": score(0.97),
                "attacks": [{**attack, **score(worst)}, {**noise, **score(0.9)}],
                "worst_case": score(worst),
            }
            (path / "evaluation").mkdir()
            (path / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
        return path

    return write


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["leaderboard", *words, "--format", "json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_the_order_is_that_of_the_worst_case(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for name, worst in (("low", 0.2), ("high", 0.8), ("middle", 0.5), ("other_middle", 0.5)):
        make(name, worst)
    found = rows(capsys, "low", "high", "middle", "other_middle")
    ranked = [(row["rank"], row["name"]) for row in found]
    assert ranked == [(1, "high"), (2, "middle"), (2, "other_middle"), (4, "low")]
    assert found[0]["worst_case"] == {
        "accuracy": 0.8,
        "low": pytest.approx(0.78),
        "high": pytest.approx(0.82),
        "std": None,
        "seeds": 1,
    }
    assert found[0]["attacks"]["pgd"]["accuracy"] == 0.8


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"threat": {**THREAT, "eps": 0.2}}, ["other threat"]),
        ({"steps": 50}, ["other attacks"]),
        ({"precision": "bf16"}, ["other attacks"]),
        ({"sha256": "cd"}, ["other data"]),
        ({"n": 50}, ["other data"]),
        ({"n": 50, "steps": 50}, ["other data", "other attacks"]),
        ({"complete": False}, ["evaluation interrupted"]),
        ({"worst": None}, ["not evaluated"]),
    ],
)
def test_what_was_not_evaluated_alike_is_not_ranked(
    make: Make, capsys: pytest.CaptureFixture[str], change: dict[str, Any], differs: list[str]
) -> None:
    make("one", 0.4)
    make("two", 0.3)
    make("odd", **{"worst": 0.9, **change})
    found = rows(capsys, "odd", "one", "two")
    assert [(row["rank"], row["name"], row["differs"]) for row in found] == [
        (1, "one", []),
        (2, "two", []),
        (None, "odd", differs),
    ]
    assert main(["leaderboard", "odd", "one", "two"]) == 0
    assert f"not ranked: odd: {', '.join(differs)}" in capsys.readouterr().out
    assert main(["leaderboard", "odd", "one", "two", "--strict"]) == 2
    assert f"not all evaluated alike: odd: {', '.join(differs)}" in capsys.readouterr().err


def test_other_noise_does_not_matter(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """The noise's text is another for each run, but noise is not in the worst case."""
    make("one", 0.4)
    make("two", 0.3)
    assert all(not row["differs"] for row in rows(capsys, "one", "two"))


def test_seeds_are_taken_together(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, worst in enumerate((0.4, 0.6)):
        make(f"cmp/pgd-s{seed}", worst, name="pgd", seed=seed)
    listed = [{"name": "pgd", "path": f"pgd-s{seed}", "seed": seed} for seed in (0, 1)]
    Path("cmp/compare.json").write_text(json.dumps({"title": "t", "runs": listed}))
    (row,) = rows(capsys, "cmp", "cmp/pgd-s0")  # named twice, counted once
    assert row["seeds"] == [0, 1]
    assert row["worst_case"]["accuracy"] == pytest.approx(0.5)
    assert row["worst_case"]["std"] == pytest.approx(0.1414, abs=1e-4)


def test_other_recipes_of_the_same_name_are_told_apart(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a/pgd", 0.4, epochs=3)
    make("b/pgd", 0.5, epochs=9, seed=1)
    assert [row["name"] for row in rows(capsys, "a/pgd", "b/pgd")] == ["pgd (b/pgd)", "pgd (a/pgd)"]


def test_the_same_seed_twice_is_not_two_seeds(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a/pgd", 0.4)
    make("b/pgd", 0.5)
    assert [row["seeds"] for row in rows(capsys, "a/pgd", "b/pgd")] == [[0], [0]]


def test_seeds_that_were_evaluated_differently(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", 0.4, name="pgd", seed=0)
    make("b", 0.4, name="pgd", seed=1, steps=50)
    make("c", 0.1)
    found = rows(capsys, "a", "b", "c")
    assert found[1]["differs"] == ["its seeds were evaluated differently"]


def test_markdown(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a|b", 0.4)
    make("odd", 0.9, steps=50)
    assert main(["leaderboard", "a|b", "odd", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| # | run | clean | pgd | noise | worst case | seeds |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        "| 1 | a&#124;b | 97.0 [95.0, 99.0] | 40.0 [38.0, 42.0] | 90.0 [88.0, 92.0] | 40.0 [38.0, 42.0] | 1 |",
        "|  | odd (other attacks) | 97.0 [95.0, 99.0] | 90.0 [88.0, 92.0] | 90.0 [88.0, 92.0] "
        "| 90.0 [88.0, 92.0] | 1 |",
    ]


def test_csv(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("one", 0.4)
    make("bare", None)
    assert main(["leaderboard", "one", "bare", "--format", "csv"]) == 0
    one, bare = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (one["rank"], one["worst_case"], one["worst_case low"], one["under pgd"]) == (
        "1",
        "0.4",
        "0.38",
        "0.4",
    )
    assert (bare["rank"], bare["worst_case"], bare["differs"]) == ("", "", "not evaluated")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope"], "nope is neither a run folder nor a comparison folder: there is no such folder"),
        (["empty"], "empty is neither a run folder nor a comparison folder"),
        (["bare"], "none of these runs is evaluated yet; `robustreg evaluate RUN` does that"),
        (["one", "--format", "tex"], "--format should be table, markdown, csv or json, but is 'tex'"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_shown(
    make: Make, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    make("one", 0.4)
    make("bare", None)
    Path("empty").mkdir()
    assert main(["leaderboard", *words]) == 2
    assert sentence in capsys.readouterr().err
