"""One run for the tests of commands that read runs. They may evaluate it again, but leave it evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustreg.cli import main

QUICK = ("epochs=1", "model.width=4", "evaluation.samples=40", "evaluation.curve=[]", "--no-progress")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "run"
    assert main(["train", "plain", *QUICK, "--threads", "1", "--run-dir", str(folder)]) == 0
    return folder
