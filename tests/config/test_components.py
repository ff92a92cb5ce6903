"""Items of a recipe become the objects that one would have written in Python."""

from __future__ import annotations

from typing import Any

import pytest

import robustreg as rr
from robustreg.config.components import Builder, Invalid
from robustreg.config.objective import build_objective
from robustreg.config.problems import Problems
from robustreg.registry import names

LINF = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 1.0)


def objective_of(section: dict[str, Any], threat: rr.Threat | None = LINF) -> rr.Objective:
    problems = Problems("test")
    try:
        return build_objective(section, Builder(threat, problems))
    except Invalid:
        problems.raise_if_any()
        raise AssertionError("an invalid section without a noted problem") from None


def terms_of(*items: Any) -> rr.Objective:
    return objective_of({"terms": list(items)})


def test_terms_with_weights() -> None:
    built = terms_of(
        "cross_entropy", {"term": "gradient_norm", "weight": 0.3}, {"term": "perturbed", "weight": 0}
    )
    written = rr.CrossEntropy() + 0.3 * rr.GradientNorm(LINF) + 0 * rr.Perturbed(LINF)
    assert built.entries == written.entries


@pytest.mark.parametrize(
    ("weight", "schedule"),
    [
        ({"ramp": [0, 1, 0.5]}, rr.Ramp(0, 1, 0.5)),
        ({"ramp": {"start": 0, "end": 2}}, rr.Ramp(0, 2)),
        ({"cosine": [1, 0]}, rr.Cosine(1, 0)),
    ],
)
def test_scheduled_weights(weight: dict[str, Any], schedule: Any) -> None:
    assert terms_of({"term": "cross_entropy", "weight": weight}).entries == ((schedule, rr.CrossEntropy()),)


def test_nested_points() -> None:
    item = {
        "term": "cross_entropy",
        "at": {"point": "pgd", "steps": 3, "start": {"point": "uniform", "number": 2}},
    }
    expected = rr.CrossEntropy(at=rr.PGD(LINF, steps=3, start=rr.Uniform(LINF, number=2)))
    assert terms_of(item).entries == ((1.0, expected),)


def test_a_point_without_options_may_be_a_bare_name() -> None:
    assert terms_of({"term": "cross_entropy", "at": "pgd"}).entries == (
        (1.0, rr.CrossEntropy(at=rr.PGD(LINF))),
    )
    assert terms_of({"term": "cross_entropy", "at": {"attack": "fgsm"}}).entries[0][1].at == rr.FGSM(LINF)


def test_a_threat_of_its_own_takes_what_it_leaves_out_from_the_recipe() -> None:
    own = terms_of({"term": "gradient_norm", "threat": {"norm": "l2", "eps": 1.0}})
    assert own.entries[0][1] == rr.GradientNorm(L2)
    wider = terms_of({"term": "gradient_norm", "threat": {"eps": 0.4}})
    assert wider.entries[0][1] == rr.GradientNorm(LINF.with_eps(0.4))


def test_a_term_weighted_by_another() -> None:
    item = {
        "term": "gradient_norm",
        "by": {"term": "vulnerability", "at": "pgd"},
        "detach": True,
        "weight": 2,
    }
    expected = rr.weighted(rr.GradientNorm(LINF), by=rr.Vulnerability(rr.PGD(LINF)), detach=True)
    assert terms_of(item).entries == ((2.0, expected),)


def test_a_method_with_its_options() -> None:
    built = objective_of(
        {"method": "gradient_family", "form": "mixed", "alpha": 0.3, "norm": "l2", "sigma": 2}
    )
    written = rr.methods.gradient_family(LINF, form="mixed", alpha=0.3, norm="l2", sigma=2)
    assert built.entries == written.entries


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"term": "gradnorm"}, "`objective.terms.0` names an unknown term 'gradnorm'"),
        (
            {"trem": "gradient_norm"},
            "`objective.terms.0` should be a term's name or `{term: name, weight: ...}`",
        ),
        ({"term": 3}, "`objective.terms.0` should name a term, but is 3"),
        (
            {"term": "cross_entropy", "wieght": 1},
            "`objective.terms.0.wieght` is not an option of cross_entropy",
        ),
        (
            {"term": "cross_entropy", "weight": "1"},
            "`objective.terms.0.weight` should be a number or a schedule",
        ),
        (
            {"term": "cross_entropy", "weight": {"ramp": [0, 1, 0.5, 1]}},
            "takes at most 3 values (start, end, until)",
        ),
        (
            {"term": "cross_entropy", "weight": {"ramp": [0]}},
            "`objective.terms.0.weight.ramp` (ramp) needs `end`",
        ),
        ({"term": "cross_entropy", "weight": {"ramp": [0, 1, 7]}}, "(ramp): until is the progress"),
        ({"term": "cross_entropy", "weight": {"slope": [0, 1]}}, "names an unknown weight schedule 'slope'"),
        (
            {"term": "cross_entropy", "smoothing": 2.0},
            "`objective.terms.0` (cross_entropy): smoothing must lie in",
        ),
        (
            {"term": "cross_entropy", "smoothing": True},
            "`objective.terms.0.smoothing` should be a number, but is True",
        ),
        (
            {"term": "cross_entropy", "at": {"point": "pgd", "stps": 1}},
            "`objective.terms.0.at.stps` is not an option",
        ),
        (
            {"term": "gradient_norm", "threat": {"esp": 1}},
            "`objective.terms.0.threat.esp` is not a key of a threat",
        ),
        ({"term": "gradient_norm", "threat": {"eps": -1}}, "`objective.terms.0.threat` is not a threat: "),
        ({"term": "gradient_norm", "by": 3}, "`objective.terms.0.by` should be a term's name"),
        (
            {"term": "gradient_norm", "by": "vulnerability", "detach": 1},
            "`objective.terms.0.detach` should be true",
        ),
        (
            {"term": "gradient_norm", "detach": True},
            "`objective.terms.0.detach` is not an option of gradient_norm",
        ),
    ],
)
def test_items_that_make_no_sense(item: Any, sentence: str) -> None:
    from robustreg.config import RecipeError

    with pytest.raises(RecipeError) as caught:
        terms_of(item)
    assert len(caught.value.problems) == 1
    assert sentence in caught.value.problems[0]


def test_every_item_is_looked_at() -> None:
    from robustreg.config import RecipeError

    with pytest.raises(RecipeError) as caught:
        terms_of({"term": "a"}, {"term": "cross_entropy", "weight": "x", "at": "y"}, "b")
    assert len(caught.value.problems) == 4


def test_options_belong_to_terms_not_beside_them() -> None:
    from robustreg.config import RecipeError

    with pytest.raises(RecipeError, match=r"`objective.sigma` is not a key beside `terms`"):
        objective_of({"terms": ["cross_entropy"], "sigma": 1})


@pytest.mark.parametrize("method", names("method"))
def test_every_method_works_in_a_recipe_as_it_is(method: str) -> None:
    objective = objective_of({"method": method})
    assert objective.entries
    objective.check_needs()


def test_a_missing_threat_is_said() -> None:
    from robustreg.config import RecipeError

    with pytest.raises(RecipeError, match=r"\(gradient_family\) needs a threat; give the recipe one"):
        objective_of({"method": "gradient_family"}, threat=None)


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    builder = Builder(LINF, Problems("test"))
    point = builder.attack({"attack": "steepest", "scale": 2}, ("x",))
    assert type(point.scale) is float
    assert type(builder.attack({"attack": "pgd", "steps": 2}, ("x",)).steps) is int


def test_lists_become_tuples_so_that_points_stay_hashable() -> None:
    built = Builder(LINF, Problems("test")).attack(
        {"attack": "gaussian", "std": 0.1, "bounds": [0.0, 1.0]}, ("x",)
    )
    assert built == rr.Gaussian(0.1, bounds=(0.0, 1.0))
    hash(built)
