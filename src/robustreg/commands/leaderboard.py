"""The table at the end of a comparison: accuracies with intervals, time and passes, one row a recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import print_table

if TYPE_CHECKING:
    from robustreg.report.aggregate import Group
    from robustreg.report.reading import Run, Score


def show(folder: Path) -> None:
    """Print the comparison's table."""
    from robustreg.report.aggregate import attack_keys, group_by_name
    from robustreg.report.reading import read_comparison

    comparison = read_comparison(folder)
    keys = attack_keys(comparison.runs)
    header = [
        "",
        "clean",
        *(_column(name, threat) for name, threat in keys),
        "worst case",
        "s/epoch",
        "passes",
    ]
    rows = []
    for group in group_by_name(comparison.runs):
        row = [group.name, _accuracy(group, lambda run: run.evaluation.clean if run.evaluation else None)]
        row += [_accuracy(group, partial(_under, key)) for key in keys]
        row.append(_accuracy(group, lambda run: run.evaluation.worst if run.evaluation else None))
        rows.append([*row, _epoch_seconds(group), _passes(group)])
    several = any(len(group.runs) > 1 for group in group_by_name(comparison.runs))
    spread = "mean ± standard deviation over seeds" if several else "with 95 % Wilson intervals"
    print_table(f"accuracy in %, {spread}", header, rows)


def _under(key: tuple[str, str], run: Run) -> Score | None:
    from robustreg.report.aggregate import attack_of

    attack = attack_of(run, key)
    return None if attack is None else attack.score


def _accuracy(group: Group, pick: Callable[[Run], Score | None]) -> str:
    from robustreg.report.aggregate import group_mean

    mean = group_mean(group, pick)
    if mean is None:
        return "-"
    if mean.spread is not None:
        return f"{100 * mean.accuracy:.1f} ± {100 * mean.spread:.1f}"
    if mean.low is None or mean.high is None:
        return f"{100 * mean.accuracy:.1f}"
    return f"{100 * mean.accuracy:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"


def _column(name: str, threat: str) -> str:
    return f"{name}\n{threat}" if threat else name


def _epoch_seconds(group: Group) -> str:
    seconds = [s for s in map(_seconds_of, group.runs) if s is not None]
    return f"{sum(seconds) / len(seconds):.2f}" if seconds else "-"


def _seconds_of(run: Run) -> float | None:
    steps, epochs = run.info.get("steps"), run.info.get("epochs")
    if run.step_seconds is None or not isinstance(steps, int) or not isinstance(epochs, int) or epochs < 1:
        return None
    return run.step_seconds * steps / epochs


def _passes(group: Group) -> str:
    """Forwards and backwards of one step, as the plan counts them."""
    from robustreg.report.aggregate import passes_of

    counts = next((c for c in (passes_of(run.plan) for run in group.runs) if c), None)
    if counts is None:
        return "-"
    forwards = counts.get("forwards", 0)
    return f"{forwards} f + {sum(counts.values()) - forwards} b"
