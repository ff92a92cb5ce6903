"""`import robustreg` must be quick: it loads nothing heavier than torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STAGES = """
import json, sys
import torch, numpy, safetensors
base = set(sys.modules)
import robustreg as rr
rr.CrossEntropy, rr.GradientNorm, rr.PGD, rr.methods.gradient_family, rr.register
imported = set(sys.modules)
net = torch.nn.Linear(4, 3)
(rr.CrossEntropy() + rr.GradientNorm(rr.Threat("linf", 0.1)))(net, torch.rand(2, 4), torch.tensor([0, 1]))
print(json.dumps({"imported": sorted(imported - base), "used": sorted(set(sys.modules) - base)}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """What a fresh process loads beyond torch, numpy and safetensors: after the import, and after a first step."""
    done = subprocess.run([sys.executable, "-c", STAGES], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_import_loads_nothing_heavier_than_torch(loaded: dict[str, list[str]]) -> None:
    own = {"robustreg", "torch", "numpy", "safetensors"}  # torch loads more of itself as it is used
    foreign = {
        name for name in loaded["imported"] if name.partition(".")[0] not in own | sys.stdlib_module_names
    }
    assert foreign == set()


def test_a_step_of_training_loads_no_extra(loaded: dict[str, list[str]]) -> None:
    extras = {
        "lightning_fabric",
        "sklearn",
        "scipy",
        "pydantic",
        "typer",
        "rich",
        "omegaconf",
        "yaml",
        "plotly",
    }
    extras |= {"jinja2", "pooch", "tensorboard", "mlflow", "wandb", "torchvision"}
    assert {name.partition(".")[0] for name in loaded["used"]} & extras == set()


def test_the_core_loads_no_other_room(loaded: dict[str, list[str]]) -> None:
    rooms = ("training", "data", "report", "cli", "commands", "config", "models", "evaluation")
    assert {
        name for name in loaded["used"] if name.startswith(tuple(f"robustreg.{room}" for room in rooms))
    } == set()
