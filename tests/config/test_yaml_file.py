"""Reading a recipe's file: positions, overrides, references, and everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustreg.config.problems import RecipeError
from robustreg.config.yaml_file import override, parse, read, resolve


def content_of(text: str, *overrides: str) -> dict[str, Any]:
    content, places = parse(text, "r.yaml")
    override(content, places, overrides)
    return resolve(content, places, "r.yaml")


def test_numbers_in_exponent_form_are_numbers() -> None:
    assert content_of("lr: 1e-3")["lr"] == 1e-3


def test_every_key_knows_its_line() -> None:
    _, places = parse("a: 1\nb:\n  c: [x,\n      y]\n", "r.yaml")
    assert places[("a",)] == "r.yaml, line 1"
    assert places[("b", "c")] == "r.yaml, line 3"
    assert places[("b", "c", 1)] == "r.yaml, line 4"


def test_a_section_given_as_a_name() -> None:
    assert content_of("data: mnist\nobjective: arow") == {
        "data": {"name": "mnist"},
        "objective": {"method": "arow"},
    }


def test_overrides_replace_add_and_reach_into_lists() -> None:
    text = "threat: {norm: l2, eps: 1}\nobjective:\n  terms: [cross_entropy, gradient_norm]\n"
    content = content_of(
        text,
        "threat.eps=3e-1",
        "objective.terms.1.weight=0.1",
        "data=mnist",
        "ema=0.99",
        "evaluation.curve=[1, 2]",
    )
    assert content["threat"] == {"norm": "l2", "eps": 0.3}
    assert content["objective"]["terms"] == ["cross_entropy", {"term": "gradient_norm", "weight": 0.1}]
    assert content["data"] == {"name": "mnist"}
    assert content["evaluation"] == {"curve": [1, 2]}


def test_a_bare_name_replaces_the_whole_section() -> None:
    assert content_of("model: {name: mlp, hidden: [3]}", "model=small_conv")["model"] == {
        "name": "small_conv"
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("", None),
        ("true", True),
        ("3", 3),
        ("0.5", 0.5),
        ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_values_of_overrides_are_yaml(text: str, value: object) -> None:
    assert content_of("a: 0", f"a={text}")["a"] == value


def test_values_are_never_evaluated() -> None:
    assert content_of("a: 0", "a=__import__('os').getcwd()")["a"] == "__import__('os').getcwd()"


@pytest.mark.parametrize("assignment", ["threat.eps", "=3", "a b=3", "a..b=1", ".a=1", "a.=1", "--x=1"])
def test_what_is_no_override(assignment: str) -> None:
    with pytest.raises(RecipeError, match=r"an override is written key.path=value"):
        content_of("a: 0", assignment)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("l.5=1", "override l.5=1: `l` is a list, so 5 should be one of 0 to 1"),
        ("l.x=1", "`l` is a list, so 'x' should be one of 0 to 1"),
        ("s.t=1", "override s.t=1: `s` is 'text', which has no key 't'"),
        ("s=[1", r"override s=\[1: the value is not valid YAML"),
    ],
)
def test_overrides_that_lead_nowhere(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        content_of("l: [1, 2]\ns: text", assignment)


def test_references_to_own_keys() -> None:
    content = content_of(
        "threat: {eps: 0.3}\nobjective: {sigma: '${threat.eps}', terms: [1]}\nx: ${objective.terms[0]}"
    )
    assert content["objective"]["sigma"] == 0.3
    assert content["x"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "a: ${oc.env:HOME}",
        "a: ${oc.env:HOME,x}",
        "a: ${b:c}",
        "a: 'x ${oc.decode:1} y'",
        "b: 1\na: '${${b}}'",
        "l: ['${x:y}']",
    ],
)
def test_references_that_could_read_or_run_something_are_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="refers to more than a key of this recipe"):
        content_of(text)


def test_overrides_may_not_smuggle_a_resolver_in() -> None:
    with pytest.raises(RecipeError, match=r"override a=.*refers to more than a key"):
        content_of("a: 1", "a='${oc.env:HOME}'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "r.yaml, line 1: not valid YAML"),
        ("a: 1\na: 2", "r.yaml, line 2: not valid YAML: found duplicate key a"),
        ("- 1", "a recipe is a YAML mapping"),
        ("just text", "a recipe is a YAML mapping"),
        ("1: 2", "a recipe's keys are names"),
        ("a: ${b}", "'b' not found"),
        ("a: ${b}\nb: ${a}", "ecursive"),
        ("a: &x [1]\nb: *x", "YAML aliases"),
        ("a: ???", "[Mm]issing"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("\ta: b", "r.yaml, line 1: not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_files_that_are_no_recipe(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        content_of(text)


def test_an_empty_file_is_an_empty_recipe() -> None:
    assert content_of("") == {}
    assert content_of("# only a comment\n") == {}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*none.yaml: No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(RecipeError, match="it is not UTF-8 text"):
        read(tmp_path / "bytes.yaml")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    refusal: RecipeError | None = None
    try:
        content_of(text)
    except RecipeError as error:
        refusal = error
    assert refusal is None or (len(refusal.problems) == 1 and "\n" not in str(refusal))
