"""Small run and comparison folders with made-up numbers, in the layout that training and evaluation write."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

PLANS = {
    "plain": {"forwards": 1, "input_backwards": 0, "parameter_backwards": 1, "double_backwards": 0},
    "penalty": {"forwards": 1, "input_backwards": 1, "parameter_backwards": 1, "double_backwards": 1},
    "perturbed": {"forwards": 2, "input_backwards": 1, "parameter_backwards": 1, "double_backwards": 0},
}
ROWS = {
    "plain": [{"kind": "forward", "point": "Clean", "mode": "train", "asked_by": ["ce"]}],
    "penalty": [
        {"kind": "forward", "point": "Clean", "mode": "train", "asked_by": ["ce", "grad_norm"]},
        {"kind": "input backward", "point": "Clean", "mode": "train", "asked_by": ["grad_norm"]},
    ],
    "perturbed": [
        {"kind": "forward", "point": "Clean", "mode": "train", "asked_by": ["perturbed"]},
        {"kind": "input backward", "point": "Clean", "mode": "train", "asked_by": ["perturbed"]},
        {"kind": "forward", "point": "Steepest", "mode": "train", "asked_by": ["perturbed"]},
    ],
}
CLEAN = {"plain": 0.9822, "penalty": 0.9756, "perturbed": 0.9911}
ROBUST = {"plain": 0.33, "penalty": 0.58, "perturbed": 0.81}
THREAT = {"norm": "linf", "eps": 0.1, "bounds": [0.0, 1.0]}
CLASSES = [str(i) for i in range(10)]
N = 450


def score(accuracy: float, n: int = N) -> dict[str, float]:
    half = 1.96 * math.sqrt(accuracy * (1.0 - accuracy) / n)
    return {"accuracy": accuracy, "low": max(0.0, accuracy - half), "high": min(1.0, accuracy + half)}


def evaluation(kind: str, seed: int) -> dict[str, Any]:
    threat = THREAT
    clean, robust = CLEAN[kind] - 0.004 * seed, ROBUST[kind] + 0.012 * seed
    attacks = [
        ("FGSM", "FGSM(Threat('linf', 0.1))", threat, "counted", robust + 0.05),
        ("PGD-20", "PGD(Threat('linf', 0.1), steps=20, restarts=2)", threat, "counted", robust),
        ("Gaussian", "Gaussian(std=0.1)", None, "no threat", clean - 0.01),
    ]
    radii = (0.05, 0.1, 0.15, 0.2, 0.3)
    return {
        "format": 1,
        "n": N,
        "seed": 0,
        "threat": threat,
        "sequential": False,
        "complete": True,
        "clean": score(clean),
        "attacks": [
            {
                "name": name,
                "attack": text,
                "threat": own,
                "status": status,
                "problem": None,
                "seconds": 1.8,
                **score(value),
            }
            for name, text, own, status, value in attacks
        ],
        "worst_case": score(robust),
        "curve": [
            {
                "eps": eps,
                "attack": "PGD-20",
                "n": N,
                "problem": None,
                **score(clean * (robust / clean) ** (eps / 0.1) ** 1.3),
            }
            for eps in radii
        ],
        "calibration": {"ece": 0.0231, "confidence": 0.9612, "bins": []},
        "per_class": [
            {
                "label": label,
                "n": 45,
                "clean": score(clean, 45),
                "worst_case": score(robust - 0.02 * label, 45),
            }
            for label in range(10)
        ],
        "distances": [distances("fab", robust, 1.0), distances("deepfool", robust, 1.1)],
    }


def distances(name: str, robust: float, factor: float) -> dict[str, Any]:
    """Of 40 samples: one misclassified as it is, one for which nothing was found."""
    values = [0.0, *(factor * robust * (i + 1) / 100 for i in range(38))]
    return {
        "name": name,
        "attack": f"{name}()",
        "threat": {"norm": "linf", "bounds": [0.0, 1.0]},
        "problem": None,
        "n": 40,
        "found": 39,
        "median": values[19],
        "low": values[14],
        "high": values[25],
        "quantiles": {
            "0.1": values[3],
            "0.25": values[9],
            "0.5": values[19],
            "0.75": values[29],
            "0.9": values[35],
        },
        "samples": "/////w==",
        "distances": [*values, None],
        "seconds": 2.5,
    }


def metrics(kind: str, steps: int = 120) -> str:
    term = {"plain": None, "penalty": "grad_norm", "perturbed": "perturbed"}[kind]
    lines = [",".join(["step", "epoch", "lr", "loss", "ce", *([term] if term else []), "seconds"])]
    for step in range(1, steps + 1):
        at = step / steps
        ce = 2.3 * math.exp(-5.0 * at) + 0.02 + 0.05 * math.sin(7.0 * step) ** 2
        values = [step, 1 + (step - 1) // 20, 0.1 * math.sin(math.pi * at) + 1e-4, ce * 1.3, ce]
        values += [0.4 * math.exp(-2.0 * at) + 0.03 * math.cos(5.0 * step) ** 2] if term else []
        lines.append(",".join(f"{value:.6g}" for value in [*values, 0.0042]))
    return "\n".join(lines) + "\n"


def validation(kind: str, epochs: int = 6) -> str:
    lines = ["epoch,step,clean,robust"]
    for epoch in range(1, epochs + 1):
        grown = 1.0 - math.exp(-epoch)
        lines.append(f"{epoch},{epoch * 20},{CLEAN[kind] * grown:.4f},{ROBUST[kind] * grown**2:.4f}")
    return "\n".join(lines) + "\n"


def example_tensors(kind: str, channels: int = 1, count: int = 8, size: int = 8) -> dict[str, np.ndarray]:
    """Rings and crosses; the perturbation is noise for `plain` and follows the shape for the others."""
    source = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2))
    clean = (
        np.stack([_shape(grid, i) for i in range(count)])[:, None].repeat(channels, axis=1).astype(np.float32)
    )
    noise = source.normal(size=clean.shape).astype(np.float32)
    direction = noise if kind == "plain" else 0.6 - clean + 0.3 * noise
    gradient = (0.1 * direction / np.abs(direction).max(axis=(1, 2, 3), keepdims=True)).astype(np.float32)
    labels = np.arange(count) % 10
    fooled = labels % 2 == 0 if kind == "plain" else labels % 4 == 0
    return {
        "clean": clean,
        "label": labels,
        "prediction": labels,
        "adversarial": np.clip(clean + 0.1 * np.sign(gradient), 0.0, 1.0).astype(np.float32),
        "adversarial_prediction": np.where(fooled, (labels + 3) % 10, labels),
        "gradient": gradient,
    }


def _shape(grid: np.ndarray, i: int) -> np.ndarray:
    radius = np.sqrt((grid**2).sum(axis=0))
    ring = np.exp(-(((radius - 0.3 - 0.07 * i) / 0.2) ** 2))
    cross = np.exp(-((np.abs(grid).min(axis=0) / 0.25) ** 2))
    return ring if i % 2 == 0 else cross


def write_run(
    folder: Path, kind: str = "penalty", name: str | None = None, seed: int = 0, **info: Any
) -> Path:
    folder.mkdir(parents=True)
    name = name or kind
    seconds = {"plain": 0.0041, "penalty": 0.0096, "perturbed": 0.0083}[kind]
    run = {
        "name": name,
        "seed": seed,
        "status": "finished",
        "started": "2026-01-05T10:00:00+00:00",
        "finished": "2026-01-05T10:01:12+00:00",
        "versions": {"python": "3.11.2", "robustreg": "0.1.0", "torch": "2.13.0"},
        "parameters": 203530,
        "data": {
            "name": "digits",
            "description": "made-up digits for tests",
            "train": 1212,
            "validation": 135,
            "test": N,
            "classes": CLASSES,
            "sha256": "ab" * 32,
        },
        "model": {"name": "conv_small", "width": 32, "activation": "relu"},
        "threat": THREAT,
        "step_seconds": {"median": seconds, "count": 115},
        **info,
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "recipe.yaml").write_text(
        f"name: {name}\nseed: {seed}\nobjective:\n  method: {kind}\nepochs: 6\n"
    )
    counts = PLANS[kind]
    cost = counts["forwards"] + counts["input_backwards"] + 2 * counts["parameter_backwards"]
    relative = (cost + 3 * counts["double_backwards"]) / 3
    (folder / "plan.json").write_text(json.dumps({**counts, "rows": ROWS[kind], "relative_cost": relative}))
    (folder / "metrics.csv").write_text(metrics(kind))
    (folder / "validation.csv").write_text(validation(kind))
    evidence = folder / "evaluation" / "evidence"
    evidence.mkdir(parents=True)
    (evidence / "manifest.json").write_text("{}")
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation(kind, seed)))
    about = {"selection": "the first of each class", "attack": "PGD with 20 steps", "threat": THREAT}
    save_file(example_tensors(kind), folder / "examples.safetensors", metadata={"about": json.dumps(about)})
    return folder


def write_comparison(folder: Path, seeds: int = 1, names: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True)
    runs = []
    for kind in PLANS:
        name = (names or {}).get(kind, kind)
        for seed in range(seeds):
            path = f"{kind}-{seed}"
            write_run(folder / path, kind, name, seed)
            runs.append({"name": name, "path": path, "seed": seed})
    (folder / "compare.json").write_text(json.dumps({"title": "Gradient family on digits", "runs": runs}))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    return lambda folder="made", **options: write_run(tmp_path / folder, **options)


@pytest.fixture
def make_comparison(tmp_path: Path) -> Callable[..., Path]:
    return lambda folder="comparison", **options: write_comparison(tmp_path / folder, **options)
