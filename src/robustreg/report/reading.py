"""What a run or a comparison folder holds, read without trusting it.

Every file may be missing, truncated or of another shape: a run that was interrupted is exactly the run whose
report is wanted. So a reader returns what it could read, and adds a sentence to `problems` for what it could
not.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustreg.report.formatting import integer, norm_name, number, threat_name

Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class Score:
    """An accuracy as a fraction, with its interval where there is one."""

    accuracy: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AttackScore:
    """The accuracy under one attack.

    `threat` is its readable name, empty for an attack that has none; `status` says whether it entered the
    worst case, and `problem` what an invalid attack broke.
    """

    name: str
    attack: str
    threat: str
    score: Score
    seconds: float | None = None
    status: str = ""
    problem: str = ""


@dataclass(frozen=True)
class CurvePoint:
    """One point of the robustness curve, measured on `n` samples."""

    eps: float
    attack: str
    score: Score
    n: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class ClassScore:
    """Clean accuracy and worst case of one class of `n` samples."""

    label: str
    n: int | None
    clean: Score | None
    worst: Score | None


@dataclass(frozen=True)
class Distances:
    """How far away one attack found the nearest misclassified points, sample by sample.

    `values` are in the order of the samples, infinite where nothing was found; `samples` says which they are. `low`
    and `high` are the interval of the median, None for an end that is not known.
    """

    name: str
    norm: str
    values: tuple[float, ...]
    samples: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    quantiles: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Evaluation:
    """evaluation.json, as far as it could be read."""

    n: int | None = None
    seed: int | None = None
    threat: dict[str, Any] = field(default_factory=dict)
    clean: Score | None = None
    attacks: tuple[AttackScore, ...] = ()
    worst: Score | None = None
    curve: tuple[CurvePoint, ...] = ()
    classes: tuple[ClassScore, ...] = ()
    distances: tuple[Distances, ...] = ()
    ece: float | None = None
    confidence: float | None = None
    sequential: bool = False
    precision: str = "full"
    complete: bool = True


@dataclass(frozen=True)
class Run:
    """One run folder; `place` is its path inside the comparison, with forward slashes."""

    folder: Path
    name: str
    seed: int | None
    info: dict[str, Any]
    recipe: str | None
    plan: dict[str, Any] | None
    metrics: Columns
    validation: Columns
    evaluation: Evaluation | None
    has_evidence: bool
    place: str
    problems: tuple[str, ...]

    @property
    def status(self) -> str:
        """`finished`, `running`, `interrupted`, `failed`, or `unknown`."""
        status = self.info.get("status")
        return status if status in ("finished", "running", "interrupted", "failed") else "unknown"

    @property
    def elsewhere(self) -> bool:
        """Whether the network was trained elsewhere, and only taken over for this run."""
        return self.info.get("trained") == "elsewhere"

    @property
    def label(self) -> str:
        """Name and seed."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a training step, when it was measured."""
        measured = self.info.get("step_seconds")
        return number(measured.get("median")) if isinstance(measured, Mapping) else number(measured)


@dataclass(frozen=True)
class Comparison:
    """A comparison folder: its title and its runs in the order they are listed."""

    folder: Path
    title: str
    runs: tuple[Run, ...]
    problems: tuple[str, ...]


def is_run(folder: Path) -> bool:
    """Whether the folder is a run, finished or not: training writes one of these two files first."""
    return (folder / "run.json").is_file() or (folder / "recipe.yaml").is_file()


def is_comparison(folder: Path) -> bool:
    """Whether the folder is a comparison."""
    return (folder / "compare.json").is_file()


def read_run(folder: Path, name: str | None = None, seed: int | None = None, place: str = ".") -> Run:
    """Read a run folder; the `name` and `seed` that a comparison gives come before what the run says."""
    problems: list[str] = []
    info = _read_object(folder / "run.json", problems) or {}
    evaluation = _read_object(folder / "evaluation" / "evaluation.json", problems)
    return Run(
        folder=folder,
        name=str(name or info.get("name") or folder.resolve().name),
        seed=seed if seed is not None else integer(info.get("seed")),
        info=info,
        recipe=_read_text(folder / "recipe.yaml", problems),
        plan=_read_object(folder / "plan.json", problems),
        metrics=_read_columns(folder / "metrics.csv", problems),
        validation=_read_columns(folder / "validation.csv", problems),
        evaluation=None if evaluation is None else parse_evaluation(evaluation),
        has_evidence=(folder / "evaluation" / "evidence" / "manifest.json").is_file(),
        place=place,
        problems=tuple(problems),
    )


def read_comparison(folder: Path) -> Comparison:
    """Read a comparison folder and all its runs.

    Raises ValueError when compare.json itself cannot be read, since it is what names the runs.
    """
    problems: list[str] = []
    listing = _read_object(folder / "compare.json", problems)
    if listing is None:
        raise ValueError(f"the comparison folder {folder} cannot be read: {problems[0]}")
    entries = listing.get("runs")
    if not isinstance(entries, list):
        raise ValueError(f"{folder / 'compare.json'} holds no list of runs under the key 'runs'")
    runs: list[Run] = []
    absent: list[str] = []
    for entry in entries:
        path = entry.get("path") if isinstance(entry, Mapping) else None
        if not isinstance(path, str) or not (folder / path).is_dir():
            absent.append(str(path))
            continue
        seed, place = integer(entry.get("seed")), Path(path).as_posix()
        runs.append(read_run(folder / path, entry.get("name"), seed, place))
    if absent:
        problems.append(f"{len(absent)} of {len(entries)} listed runs have no folder: {', '.join(absent)}.")
    title = str(listing.get("title") or folder.resolve().name)
    return Comparison(folder, title, tuple(runs), tuple(problems))


def parse_evaluation(data: Mapping[str, Any]) -> Evaluation:
    """The parts of evaluation.json that make sense; entries without an accuracy are left out."""
    threat = data.get("threat")
    attacks = [_parse_attack(entry, threat) for entry in _objects(data.get("attacks"))]
    curve = [_parse_point(entry) for entry in _objects(data.get("curve"))]
    distances = [_parse_distances(entry) for entry in _objects(data.get("distances"))]
    calibration = data.get("calibration")
    calibration = calibration if isinstance(calibration, Mapping) else {}
    return Evaluation(
        n=integer(data.get("n")),
        seed=integer(data.get("seed")),
        threat=dict(threat) if isinstance(threat, Mapping) else {},
        clean=_parse_score(data.get("clean")),
        attacks=tuple(attack for attack in attacks if attack is not None),
        worst=_parse_score(data.get("worst_case")),
        curve=tuple(point for point in curve if point is not None),
        classes=tuple(_parse_class(entry) for entry in _objects(data.get("per_class"))),
        distances=tuple(one for one in distances if one is not None),
        ece=number(calibration.get("ece")),
        confidence=number(calibration.get("confidence")),
        sequential=data.get("sequential") is True,
        precision=str(data.get("precision", "full")),
        complete=data.get("complete") is not False,
    )


def _parse_attack(entry: Mapping[str, Any], default_threat: Any) -> AttackScore | None:
    score = _parse_score(entry)
    if score is None:
        return None
    attack = str(entry.get("attack") or "")
    threat = entry.get("threat", default_threat)
    name = str(entry.get("name") or attack or "unnamed attack")
    return AttackScore(
        name=name,
        attack=attack,
        threat=threat_name(threat),
        score=score,
        seconds=number(entry.get("seconds")),
        status=str(entry.get("status") or ""),
        problem=str(entry.get("problem") or ""),
    )


def _parse_point(entry: Mapping[str, Any]) -> CurvePoint | None:
    eps, score = number(entry.get("eps")), _parse_score(entry)
    if eps is None or score is None:
        return None
    attack, problem = str(entry.get("attack") or ""), str(entry.get("problem") or "")
    return CurvePoint(eps, attack, score, integer(entry.get("n")), problem)


def _parse_class(entry: Mapping[str, Any]) -> ClassScore:
    return ClassScore(
        label=str(entry.get("label", "")),
        n=integer(entry.get("n")),
        clean=_parse_score(entry.get("clean")),
        worst=_parse_score(entry.get("worst_case")),
    )


def _parse_distances(entry: Mapping[str, Any]) -> Distances | None:
    listed, threat, quantiles = entry.get("distances"), entry.get("threat"), entry.get("quantiles")
    if not isinstance(listed, list) or not listed:
        return None
    values = [math.inf if value is None else number(value) for value in listed]
    return Distances(
        name=str(entry.get("name") or "unnamed attack"),
        norm=norm_name(threat.get("norm")) if isinstance(threat, Mapping) else "",
        values=tuple(value for value in values if value is not None),
        samples=str(entry.get("samples")),
        median=number(entry.get("median")),
        low=number(entry.get("low")),
        high=number(entry.get("high")),
        quantiles={key: number(value) for key, value in quantiles.items()}
        if isinstance(quantiles, dict)
        else {},
        seconds=number(entry.get("seconds")),
        problem=str(entry.get("problem") or ""),
    )


def _parse_score(entry: Any) -> Score | None:
    if not isinstance(entry, Mapping):
        return None
    accuracy = number(entry.get("accuracy"))
    return None if accuracy is None else Score(accuracy, number(entry.get("low")), number(entry.get("high")))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _read_text(path: Path, problems: list[str]) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name} could not be read: {error}.")
        return None


def _read_object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    text = _read_text(path, problems)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} is not valid JSON: {error}.")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path.name} should hold a JSON object and holds {type(value).__name__}.")
        return None
    return value


def _read_columns(path: Path, problems: list[str]) -> Columns:
    text = _read_text(path, problems)
    if text is None:
        return {}
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        problems.append(f"{path.name} is not valid CSV: {error}.")
        return {}
    if not rows:
        return {}
    # A run that was killed may leave a last line without all its fields: they count as missing values.
    columns: Columns = {
        name: [number(row[i]) if i < len(row) else None for row in rows[1:]]
        for i, name in enumerate(rows[0])
        if name
    }
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}
