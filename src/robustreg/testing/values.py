"""Checks of a term's numbers: shape, precision, finiteness, and the parameter gradient."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.objective import Objective
from robustreg.testing import networks
from robustreg.testing.check import ContractError, require
from robustreg.testing.constants import Constants
from robustreg.testing.networks import Batch
from robustreg.testing.steps import Step, TermCase, gradient_of, require_close, require_finite, step


def values(case: TermCase) -> None:
    """Values are one number per sample or a scalar, finite, in at least float32."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    out = step(case.anew(), net, batch).detailed
    found = next(iter(out.per_sample.values()))
    require(isinstance(found, Tensor), f"it gave a {type(found).__name__} where a tensor is expected")
    require(found.device == batch.x.device, f"values are on {found.device}, the samples on {batch.x.device}")
    _require_sound(case.alone(), net, batch)


def trains(case: TermCase) -> None:
    """A gradient reaches the parameters; only a term that is a weight for others may be without."""
    require(case.trains, "no gradient reaches the parameters, so it trains nothing")


def dtypes(case: TermCase) -> None:
    """Values are float32 for samples in bfloat16, float32 and under autocast, float64 for float64, and finite."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        net, batch = networks.smooth(case.shape, case.classes).to(dtype), case.batch().to(dtype)
        found = _require_sound(case.alone(), net, batch, f"for samples in {_short(dtype)}").values
        wanted = torch.promote_types(dtype, torch.float32)
        require(
            found.dtype == wanted,
            f"values are {_short(found.dtype)} for samples in {_short(dtype)}, where {_short(wanted)} is expected",
        )
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = _require_sound(case.alone(), net, batch, "under autocast").values
    require(found.dtype == torch.float32, f"values are {_short(found.dtype)} under autocast")


def devices(case: TermCase) -> None:
    """The term works where the model and the samples are."""
    for device in accelerators():
        net, batch = networks.smooth(case.shape, case.classes).to(device), case.batch().to(device)
        found = _require_sound(case.alone(), net, batch, f"on {device}").values
        require(
            found.device == batch.x.device, f"values are on {found.device}, the samples on {batch.x.device}"
        )


def shapes(case: TermCase) -> None:
    """One sample, samples that are not contiguous, rows ``[B, D]`` and images: values, or one sentence of refusal."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    _require_sound(case.anew(), net, case.batch(1), "for a batch of one sample")
    strided = batch.at(batch.x.transpose(0, -1).contiguous().transpose(0, -1))
    found, expected = step(case.alone(), net, strided), step(case.alone(), net, batch)
    require_close(found.values, expected.values, "values of samples that are not contiguous are others", 1e-4)
    for shape in case.other_shapes():
        try:
            _require_sound(
                case.anew(),
                networks.smooth(shape, case.classes),
                case.batch(shape=shape),
                f"for samples {list(shape)}",
            )
        except ValueError as refusal:
            require_sentence(refusal, f"samples {list(shape)} are refused")


def constant_network(case: TermCase) -> None:
    """Where every input gradient is exactly 0, values and parameter gradients stay finite."""
    for bias in (1.0, 0.0):
        net = networks.constant(case.shape, case.classes, bias)
        _require_sound(case.alone(), net, case.batch(), "for a constant network")


def huge_logits(case: TermCase) -> None:
    """At logits of ten thousand, values and parameter gradients stay finite."""
    net = networks.saturated(case.shape, case.classes)
    _require_sound(case.alone(), net, case.batch(), "for logits of ten thousand")


def corners(case: TermCase) -> None:
    """For samples on the bounds of the box, values and parameter gradients stay finite."""
    batch = networks.corners(case.batch(), case.threats)
    _require_sound(
        case.alone(), networks.smooth(case.shape, case.classes), batch, "for samples on the bounds"
    )


def gradient(case: TermCase) -> None:
    """The parameter gradient agrees with finite differences, what the term holds constant being held."""
    _compare_with_differences(case, Constants())
    net, batch = networks.restless(case.shape, case.classes).double(), case.batch().to(torch.float64)
    alone = case.alone()
    two = step(_with_two_backwards(alone), copy.deepcopy(net), batch).gradient
    sentence = "its gradient changes where one backward serves input and parameters"
    require_close(step(alone, net, batch).gradient, two, sentence)


def exact_gradient(case: TermCase) -> None:
    """The parameter gradient agrees with finite differences although nothing is held constant."""
    _compare_with_differences(case, None)


def accelerators() -> list[torch.device]:
    """The devices beside the CPU."""
    return [torch.device("cuda", 0)] if torch.cuda.is_available() else []


def require_sentence(error: Exception, when: str) -> None:
    """Raise unless the error's message is one readable line."""
    message = str(error).strip()
    require(
        len(message) > 15 and "\n" not in message,
        f"{when} without one clear sentence, but with {type(error).__name__}({message!r})",
    )


def _require_sound(objective: Objective, net: nn.Module, batch: Batch, when: str = "") -> Step:
    out = step(objective, net, batch)
    require(out.values.dtype.itemsize >= 4, f"values are {_short(out.values.dtype)} {when}".strip())
    require_finite(out.values, f"the values {when}".strip())
    require_finite(out.gradient, f"the parameter gradient {when}".strip())
    return out


def _recording(constants: Constants | None) -> AbstractContextManager[Any]:
    return nullcontext() if constants is None else constants.recording()


def _with_two_backwards(objective: Objective) -> Objective:
    """A copy whose losses are run backwards for the input and for the parameters apart."""
    other = copy.deepcopy(objective)
    if other.needs is not None:
        other.needs.alone.clear()
    return other


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compare_with_differences(case: TermCase, constants: Constants | None) -> None:
    # BatchNorm and dropout too: a buffer that is overwritten after torch has saved it spoils a gradient silently
    start = networks.restless(case.shape, case.classes).double()
    batch = case.batch().to(torch.float64)
    # a gradient that is at hand hides how the loss depends on the parameters
    objective = _with_two_backwards(case.alone())
    g = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in start.parameters()]

    def loss_at(t: float) -> tuple[nn.Module, Tensor]:
        net, fresh = copy.deepcopy(start), copy.deepcopy(objective)
        with torch.no_grad():
            for p, d in zip(net.parameters(), direction, strict=True):
                p.add_(d, alpha=t)
        with constants.held() if constants is not None and t != 0.0 else _recording(constants):
            return net, step(fresh, net, batch).detailed.loss

    net, loss = loss_at(0.0)
    slope = float(gradient_of(loss, net) @ torch.cat([d.flatten() for d in direction]))
    quotients = [float((loss_at(h)[1] - loss_at(-h)[1]).detach()) / (2 * h) for h in (1e-5, 1e-6)]
    # two steps, because one may straddle a kink of an absolute value
    closest = min(quotients, key=lambda q: abs(q - slope))
    if abs(closest - slope) > 1e-5 * max(abs(slope), abs(closest)) + 1e-8:
        held = "" if constants is None else ", what carries no graph being held"
        raise ContractError(
            f"along a random direction its slope is {closest:.8g}, but its gradient says {slope:.8g}{held}"
        )
