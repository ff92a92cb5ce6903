"""The tables of accuracies: leaderboard, accuracy under each attack, and the numbers behind the curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustreg.report import formatting as fmt
from robustreg.report.aggregate import (
    Group,
    Mean,
    attack_keys,
    attack_of,
    curves_by_norm,
    group_mean,
)
from robustreg.report.charts import COLOURS
from robustreg.report.reading import Run, Score

Pick = Callable[[Run], Score | None]
_REMARKS = {
    "no threat": "claims no threat, not in the worst case",
    "noise": "noise, not in the worst case",
    "other threat": "another threat, not in the worst case",
    "invalid": "broke its threat, not in the worst case",
}


@dataclass(frozen=True)
class Condition:
    """What an accuracy was measured under: `clean`, one `attack`, or the `worst` case over all of them."""

    kind: Literal["clean", "worst", "attack"]
    name: str
    threat: str
    pick: Pick


def leaderboard(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Means over seeds: clean, worst case and each attack, ordered by the worst case (else by the first)."""
    columns = _conditions([run for group in groups for run in group.runs])
    if not columns:
        return None
    columns.sort(key=lambda column: ("clean", "worst", "attack").index(column.kind))
    ranking = next((i for i, column in enumerate(columns) if column.kind == "worst"), 0)
    rows: list[dict[str, Any]] = []
    for index, group in enumerate(groups):
        means = [group_mean(group, column.pick) for column in columns]
        seeds = [str(run.seed) for run in group.runs if run.seed is not None]
        rows.append(
            {
                "name": group.name,
                "colour": index % COLOURS,
                "seeds": ", ".join(seeds) or fmt.UNKNOWN,
                "seed_count": len(group.runs),
                "cells": [_mean_cell(mean, len(group.runs)) for mean in means],
                "rank": 1.0 if (mean := means[ranking]) is None else -mean.accuracy,
            }
        )
    rows.sort(key=lambda row: row["rank"])
    headings = [{"name": c.name, "threat": c.threat, "ranks": i == ranking} for i, c in enumerate(columns)]
    return {"columns": headings, "rows": rows}


def accuracy(groups: Sequence[Group], compared: bool) -> dict[str, Any] | None:
    """Every accuracy with its interval: one table for one run, a table for each condition of a comparison."""
    runs = [run for group in groups for run in group.runs]
    conditions = _conditions(runs)
    if not conditions:
        return None
    notes = _notes(runs, compared)
    if not compared:
        rows = [_row(condition, runs[0], condition.name, condition.threat) for condition in conditions]
        return {"rows": rows, "tables": [], "notes": notes}
    tables = []
    for condition in conditions:
        rows = []
        for index, group in enumerate(groups):
            for run in group.runs:
                if condition.pick(run) is not None:
                    label = run.name if len(group.runs) == 1 else run.label
                    rows.append({**_row(condition, run, label, ""), "colour": index % COLOURS})
        keep_open = condition.kind != "attack" or len(runs) <= 3
        tables.append({"name": condition.name, "threat": condition.threat, "rows": rows, "open": keep_open})
    return {"rows": [], "tables": tables, "notes": notes}


def curve_tables(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The numbers behind each curve chart: a row for each eps, a column for each group."""
    tables = []
    for norm, curves in curves_by_norm(groups).items():
        by_eps = [dict(means) for _, means in curves]
        radii = sorted({eps for means in by_eps for eps in means})
        rows = [
            {
                "eps": fmt.radius(eps),
                "cells": [
                    _mean_cell(means.get(eps), len(groups[i].runs))
                    for (i, _), means in zip(curves, by_eps, strict=True)
                ],
            }
            for eps in radii
        ]
        tables.append({"norm": norm, "columns": [groups[index].name for index, _ in curves], "rows": rows})
    return tables


def curve_notes(groups: Sequence[Group]) -> list[str]:
    """Which attack the curve is of, on how many samples, and what went wrong with a point of it."""
    evaluations = [run.evaluation for group in groups for run in group.runs if run.evaluation is not None]
    curve = [point for evaluation in evaluations for point in evaluation.curve]
    attacks = list(dict.fromkeys(point.attack for point in curve if point.attack))
    notes = []
    if attacks:
        notes.append(f"Measured with {' and '.join(attacks)} at each ε above 0.")
    fewer = {p.n for e in evaluations for p in e.curve if p.n is not None and e.n is not None and p.n < e.n}
    if fewer:
        sizes = " or ".join(fmt.count(n) for n in sorted(fewer))
        notes.append(
            f"Points above 0 were measured on {sizes} of the samples, clean accuracy on all of them."
        )
    broken = list(dict.fromkeys(f"At ε = {fmt.radius(p.eps)}: {p.problem}" for p in curve if p.problem))
    return notes + broken


def _conditions(runs: Sequence[Run]) -> list[Condition]:
    """What any run has a number for: clean, each attack, worst case."""
    conditions = [Condition("clean", "Clean", "", _clean)]
    conditions += [
        Condition("attack", name, threat, _under((name, threat))) for name, threat in attack_keys(runs)
    ]
    conditions.append(Condition("worst", "Worst case", "", _worst))
    return [condition for condition in conditions if any(condition.pick(run) is not None for run in runs)]


def _clean(run: Run) -> Score | None:
    return run.evaluation.clean if run.evaluation else None


def _worst(run: Run) -> Score | None:
    return run.evaluation.worst if run.evaluation else None


def _under(key: tuple[str, str]) -> Pick:
    def pick(run: Run) -> Score | None:
        attack = attack_of(run, key)
        return None if attack is None else attack.score

    return pick


def _row(condition: Condition, run: Run, label: str, threat: str) -> dict[str, Any]:
    score = condition.pick(run)
    attack = attack_of(run, (condition.name, condition.threat)) if condition.kind == "attack" else None
    remark = _REMARKS.get(attack.status, "") if attack else ""
    if attack and attack.problem:
        remark = f"{remark}: {attack.problem}" if remark else attack.problem
    return {
        "name": label,
        "threat": threat,
        "remark": remark,
        "accuracy": fmt.percent(score.accuracy if score else None),
        "interval": fmt.interval(score.low, score.high) if score else "",
        "bar": _bar(score),
        "attack": attack.attack if attack and attack.attack != attack.name else "",
        "seconds": fmt.seconds(attack.seconds) if attack and attack.seconds is not None else "",
    }


def _bar(score: Score | None) -> dict[str, str] | None:
    """Where the dot and the band of an accuracy stand between 0 and 100 %."""
    if score is None:
        return None
    ends = (score.accuracy if end is None else end for end in (score.low, score.high))
    at, low, high = (min(max(value, 0.0), 1.0) for value in (score.accuracy, *ends))
    return {
        "at": f"{100 * at:.2f}%",
        "low": f"{100 * low:.2f}%",
        "width": f"{100 * max(high - low, 0.0):.2f}%",
    }


def _mean_cell(mean: Mean | None, runs: int) -> dict[str, Any]:
    if mean is None:
        return {"text": fmt.UNKNOWN, "note": "", "seeds": "", "sort": ""}
    note = fmt.points(mean.spread) if mean.count > 1 else fmt.interval(mean.low, mean.high)
    seeds = f"{mean.count} of {runs} seeds" if mean.count < runs else ""
    return {"text": fmt.percent(mean.accuracy), "note": note, "seeds": seeds, "sort": f"{mean.accuracy:.8f}"}


def _notes(runs: Sequence[Run], compared: bool) -> list[str]:
    evaluated = [(run, run.evaluation) for run in runs if run.evaluation is not None]
    notes = []
    if len({fmt.threat_name(e.threat) for _, e in evaluated}) > 1:
        notes.append(
            "The runs were evaluated under different threats, so their worst cases are not of the same kind."
        )
    if len({e.n for _, e in evaluated}) > 1:
        notes.append("The runs were evaluated on different numbers of samples.")
    missing = [run.label for run in runs if run.evaluation is None]
    if missing and compared:
        notes.append(f"Not evaluated yet: {', '.join(missing)}.")
    for run, evaluation in evaluated:
        own = f"{run.label}: " if compared else ""
        if evaluation.sequential:
            notes.append(
                f"{own}Each attack ran only on the samples still standing; its row is what was left after it."
            )
        if evaluation.precision != "full":
            notes.append(
                f"{own}Attacks ran in {evaluation.precision}; every verdict was made in full precision."
            )
        if not evaluation.complete:
            notes.append(f"{own}The evaluation was interrupted before it was complete.")
    return list(dict.fromkeys(notes))
