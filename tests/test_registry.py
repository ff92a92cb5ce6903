"""Names of components: found by convention, registered by users, suggested when mistyped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import robustreg as rr
from robustreg import registry


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    before = {kind: dict(known) for kind, known in registry._registered.items()}
    yield
    registry._registered.update(before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("GradientNorm", "gradient_norm"), ("PGD", "pgd"), ("MLPNet", "mlp_net"), ("Resnet18", "resnet18")],
)
def test_snake_case(name: str, expected: str) -> None:
    assert registry.snake_case(name) == expected


def test_the_library_s_own_components_are_found_by_convention() -> None:
    assert registry.lookup("term", "gradient_norm") is rr.GradientNorm
    assert registry.lookup("point", "pgd") is rr.PGD
    assert registry.lookup("point", "fgsm") is rr.FGSM  # a function that returns a point
    assert registry.lookup("method", "gradient_family") is rr.methods.gradient_family
    assert registry.lookup("weight", "ramp") is rr.Ramp
    assert {"digits", "mnist", "cifar10"} <= set(registry.names("data"))
    assert {"small_conv", "maxout_mlp"} <= set(registry.names("model"))
    assert {"sgd", "adam"} <= set(registry.names("optimizer"))
    assert {"constant", "onecycle"} <= set(registry.names("schedule"))


def test_abstract_bases_and_helpers_are_no_components() -> None:
    assert "term" not in registry.names("term")
    assert "weighted" not in registry.names("term")
    assert "point" not in registry.names("point")
    assert "card_of" not in registry.names("method")


def test_a_registered_class_is_found_by_its_name_in_snake_case() -> None:
    @rr.register("term")
    @dataclass(frozen=True)
    class MyOwnTerm(rr.Term):
        pass

    assert registry.lookup("term", "my_own_term") is MyOwnTerm
    assert "my_own_term" in registry.names("term")


def test_a_name_can_be_chosen() -> None:
    @rr.register("term", "other")
    class Whatever(rr.Term):
        pass

    assert registry.lookup("term", "other") is Whatever


def test_unknown_names_suggest_the_closest() -> None:
    with pytest.raises(
        registry.UnknownName, match=r"unknown term 'gradientnorm'; did you mean 'gradient_norm'\?"
    ):
        registry.lookup("term", "gradientnorm")
    with pytest.raises(registry.UnknownName, match="unknown weight schedule 'zzz'; known: cosine, ramp"):
        registry.lookup("weight", "zzz")


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'gradient_norm' is taken by robustreg.penalties"):

        @rr.register("term", "gradient_norm")
        class Mine(rr.Term):
            pass


def test_the_same_definition_may_register_twice() -> None:
    def define() -> type[rr.Term]:
        @rr.register("term")
        class Rerun(rr.Term):
            pass

        return Rerun

    define()
    latest = define()
    assert registry.lookup("term", "rerun") is latest


@pytest.mark.parametrize("name", ["Upper", "has space", "1st", ""])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(ValueError, match="a name consists of lower-case letters"):
        rr.register("term", name)(type("Mine", (rr.Term,), {}))


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match=r"unknown kind 'tern'; did you mean 'term'\?"):
        rr.register("tern")


def test_a_registered_model_becomes_known_to_the_catalogue() -> None:
    from robustreg.models import catalogue

    @rr.register("model")
    def my_net(seed: int, normalize: object, num_classes: int = 10) -> None:
        """A network."""

    assert "my_net" not in catalogue.BUILDERS
    registry.publish("model")
    try:
        assert catalogue.BUILDERS["my_net"] is my_net
    finally:
        del catalogue.BUILDERS["my_net"]


def test_the_registry_itself_imports_only_the_standard_library() -> None:
    code = (
        "import sys, importlib.util\n"
        "spec = importlib.util.find_spec('robustreg')\n"
        "path = spec.submodule_search_locations[0] + '/registry.py'\n"
        "own = importlib.util.spec_from_file_location('registry', path)\n"
        "module = importlib.util.module_from_spec(own); sys.modules['registry'] = module\n"
        "before = set(sys.modules)\n"
        "own.loader.exec_module(module)\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'registry'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
