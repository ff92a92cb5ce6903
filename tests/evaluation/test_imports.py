from __future__ import annotations

import subprocess
import sys


def test_evaluation_loads_nothing_but_the_core():
    code = "import sys, robustreg.evaluation; print('\\n'.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    for name in (
        "rich",
        "sklearn",
        "scipy",
        "lightning_fabric",
        "pydantic",
        "omegaconf",
        "plotly",
        "typer",
        "torchvision",
    ):
        assert name not in out
    for room in ("training", "data", "cli", "report", "config", "commands"):
        assert f"robustreg.{room}" not in out
