"""Standings as Markdown, CSV and JSON, for papers, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustreg.report.aggregate import Mean

    from .standings import Standing

Keys = Sequence[tuple[str, str]]


def as_markdown(rows: Sequence[Standing], keys: Keys) -> str:
    """A table for a README; accuracies in percent, `±` the standard deviation over seeds, else the interval."""
    header = ["#", "run", "clean", *(name for name, _ in keys), "worst case", "seeds"]
    lines = [header, ["---:", "---", *["---:"] * (len(header) - 2)]]
    for row in rows:
        cells = [_percent(mean) for mean in (row.clean, *_attacks(row, keys), row.worst)]
        rank = "" if row.rank is None else str(row.rank)
        name = row.name + (f" ({', '.join(row.differs)})" if row.differs else "")
        lines.append([rank, name, *cells, str(len(row.group.runs))])
    return (
        "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"
    )


def as_csv(rows: Sequence[Standing], keys: Keys) -> str:
    """Fractions, with a header; what was not measured is empty."""
    measures = ["clean", "worst_case", *(f"under {name}" for name, _ in keys)]
    parts = ("", " low", " high", " std")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["rank", "name", "seeds", *(m + part for m in measures for part in parts), "differs", "folders"]
    )
    for row in rows:
        numbers = [
            "" if value is None else f"{value:.6g}"
            for mean in (row.clean, row.worst, *_attacks(row, keys))
            for value in ([None] * 4 if mean is None else [mean.accuracy, mean.low, mean.high, mean.spread])
        ]
        folders = ";".join(str(run.folder) for run in row.group.runs)
        seeds = ";".join(str(run.seed) for run in row.group.runs)
        writer.writerow([row.rank or "", row.name, seeds, *numbers, "; ".join(row.differs), folders])
    return out.getvalue()


def as_json(rows: Sequence[Standing], keys: Keys) -> str:
    """A list of objects; accuracies are fractions."""
    return json.dumps([_object(row, keys) for row in rows], indent=2, ensure_ascii=False) + "\n"


def _object(row: Standing, keys: Keys) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "name": row.name,
        "seeds": [run.seed for run in row.group.runs],
        "clean": _values(row.clean),
        "worst_case": _values(row.worst),
        "attacks": {name: _values(mean) for (name, _), mean in zip(keys, _attacks(row, keys), strict=True)},
        "threats": sorted({attack[1] for attack in keys}),
        "differs": list(row.differs),
        "folders": [str(run.folder) for run in row.group.runs],
    }


def _values(mean: Mean | None) -> dict[str, float | int | None] | None:
    if mean is None:
        return None
    return {
        "accuracy": mean.accuracy,
        "low": mean.low,
        "high": mean.high,
        "std": mean.spread,
        "seeds": mean.count,
    }


def _attacks(row: Standing, keys: Keys) -> list[Mean | None]:
    from robustreg.report.aggregate import attack_of, group_mean
    from robustreg.report.reading import Run, Score

    def under(key: tuple[str, str], run: Run) -> Score | None:
        attack = attack_of(run, key)
        return None if attack is None else attack.score

    return [group_mean(row.group, lambda run, key=key: under(key, run)) for key in keys]  # type: ignore[misc]


def _percent(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    accuracy = f"{100 * mean.accuracy:.1f}"
    if mean.spread is not None:
        return f"{accuracy} ± {100 * mean.spread:.1f}"
    if mean.low is None or mean.high is None:
        return accuracy
    return f"{accuracy} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
