"""The order of runs by their worst case, and which of them were evaluated alike and may be ordered at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import UsageError

if TYPE_CHECKING:
    from robustreg.report.aggregate import Group, Mean
    from robustreg.report.reading import Run

CONDITIONS = ("threat", "data", "attacks")


@dataclass(frozen=True)
class Standing:
    """One row: a recipe's runs under all their seeds.

    Attributes:
        name: the recipe's, with the folder where another recipe has the same name.
        group: its runs.
        rank: 1 for the highest worst case; None for what cannot be compared.
        clean, worst: means over the seeds, where they were measured.
        differs: in what its evaluation is not that of the ranked ones.
    """

    name: str
    group: Group
    rank: int | None
    clean: Mean | None
    worst: Mean | None
    differs: tuple[str, ...]


def standings(folders: Sequence[Path]) -> list[Standing]:
    """The rows of run and comparison folders, ranked ones first.

    Ranked are those that were evaluated as most of them are: within the same threat, on the same data, under the same
    attacks that count.

    Raises:
        UsageError: a folder is neither a run nor a comparison, or none of the runs is evaluated.
    """
    from robustreg.report.aggregate import group_mean

    groups = _groups(runs_in(folders))
    conditions = [_condition_of_group(group) for group in groups]
    evaluated = [condition for condition in conditions if condition is not None]
    if not evaluated:
        raise UsageError("none of these runs is evaluated yet; `robustreg evaluate RUN` does that")
    usual = Counter(evaluated).most_common(1)[0][0]
    rows = []
    for (name, group), condition in zip(_named(groups), conditions, strict=True):
        clean = group_mean(group, lambda run: run.evaluation.clean if run.evaluation else None)
        worst = group_mean(group, lambda run: run.evaluation.worst if run.evaluation else None)
        rows.append(Standing(name, group, None, clean, worst, _differences(group, condition, usual)))
    rows.sort(key=lambda row: (bool(row.differs), -row.worst.accuracy if row.worst else 1.0))
    ranked = [row for row in rows if not row.differs]
    # Rows of equal accuracy share their rank.
    ranks = {id(row): 1 + sum(_accuracy(other) > _accuracy(row) for other in ranked) for row in ranked}
    return [_with_rank(row, ranks.get(id(row))) for row in rows]


def runs_in(folders: Iterable[Path]) -> list[Run]:
    """The runs of run and comparison folders, each once."""
    from robustreg.report.reading import is_comparison, is_run, read_comparison, read_run

    found: dict[Path, Run] = {}
    for folder in folders:
        if is_comparison(folder):
            runs: Sequence[Run] = read_comparison(folder).runs
        elif is_run(folder):
            runs = [read_run(folder)]
        else:
            missing = "" if folder.is_dir() else ": there is no such folder"
            raise UsageError(f"{folder} is neither a run folder nor a comparison folder{missing}")
        for run in runs:
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _groups(runs: Sequence[Run]) -> list[Group]:
    """Runs of one recipe together, if they differ in nothing but the seed."""
    from robustreg.report.aggregate import Group

    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.name, _recipe(run)), []).append(run)
    groups = []
    for (name, _), members in found.items():
        seeds = [run.seed for run in members]
        # The same recipe under the same seed twice is two measurements of one thing, not two seeds.
        split = [[run] for run in members] if len(set(seeds)) < len(seeds) else [members]
        groups += [Group(name, tuple(part)) for part in split]
    return groups


def _recipe(run: Run) -> str:
    """The recipe without its seed and its comments."""
    lines = (run.recipe or "").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("seed:", "#")))


def _named(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    often = Counter(group.name for group in groups)
    named = []
    for group in groups:
        said = [str(_place(group))] if often[group.name] > 1 else []
        said += ["trained elsewhere"] if any(run.elsewhere for run in group.runs) else []
        named.append((f"{group.name} ({', '.join(said)})" if said else group.name, group))
    return named


def _place(group: Group) -> Path:
    """A run's folder, or the one that several lie in."""
    folder = group.runs[0].folder
    return folder if len(group.runs) == 1 else folder.parent


Condition = tuple[str, str, str]


def _condition_of_group(group: Group) -> Condition | None:
    """How its runs were evaluated; None where none was, or not all alike."""
    conditions = {condition for run in group.runs if (condition := _condition(run)) is not None}
    return conditions.pop() if len(conditions) == 1 else None


def _condition(run: Run) -> Condition | None:
    """Threat, data and counted attacks of a run's evaluation, and what these ran in."""
    evaluation = run.evaluation
    if evaluation is None or evaluation.worst is None:
        return None
    attacked = [*_data(run), evaluation.n]
    attacks = sorted(
        attack.attack or attack.name for attack in evaluation.attacks if attack.status == "counted"
    )
    precision = "" if evaluation.precision == "full" else f" in {evaluation.precision}"
    return str(sorted(evaluation.threat.items())), str(attacked), f"{attacks}{precision}"


def _data(run: Run) -> list[object]:
    """The data set's name, and the hash of its test part."""
    data = run.info.get("data")
    if not isinstance(data, dict):
        return [data]
    hashes = data.get("hashes")
    test = hashes.get("test") if isinstance(hashes, dict) else None
    return [data.get("name"), test or data.get("sha256")]


def _differences(group: Group, condition: Condition | None, usual: Condition) -> tuple[str, ...]:
    if condition is None:
        evaluated = [run for run in group.runs if _condition(run) is not None]
        return ("its seeds were evaluated differently",) if evaluated else ("not evaluated",)
    differs = [
        f"other {what}" for what, own, other in zip(CONDITIONS, condition, usual, strict=True) if own != other
    ]
    if any(run.evaluation and not run.evaluation.complete for run in group.runs):
        differs.append("evaluation interrupted")
    return tuple(differs)


def _accuracy(row: Standing) -> float:
    return row.worst.accuracy if row.worst else -1.0


def _with_rank(row: Standing, rank: int | None) -> Standing:
    return Standing(row.name, row.group, rank, row.clean, row.worst, row.differs)
