"""Checks of a term or a point as a value: frozen, equal by content, writable, buildable, its state saved whole."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.memory import Memory
from robustreg.points import Point
from robustreg.streams import content_key
from robustreg.testing import networks
from robustreg.testing.check import ContractError, require
from robustreg.testing.networks import Batch
from robustreg.testing.recipe import NotExpressible, as_mapping, built
from robustreg.testing.steps import Case, TermCase, step


def value(case: Case) -> None:
    """It is a value: frozen, hashable, equal to a copy, and named without memory addresses."""
    subject = case.subject
    if isinstance(case, TermCase) and not _frozen(subject) and case.has_state:
        return  # with a state of its own it is no value
    require(_frozen(subject), "it is not a frozen dataclass, so two equal ones are not the same")
    kept: dict[int, Any] = {id(part): part for part in _by_identity(subject)}
    twin = copy.deepcopy(subject, kept)
    try:
        equal = hash(twin) == hash(subject) and twin == subject
    except TypeError as error:
        raise ContractError(f"it has no hash: {error}; hold tuples in place of lists") from error
    require(equal, "a copy with equal fields is not equal to it")
    if isinstance(subject, Point):
        require(
            " at 0x" not in subject.key,
            f"its key names a memory address, other in every process: {subject.key}",
        )
        require(
            copy.deepcopy(subject).key == subject.key, "a copy has another key, and so another random stream"
        )


def recipe(case: Case) -> None:
    """A recipe with all its options builds an equal one."""
    mapping = as_mapping(case.subject)
    made = built(mapping)
    require(type(made) is type(case.subject), f"the recipe {mapping} builds a {type(made).__name__}")
    require(
        content_key(made) == content_key(case.subject), f"the recipe {mapping} builds another one: {made}"
    )


def has_recipe(case: Case) -> bool:
    """Whether a recipe can say it, and what reads recipes is installed."""
    try:
        import robustreg.config.components  # noqa: F401

        as_mapping(case.subject)
    except (NotExpressible, ImportError):
        return False
    return True


def state(case: TermCase) -> None:
    """After a save and a load the next steps have the same bits; neither a plan nor what was loaded is changed."""
    net = networks.restless(case.shape, case.classes)
    first, second = case.trainable(), case.trainable()
    earlier, later = (4, 2) if case.has_state else (1, 1)
    for number in range(earlier):
        step(first, net, _seen(case, number), number)
    saved = _saved(first.state_dict())
    first.plan(case.shape, case.classes)
    require(_same(first.state_dict(), saved), "plan() changed its state")
    loaded = _saved(saved)
    second.load_state_dict(loaded)
    for number in range(earlier, earlier + later):
        nets = (copy.deepcopy(net), copy.deepcopy(net))
        one, other = (
            step(o, n, _seen(case, number), number) for o, n in zip((first, second), nets, strict=True)
        )
        require(
            torch.equal(one.values, other.values) and torch.equal(one.gradient, other.gradient),
            "after its state_dict() was loaded into a new one, the next step has other bits",
        )
    require(
        _same(first.state_dict(), second.state_dict()), "a resumed run's state is another one than the run's"
    )
    require(
        _same(loaded, saved),
        "later steps change the state that was loaded: load_state_dict() must take copies",
    )


def _seen(case: TermCase, number: int) -> Batch:
    """Other samples at every step, some of them met before."""
    batch = case.batch(8)
    places = (torch.arange(6) + 2 * number) % 8
    return batch.rows(places)


def _saved(tree: Any) -> Any:
    """State as a file would give it back.

    Raises:
        ContractError: something that is neither a tensor nor JSON.
    """
    _require_plain(tree, "the state")
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _require_plain(item: Any, place: str) -> None:
    if isinstance(item, Tensor):
        require(not item.requires_grad, f"{place} carries a graph")
    elif isinstance(item, dict):
        for key, below in item.items():
            require(
                isinstance(key, (str, int)), f"{place} has a key {key!r}, which is neither text nor a number"
            )
            _require_plain(below, f"{place}[{key!r}]")
    elif isinstance(item, (list, tuple)):
        for i, below in enumerate(item):
            _require_plain(below, f"{place}[{i}]")
    else:
        plain = item is None or isinstance(item, (bool, int, float, str))
        require(plain, f"{place} is a {type(item).__name__}, where tensors and JSON values can be saved")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def _frozen(subject: Any) -> bool:
    parameters = getattr(type(subject), "__dataclass_params__", None)
    return bool(getattr(parameters, "frozen", False))


def _by_identity(value: Any) -> Iterator[Any]:
    """The networks and memories inside, which are themselves in a copy."""
    if isinstance(value, (nn.Module, Memory)):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from _by_identity(getattr(value, f.name))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _by_identity(part)
