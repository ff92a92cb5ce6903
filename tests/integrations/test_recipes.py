"""An attack of another library in a recipe, as docs/evaluation.md shows it, on the command line."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from robustreg import registry
from robustreg.cli import main
from robustreg.evaluation import Evaluation

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def block(opening: str) -> str:
    found = re.search(rf"```{opening}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "point", dict(registry._registered["point"]))


def test_the_documented_way(
    stand_ins: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = ModuleType("foolbox.attacks")
    attacks.LinfPGD = stand_ins.foolbox  # type: ignore[attr-defined]
    sys.modules["foolbox"].attacks = attacks  # type: ignore[attr-defined]
    (tmp_path / "my_attacks.py").write_text(block('py title="my_attacks.py"'))
    monkeypatch.chdir(tmp_path)
    quick = ["epochs=1", "model.width=4", "evaluation.samples=40", "evaluation.curve=[0.1]"]
    quick += ["evaluation.attacks=[fgsm]", "--no-progress", "--threads", "1"]
    assert main(["train", "plain", "--run-dir", "runs/first", *quick]) == 0
    words = shlex.split(block("zsh").replace("\\\n", " "))[1:]
    assert main([*words, "--no-progress", "--threads", "1"]) == 0
    found = Evaluation.load("runs/first/evaluation")
    assert [(a.name, a.status) for a in found.attacks] == [("fgsm", "counted"), ("foolbox_pgd", "counted")]
    assert "FoolboxPGD(steps=20)" in found["foolbox_pgd"].attack
    assert main(["verify", "runs/first", "--threads", "1", "--import", "my_attacks.py"]) == 0
