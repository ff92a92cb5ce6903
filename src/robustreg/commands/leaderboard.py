"""`robustreg leaderboard`: runs in the order of their worst case; and the table at the end of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import UsageError, console, print_table

if TYPE_CHECKING:
    from robustreg.report.aggregate import Group
    from robustreg.report.reading import Run, Score

    from .standings import Standing

NONE = "-"
FORMATS = ("table", "markdown", "csv", "json")


def leaderboard(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_COMPARISON...", help="Run and comparison folders.", show_default=False
        ),
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="table|markdown|csv|json", help="How it is printed.")
    ] = "table",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse runs that were not all evaluated alike.")
    ] = False,
) -> None:
    """Print evaluated runs in the order of their worst case.

    Only runs that were evaluated within the same threat, on the same data and under the same attacks are ranked; the
    others are shown below with what differs. Seeds of one recipe are taken together.
    """
    from .standings import standings
    from .standings_text import as_csv, as_json, as_markdown

    if form not in FORMATS:
        raise UsageError(f"--format should be table, markdown, csv or json, but is {form!r}")
    rows = standings(folders)
    others = [row for row in rows if row.differs]
    if strict and others:
        told = "; ".join(f"{row.name}: {', '.join(row.differs)}" for row in others)
        raise UsageError(f"these runs were not all evaluated alike: {told}")
    keys = _keys_of_the_ranked(rows)
    write = {"markdown": as_markdown, "csv": as_csv, "json": as_json}.get(form)
    if write is not None:
        typer.echo(write(rows, keys), nl=False)
    else:
        _print(rows, keys)


def _keys_of_the_ranked(rows: Sequence[Standing]) -> list[tuple[str, str]]:
    """The attacks that get a column: what differs has no place beside them."""
    from robustreg.report.aggregate import attack_keys

    return attack_keys(run for row in rows if row.rank is not None for run in row.group.runs)


def _print(rows: Sequence[Standing], keys: Sequence[tuple[str, str]]) -> None:
    ranked = [run for row in rows if row.rank is not None for run in row.group.runs]
    threat = _threat_of(ranked)
    header = ["", "#", *_header(keys, threat)[1:]]
    table = []
    for row in rows:
        rank = NONE if row.rank is None else str(row.rank)
        table.append([row.name, rank, *_row(row.group, keys)[1:]])
    print_table(_title([row.group for row in rows], threat), header, table)
    for row in rows:
        if row.differs:
            console().print(f"not ranked: {row.name}: {', '.join(row.differs)}", markup=False)


def show(folder: Path) -> None:
    """Print the table of a comparison folder."""
    from robustreg.report.aggregate import attack_keys, group_by_name
    from robustreg.report.reading import read_comparison

    runs = read_comparison(folder).runs
    groups = sorted(group_by_name(runs), key=_worst_accuracy, reverse=True)
    keys, threat = attack_keys(runs), _threat_of(runs)
    print_table(_title(groups, threat), _header(keys, threat), [_row(group, keys) for group in groups])


def _header(keys: Sequence[tuple[str, str]], threat: str) -> list[str]:
    attacks = [name if own in ("", threat) else f"{name}\n{own}" for name, own in keys]
    return ["", "clean", *attacks, "worst\ncase", "s per\nepoch", "passes"]


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
