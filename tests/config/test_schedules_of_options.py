"""Options that may change over training: a number, or a schedule as a term's weight has it."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("pydantic")

import robustreg as rr
from robustreg.attacks import Grown, Staged
from robustreg.config import RecipeError, load_recipe
from robustreg.config.components import Builder, Invalid
from robustreg.config.objective import build_objective
from robustreg.config.problems import Problems
from robustreg.penalties import Geometry
from robustreg.schedules import Steps

T = rr.Threat("linf", 0.1)


def built(section: dict[str, Any]) -> rr.Objective:
    return build_objective(section, Builder(T, Problems("test")))


def test_a_methods_option() -> None:
    label = built({"method": "adr", "temperature": {"cosine": [2.5, 1.5]}, "mix": 1}).entries[0][1].loss  # type: ignore[attr-defined]
    assert (label.temperature, label.mix) == (rr.Cosine(2.5, 1.5), 1.0)


def test_a_terms_and_a_points_option() -> None:
    attack = {
        "point": "grown",
        "share": {"ramp": [0, 1]},
        "full": {
            "point": "staged",
            "points": [{"point": "fgsm"}, {"point": "pgd", "steps": 3}],
            "until": [0.5],
        },
    }
    term = built({"terms": [{"term": "cross_entropy", "at": attack}]}).entries[0][1]
    staged = Staged((rr.FGSM(T), rr.PGD(T, 3)), (0.5,))
    assert term == rr.CrossEntropy(at=Grown(staged, rr.Ramp(0.0, 1.0)))
    by = {"term": "geometry", "adversary": "pgd", "lam": {"steps": [[math.inf, -1], [0.5]]}}
    found = built({"terms": [{"term": "cross_entropy", "at": "pgd", "by": by}]}).entries[0][1].by  # type: ignore[attr-defined]
    assert found == Geometry(rr.PGD(T), Steps((math.inf, -1.0), (0.5,)))


def test_a_terms_weight_in_steps() -> None:
    objective = built({"terms": [{"term": "cross_entropy", "weight": {"steps": [[0, 1], [0.5]]}}]})
    assert objective.entries[0][0] == Steps((0, 1), (0.5,))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", "`objective.temperature` should be a number or a schedule"),
        ({"slope": [0, 1]}, "names an unknown weight schedule 'slope'"),
        ({"steps": [[0, 1], [0.2, 0.4]]}, "2 values change at 1 places"),
        (-1, "temperature must be positive, got -1"),
    ],
)
def test_what_is_no_schedule(value: Any, message: str) -> None:
    problems = Problems("test")
    with pytest.raises(Invalid):
        build_objective({"method": "adr", "temperature": value}, Builder(T, problems))
    with pytest.raises(RecipeError, match=message):
        problems.raise_if_any()


def test_the_recipes_that_need_another_can_be_checked() -> None:
    assert load_recipe("srst_awr").objective.options["teacher"] == {"recipe": "plain"}
