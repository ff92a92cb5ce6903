"""Runs of one name taken together over their seeds, and the leaderboard and cost table made from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustreg.report.formatting import norm_name, number
from robustreg.report.reading import AttackScore, Run, Score

PASSES = ("forwards", "input_backwards", "parameter_backwards", "double_backwards")


@dataclass(frozen=True)
class Group:
    """The runs that carry one name: the same recipe under several seeds."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Mean:
    """The mean of one accuracy over the seeds that have it.

    `spread` is the sample standard deviation over seeds and None for a single seed; `low` and `high` are the
    Wilson interval of a single seed and the least and greatest accuracy of several.
    """

    accuracy: float
    spread: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Cost:
    """What a step of a group costs.

    `passes` and `relative` are the plan's: its counts, and its rough cost in plain steps. `seconds` is the
    median over seeds of the measured median. `predicted` and `measured` are both relative to the plain run.
    """

    group: Group
    passes: Mapping[str, int]
    relative: float | None
    seconds: float | None
    is_plain: bool
    predicted: float | None
    measured: float | None


def group_by_name(runs: Iterable[Run]) -> list[Group]:
    """Runs with equal names together, in the order the names first appear."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.name, []).append(run)
    return [Group(name, tuple(members)) for name, members in found.items()]


def mean_score(scores: Sequence[Score]) -> Mean | None:
    """The mean and the spread over seeds; None without scores."""
    if not scores:
        return None
    values = [score.accuracy for score in scores]
    if len(values) == 1:
        return Mean(values[0], None, scores[0].low, scores[0].high, 1)
    return Mean(statistics.fmean(values), statistics.stdev(values), min(values), max(values), len(values))


def group_mean(group: Group, pick: Callable[[Run], Score | None]) -> Mean | None:
    """The mean over a group's runs of whichever accuracy `pick` returns, runs without one left out."""
    return mean_score([score for score in map(pick, group.runs) if score is not None])


def attack_key(attack: AttackScore) -> tuple[str, str]:
    """What makes two runs' attacks comparable: the same name under the same threat."""
    return attack.name, attack.threat


def attack_keys(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """All attacks that any of the runs was evaluated under, in order of first appearance."""
    found: dict[tuple[str, str], None] = {}
    for run in runs:
        for attack in run.evaluation.attacks if run.evaluation else ():
            found.setdefault(attack_key(attack))
    return list(found)


def attack_of(run: Run, key: tuple[str, str]) -> AttackScore | None:
    """The run's result under that attack, the one of lowest accuracy if it ran more than once."""
    attacks = run.evaluation.attacks if run.evaluation else ()
    return min((a for a in attacks if attack_key(a) == key), key=lambda a: a.score.accuracy, default=None)


def curve_of(run: Run) -> list[tuple[float, Score]]:
    """The robustness curve of a run by increasing eps, starting with the clean accuracy at eps 0.

    Where several attacks ran at one eps the lowest accuracy counts. Empty when nothing was attacked.
    """
    evaluation = run.evaluation
    if evaluation is None or not evaluation.curve:
        return []
    lowest: dict[float, Score] = {}
    if evaluation.clean is not None:
        lowest[0.0] = evaluation.clean
    for point in evaluation.curve:
        if point.eps not in lowest or point.score.accuracy < lowest[point.eps].accuracy:
            lowest[point.eps] = point.score
    return sorted(lowest.items())


Curve = list[tuple[float, Mean]]


def curves_by_norm(groups: Sequence[Group]) -> dict[str, list[tuple[int, Curve]]]:
    """For each norm that was evaluated, the mean curve of every group under it, with the group's index."""
    found: dict[str, list[tuple[int, Curve]]] = {}
    for index, group in enumerate(groups):
        scores: dict[str, dict[float, list[Score]]] = {}
        for run in group.runs:
            for eps, score in curve_of(run):
                scores.setdefault(_norm(run), {}).setdefault(eps, []).append(score)
        for norm, by_eps in scores.items():
            curve = [(eps, mean) for eps in sorted(by_eps) if (mean := mean_score(by_eps[eps])) is not None]
            found.setdefault(norm, []).append((index, curve))
    return found


def _norm(run: Run) -> str:
    norm = run.evaluation.threat.get("norm") if run.evaluation else None
    return "" if norm is None else norm_name(norm)


def passes_of(plan: Mapping[str, Any] | None) -> dict[str, int]:
    """The four counts of passes in a plan, those that are there."""
    counts = {key: number(plan.get(key)) for key in PASSES} if plan else {}
    return {key: int(value) for key, value in counts.items() if value is not None and value >= 0}


def costs(groups: Sequence[Group]) -> list[Cost]:
    """The cost of each group beside the plain one, whose step is one forward and one parameter backward."""
    plans = [next((run.plan for run in group.runs if passes_of(run.plan)), None) for group in groups]
    passes = [passes_of(plan) for plan in plans]
    relative = [number(plan.get("relative_cost")) if plan else None for plan in plans]
    times = [_median(run.step_seconds for run in group.runs) for group in groups]
    plain = next((i for i, counts in enumerate(passes) if is_plain(counts)), None)
    base_cost, base_time = (None, None) if plain is None else (relative[plain], times[plain])
    return [
        Cost(
            group=group,
            passes=passes[i],
            relative=relative[i],
            seconds=times[i],
            is_plain=i == plain,
            predicted=_ratio(relative[i], base_cost),
            measured=_ratio(times[i], base_time),
        )
        for i, group in enumerate(groups)
    ]


def is_plain(passes: Mapping[str, int]) -> bool:
    """Whether these passes are those of ordinary training."""
    return bool(passes) and [passes.get(key, 0) for key in PASSES] == [1, 0, 1, 0]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and value > 0]
    return statistics.median(known) if known else None


def _ratio(value: float | None, base: float | None) -> float | None:
    ratio = value / base if value is not None and base else None
    return ratio if ratio is not None and math.isfinite(ratio) else None
