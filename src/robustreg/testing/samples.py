"""Checks of how a term treats the samples of a batch: alike, apart, with and without labels."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from robustreg.objective import Objective
from robustreg.probe import Probe
from robustreg.streams import Stream
from robustreg.terms import Term
from robustreg.testing import networks
from robustreg.testing.check import ContractError, require
from robustreg.testing.networks import Batch
from robustreg.testing.steps import (
    PROGRESS,
    SEED,
    TermCase,
    require_close,
    require_finite,
    step,
    step_of_some,
)
from robustreg.testing.values import require_sentence
from robustreg.threat import Threat

ORDER = torch.tensor([4, 0, 5, 2, 1, 3])
PARTS = (torch.tensor([0]), torch.tensor([1, 2, 3]), torch.tensor([4, 5]))


def permutation(case: TermCase) -> None:
    """Permuted samples have permuted values (with their own random numbers), and the same loss and gradient."""
    net, batch = _net(case), _batch(case)
    for number in range(1 + case.has_state):
        straight, turned = case.alone(), case.alone()
        for earlier in range(number):  # a memory must belong to the samples, too, and not to their places
            for objective in (straight, turned):
                step_of_some(objective, net, batch, torch.arange(len(batch)), earlier)
        expected = step_of_some(straight, net, batch, torch.arange(len(batch)), number)
        found = step_of_some(turned, net, batch, ORDER, number)
        values = expected.values[ORDER] if expected.values.ndim else expected.values
        require_close(found.values, values, "permuted samples have other values")
        require_close(found.gradient, expected.gradient, "permuted samples have another parameter gradient")


def batch_split(case: TermCase) -> None:
    """A sample has the same value in any batch, and gradients of parts add up to the gradient of the whole."""
    net, batch = _net(case), _batch(case)
    whole = step_of_some(case.alone(), net, batch, torch.arange(len(batch)))
    if whole.values.ndim == 0:
        return  # a scalar is of the batch: it says nothing of a sample
    parts = [step_of_some(case.alone(), net, batch, places) for places in PARTS]
    values = torch.cat([part.values for part in parts])
    require_close(values, whole.values, "a sample's value depends on the other samples of its batch")
    total = torch.stack([len(p) * part.gradient for p, part in zip(PARTS, parts, strict=True)]).sum(0)
    require_close(
        total, len(batch) * whole.gradient, "the gradients of parts of a batch do not add up to the whole's"
    )


def labels(case: TermCase) -> None:
    """Without labels: one sentence from a term that says it needs them, the same values from one that does not."""
    net, batch = _net(case), _batch(case)
    none = batch.labelled(None)
    if "labels" in case.subject.needs:
        _require_refusal(case.anew(), net, none, "labels")
        require(
            not _works_without_labels(case, net, none),
            "it says in `needs` that it needs labels, but gives values without them",
        )
        return
    expected = step(case.alone(), net, batch)
    try:
        found = step(case.anew(), net, none)
    except Exception as error:
        raise ContractError(
            f"it does not say in `needs` that it needs labels, but without them: {error}"
        ) from error
    unlabelled = step(case.alone(), net, batch.labelled(torch.full((len(batch),), -1)))
    for other, which in ((found, "no labels"), (unlabelled, "labels of -1")):
        require(
            torch.equal(other.values, expected.values) and torch.equal(other.gradient, expected.gradient),
            f"it does not say in `needs` that it needs labels, but has other values with {which}",
        )


def unlabelled(case: TermCase) -> None:
    """Samples with the label -1 do not count in a term that needs labels, and values stay finite."""
    net, batch = _net(case), _batch(case)
    assert batch.y is not None
    y = batch.y.clone()
    y[[1, 4]] = -1
    partly = batch.labelled(y)
    x = batch.x.clone()
    x[[1, 4]] = batch.x[[4, 2]]
    one, other = step(case.alone(), net, partly), step(case.alone(), net, partly.at(x))
    require_finite(one.values, "the values of a batch with unlabelled samples")
    require_finite(one.gradient, "the parameter gradient of a batch with unlabelled samples")
    require_close(
        one.detailed.loss.detach(), other.detailed.loss.detach(), "unlabelled samples change the loss"
    )
    require_close(one.gradient, other.gradient, "unlabelled samples change the parameter gradient")
    nobody = step(case.alone(), net, batch.labelled(torch.full((len(batch),), -1)))
    require_finite(nobody.values, "the values of a batch without a labelled sample")
    require_finite(nobody.gradient, "the parameter gradient of a batch without a labelled sample")


def index(case: TermCase) -> None:
    """Without the samples' places in the data: one sentence from a term that needs them, values from any other."""
    net, batch = _net(case), _batch(case)
    objective = case.anew()
    try:
        objective.detailed(net, batch.x, batch.y, stream=Stream(SEED), progress=PROGRESS)
    except ValueError as error:
        require(
            "index" in case.subject.needs, f"it does not say in `needs` that it needs an index, but: {error}"
        )
        require_sentence(error, "a missing index is refused")


def missing(case: TermCase) -> None:
    """A threat or an adversary that is missing is said in one sentence; the objective's threat fills the gap."""
    net, batch = _net(case), _batch(case)
    for need in ("adversary", "threat"):
        bare = _without(case.fresh(), need)
        if bare is None:
            continue
        require(need in bare.needs, f"without {_a(need)} it does not say in `needs` that it needs one")
        _require_refusal(Objective.of(bare), net, batch, need)
        own = getattr(case.subject, need)
        if isinstance(own, Threat):
            filled = step(Objective.of(bare).with_threat(own), net, batch)
            same = torch.equal(filled.values, step(case.alone(), net, batch).values)
            require(same, "the objective's threat gives other values than its own")


def _without(term: Term, need: str) -> Term | None:
    """The term without its threat or adversary; None where it has none or cannot be made without."""
    if need not in getattr(term, "__dataclass_fields__", {}):
        return None
    with suppress(ValueError, TypeError):
        return replace(term, **{need: None})  # type: ignore[type-var]
    return None


def _net(case: TermCase) -> torch.nn.Module:
    return networks.smooth(case.shape, case.classes).double()


def _batch(case: TermCase) -> Batch:
    return case.batch().to(torch.float64)


def _a(need: str) -> str:
    return f"{'an' if need[0] in 'aeiou' else 'a'} {need}"


def _works_without_labels(case: TermCase, net: torch.nn.Module, batch: Batch) -> bool:
    objective = case.alone()
    probe = Probe(
        net,
        batch.x,
        None,
        stream=Stream(SEED),
        threat=objective.threat,
        progress=PROGRESS,
        index=batch.index,
    )
    try:
        return isinstance(objective.entries[0][1](probe), Tensor)
    except Exception:
        return False


def _require_refusal(objective: Objective, net: torch.nn.Module, batch: Batch, need: str) -> None:
    try:
        step(objective, net, batch)
    except ValueError as error:
        require_sentence(
            error, f"missing {need} are refused" if need == "labels" else f"a missing {need} is refused"
        )
        require(need in str(error), f"the sentence on missing {need} does not name them: {error}")
    except Exception as error:
        raise ContractError(
            f"missing {need}: {type(error).__name__} in place of a ValueError: {error}"
        ) from error
    else:
        raise ContractError(f"it says in `needs` that it needs {need}, but works without")
