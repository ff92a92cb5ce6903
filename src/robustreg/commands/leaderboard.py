"""The table at the end of a comparison: accuracies with intervals, time and passes, one row a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import print_table

if TYPE_CHECKING:
    from robustreg.report.aggregate import Group
    from robustreg.report.reading import Run, Score

NONE = "-"


def show(folder: Path) -> None:
    """Print the table of a comparison folder."""
    from robustreg.report.aggregate import attack_keys, group_by_name
    from robustreg.report.reading import read_comparison

    runs = read_comparison(folder).runs
    groups = sorted(group_by_name(runs), key=_worst_accuracy, reverse=True)
    keys, threat = attack_keys(runs), _threat_of(runs)
    attacks = [name if own in ("", threat) else f"{name}\n{own}" for name, own in keys]
    header = ["", "clean", *attacks, "worst\ncase", "s per\nepoch", "passes"]
    print_table(_title(groups, threat), header, [_row(group, keys) for group in groups])


def _row(group: Group, keys: Sequence[tuple[str, str]]) -> list[str]:
    picks: list[Callable[[Run], Score | None]] = [_clean, *(partial(_under, key) for key in keys), _worst]
    return [group.name, *(_accuracy(group, pick) for pick in picks), _epoch_seconds(group), _passes(group)]


def _title(groups: Sequence[Group], threat: str) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    below = "± standard deviation over seeds" if several else "95 % Wilson interval"
    return f"accuracy in % and {below}; attacks within {threat}; passes are forwards + backwards of a step"


def _threat_of(runs: Sequence[Run]) -> str:
    from robustreg.report.formatting import threat_name

    return next((threat_name(run.evaluation.threat) for run in runs if run.evaluation), "no threat")


def _clean(run: Run) -> Score | None:
    return run.evaluation.clean if run.evaluation else None


def _worst(run: Run) -> Score | None:
    return run.evaluation.worst if run.evaluation else None


def _worst_accuracy(group: Group) -> float:
    from robustreg.report.aggregate import group_mean

    mean = group_mean(group, _worst)
    return -1.0 if mean is None else mean.accuracy


def _under(key: tuple[str, str], run: Run) -> Score | None:
    from robustreg.report.aggregate import attack_of

    attack = attack_of(run, key)
    return None if attack is None else attack.score


def _accuracy(group: Group, pick: Callable[[Run], Score | None]) -> str:
    from robustreg.report.aggregate import group_mean

    mean = group_mean(group, pick)
    if mean is None:
        return NONE
    accuracy = f"{100 * mean.accuracy:.1f}"
    if mean.spread is not None:
        return f"{accuracy}\n±{100 * mean.spread:.1f}"
    if mean.low is None or mean.high is None:
        return accuracy
    return f"{accuracy}\n{100 * mean.low:.1f}–{100 * mean.high:.1f}"


def _epoch_seconds(group: Group) -> str:
    seconds = [s for s in map(_seconds_of, group.runs) if s is not None]
    return f"{sum(seconds) / len(seconds):.2f}" if seconds else NONE


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
        return NONE
    forwards = counts.get("forwards", 0)
    return f"{forwards}+{sum(counts.values()) - forwards}"
