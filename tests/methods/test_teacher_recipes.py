"""The recipes with an average or a teacher build what one would write, and the teacher is the run that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("pydantic")

import torch

import robustreg as rr
from robustreg.commands.workflow import Setting, train_run
from robustreg.config import build, load_recipe

T = rr.Threat("linf", 0.15)
WRITTEN = {
    "gair": rr.methods.gair(T),
    "adr": rr.methods.adr(T),
    "rebat": rr.methods.rebat(T, decay=0.95),
    "srst_awr": rr.methods.srst_awr(T),
}
TINY = ["epochs=1", "model.width=2", "validation.attack=null", "data.train_size=64", "batch_size=16"]


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_recipe_builds_what_one_would_write(name: str) -> None:
    built = build(load_recipe(name), other_runs=False)
    assert repr(built.objective) == repr(WRITTEN[name])


def test_few_labels_and_the_run_that_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = [*TINY, "data.labelled=0.25"]
    train_run(load_recipe("plain", few), Path("runs/few_labels"), Setting(progress=False))
    recipe = load_recipe("srst_awr", [*few, "objective.teacher={run: runs/few_labels}"])
    built = build(recipe)
    assert (built.splits.train.y >= 0).sum() == 16
    x, y = built.splits.train[:8]
    teacher = built.objective.entries[1][1].teacher  # type: ignore[attr-defined]
    before = [p.clone() for p in teacher.parameters()]
    built.objective(built.net, x, y, step=0).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    result = train_run(recipe, Path("runs/srst"), Setting(progress=False))
    assert result.status == "finished"
    assert '"teacher_forwards": 1' in Path("runs/srst/plan.json").read_text()
