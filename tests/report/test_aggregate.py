from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from robustreg.report import charts, sections
from robustreg.report.aggregate import (
    attack_keys,
    costs,
    curve_of,
    curves_by_norm,
    group_by_name,
    group_mean,
    mean_score,
)
from robustreg.report.reading import Score, read_comparison, read_run


def test_mean_of_several_seeds_has_spread_and_range() -> None:
    mean = mean_score([Score(0.8, 0.7, 0.9), Score(0.9, 0.8, 1.0), Score(0.85, 0.7, 0.9)])
    assert mean is not None
    assert mean.accuracy == pytest.approx(0.85)
    assert mean.spread == pytest.approx(statistics.stdev([0.8, 0.9, 0.85]))
    assert (mean.low, mean.high, mean.count) == (0.8, 0.9, 3)


def test_mean_of_one_seed_keeps_its_interval() -> None:
    mean = mean_score([Score(0.8, 0.7, 0.9)])
    assert mean is not None
    assert (mean.accuracy, mean.spread, mean.low, mean.high, mean.count) == (0.8, None, 0.7, 0.9, 1)
    assert mean_score([]) is None


def test_groups_are_the_seeds_of_a_name(make_comparison: Callable[..., Path]) -> None:
    comparison = read_comparison(make_comparison(seeds=3))
    groups = group_by_name(comparison.runs)
    assert [(group.name, [run.seed for run in group.runs]) for group in groups] == [
        ("plain", [0, 1, 2]),
        ("penalty", [0, 1, 2]),
        ("perturbed", [0, 1, 2]),
    ]
    mean = group_mean(groups[1], lambda run: run.evaluation.worst if run.evaluation else None)
    assert mean is not None
    assert mean.accuracy == pytest.approx(0.58 + 0.012)
    assert mean.spread == pytest.approx(0.012)
    assert [name for name, _ in attack_keys(comparison.runs)] == ["FGSM", "PGD-20", "Gaussian"]


def test_leaderboard_is_ordered_by_the_worst_case(make_comparison: Callable[..., Path]) -> None:
    groups = group_by_name(read_comparison(make_comparison(seeds=2)).runs)
    board = sections.leaderboard(groups)
    assert board is not None
    assert [row["name"] for row in board["rows"]] == ["perturbed", "penalty", "plain"]
    assert [column["name"] for column in board["columns"]] == [
        "Clean",
        "Worst case",
        "FGSM",
        "PGD-20",
        "Gaussian",
    ]
    cell = board["rows"][1]["cells"][1]
    assert cell["text"] == "58.6\u00a0%"
    assert cell["note"] == "±\u202f0.8"
    assert float(cell["sort"]) == pytest.approx(0.586)


def test_a_seed_that_is_not_evaluated_is_told(make_comparison: Callable[..., Path]) -> None:
    folder = make_comparison(seeds=2)
    (folder / "penalty-1" / "evaluation" / "evaluation.json").unlink()
    groups = group_by_name(read_comparison(folder).runs)
    board = sections.leaderboard(groups)
    assert board is not None
    cells = {row["name"]: row["cells"][0] for row in board["rows"]}
    assert cells["penalty"]["seeds"] == "1 of 2 seeds"
    assert cells["plain"]["seeds"] == ""
    page = sections.accuracy(groups, compared=True)
    assert page is not None
    assert page["notes"] == ["Not evaluated yet: penalty, seed 1."]


def test_attacks_under_other_threats_are_other_columns(make_comparison: Callable[..., Path]) -> None:
    folder = make_comparison()
    path = folder / "plain-0" / "evaluation" / "evaluation.json"
    changed = json.loads(path.read_text())
    changed["attacks"][1]["threat"]["eps"] = 0.2
    path.write_text(json.dumps(changed))
    keys = attack_keys(read_comparison(folder).runs)
    assert ("PGD-20", "ℓ∞, ε = 0.2") in keys
    assert ("PGD-20", "ℓ∞, ε = 0.1") in keys


def test_costs_are_relative_to_the_plain_run(make_comparison: Callable[..., Path]) -> None:
    rows = {row.group.name: row for row in costs(group_by_name(read_comparison(make_comparison()).runs))}
    assert rows["plain"].is_plain
    assert rows["plain"].measured == rows["plain"].predicted == 1.0
    assert rows["penalty"].measured == pytest.approx(0.0096 / 0.0041)
    assert rows["penalty"].predicted == pytest.approx(7 / 3)
    assert rows["perturbed"].predicted == pytest.approx(5 / 3)


def test_without_a_plain_run_there_is_no_ratio(make_run: Callable[..., Path]) -> None:
    (row,) = costs(group_by_name([read_run(make_run(kind="penalty"))]))
    assert (row.predicted, row.measured) == (None, None)
    assert row.relative == pytest.approx(7 / 3)


def test_curve_starts_at_clean_and_takes_the_lowest_accuracy(make_run: Callable[..., Path]) -> None:
    folder = make_run(kind="penalty")
    path = folder / "evaluation" / "evaluation.json"
    changed = json.loads(path.read_text())
    changed["curve"].append({"eps": 0.05, "attack": "other", "accuracy": 0.01, "low": 0.0, "high": 0.02})
    path.write_text(json.dumps(changed))
    curve = curve_of(read_run(folder))
    assert curve[0] == (0.0, Score(**changed["clean"]))
    assert [eps for eps, _ in curve] == [0.0, 0.05, 0.1, 0.15, 0.2, 0.3]
    assert curve[1][1].accuracy == 0.01


def test_each_norm_has_its_own_chart(make_comparison: Callable[..., Path]) -> None:
    folder = make_comparison()
    path = folder / "plain-0" / "evaluation" / "evaluation.json"
    changed = json.loads(path.read_text())
    changed["threat"] = {"norm": "l2", "eps": 1.0, "bounds": None}
    path.write_text(json.dumps(changed))
    groups = group_by_name(read_comparison(folder).runs)
    assert list(curves_by_norm(groups)) == ["ℓ₂", "ℓ∞"]
    drawn = charts.robustness_charts(groups)
    assert [[line["name"] for line in chart["series"]] for chart in drawn] == [
        ["plain"],
        ["penalty", "perturbed"],
    ]
    tables = sections.curve_tables(groups)
    assert [table["columns"] for table in tables] == [["plain"], ["penalty", "perturbed"]]


def test_bands_are_intervals_for_one_seed_and_ranges_for_several(
    make_comparison: Callable[..., Path],
) -> None:
    one = charts.robustness_charts(group_by_name(read_comparison(make_comparison("one")).runs))
    several = charts.robustness_charts(
        group_by_name(read_comparison(make_comparison("several", seeds=3)).runs)
    )
    alone, joined = one[0]["series"][1], several[0]["series"][1]
    assert alone["low"][0] < alone["y"][0] < alone["high"][0]
    assert joined["y"][2] == pytest.approx((joined["low"][2] + joined["high"][2]) / 2)
    assert joined["note"][2].endswith("over 3 seeds")


def test_small_charts_hold_loss_terms_and_learning_rate(make_comparison: Callable[..., Path]) -> None:
    groups = group_by_name(read_comparison(make_comparison(seeds=2)).runs)
    drawn = {chart["title"]: chart for chart in charts.training_charts(groups)}
    assert list(drawn) == ["Loss", "ce", "grad_norm", "perturbed", "Learning rate"]
    assert len(drawn["Loss"]["series"]) == 6
    assert {line["name"] for line in drawn["grad_norm"]["series"]} == {"penalty"}
    assert [entry["name"] for entry in charts.legend(drawn.values())] == ["plain", "penalty", "perturbed"]


def test_thinning_keeps_means_and_drops_missing_values() -> None:
    x = [float(i) for i in range(1000)]
    y: list[float | None] = [2.0 * value for value in x]
    y[10] = None
    thin_x, thin_y = charts.thin(x, y, bins=50)
    assert len(thin_x) == len(thin_y) <= 50
    assert thin_y == pytest.approx([2.0 * value for value in thin_x])
    assert charts.thin([1.0, 2.0], [None, None]) == ([], [])
    assert charts.thin([1.0, 2.0], [3.0, 4.0]) == ([1.0, 2.0], [3.0, 4.0])
