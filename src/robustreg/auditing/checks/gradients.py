"""Whether the gradient that attacks are given is there, and is the gradient of what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.auditing import plots
from robustreg.auditing.case import Case, climb
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.slopes import STEP, dishonest, in_float64, inside, useless, width
from robustreg.auditing.statistics import Estimate, share
from robustreg.modes import running

_ZERO, _ZERO_MASKED = 0.05, 0.5
_WRONG, _WRONG_MASKED = 0.25, 0.6
_FLAT, _FLAT_MASKED, _HELPS = 0.5, 0.9, 0.05


@check(
    "zero_gradients",
    "Zero, tiny or missing gradients",
    fine="Nearly every sample has a gradient that an attack can follow.",
    bad="For many samples the gradient is zero, vanishingly small, NaN or missing. A gradient attack stands still "
    "there and reports the sample as robust, whatever would have been found in another way.",
    advice="Attack without gradients (Square), with a loss that does not saturate (margin, DLR), or with the layer "
    "that blocks the gradient replaced by a smooth one on the way back (BPDA).",
    source="Athalye et al. 2018; Croce et al. 2022, flag on zero gradients; thresholds ours, against sound models in "
    "results/audit_confusion",
    weight=80,
    threshold=_ZERO,
    decisive=_ZERO_MASKED,
)
def zero_gradients(case: Case) -> Measured:
    """The cross-entropy's gradient at the right samples, in the model's dtype and, if possible, in float64."""
    g = case.gradient(case.x, case.y)
    if g is None:
        found = Estimate(1.0, 1.0, 1.0)
        return Measured(
            "The output is not connected to the input: there is no gradient at all.", "masked", found
        )
    found = share(useless(g))
    by_dtype = {str(g.dtype).removeprefix("torch."): g}
    double = in_float64(case)
    if double is not None and g.dtype != torch.float64:
        wide = case.gradient(case.x.double(), case.y, model=double)
        by_dtype |= {"float64": wide} if wide is not None else {}
    said = ", ".join(f"{share(useless(rows)).percent()} in {name}" for name, rows in by_dtype.items())
    sizes = {name: numerics.flatten(rows).abs().amax(1) for name, rows in by_dtype.items()}
    return Measured(
        f"Useless gradients: {said}.",
        graded(found, _ZERO, _ZERO_MASKED),
        found,
        plots.histogram("largest entry of a sample's gradient", sizes, log=True),
    )


@check(
    "true_gradient",
    "The gradient against finite differences",
    fine="The gradient predicts how the output really changes.",
    bad="The gradient that the model reports is not the slope of what it computes: small steps do not change "
    "the output as it says. Attacks that trust it are led astray.",
    advice="Look in the model's forward pass for what breaks the gradient: rounding, argmax, detach, no_grad, a hook, "
    "a hand-written autograd.Function. Take it out, or make it smooth on the way back (BPDA). Until then measure with "
    "an attack that needs no gradients (Square).",
    source="definition of the gradient; Athalye et al. 2018, shattered gradients. A sample counts if the gradient is "
    "off by more than half over a step of a thousandth of the box, or by a tenth over a far smaller one on which the "
    "margin is straight; thresholds ours, against sound models in results/audit_confusion",
    weight=90,
    threshold=_WRONG,
    decisive=_WRONG_MASKED,
)
def true_gradient(case: Case) -> Measured:
    """Central differences of the margin, along its steepest and along random directions, against the gradient."""
    if case.random_outputs:
        return Measured("The model is random, so differences say nothing.")
    double = in_float64(case)
    # where attacks start, and where they have come to: a gradient may be honest at one of them only
    wrong, slopes = dishonest(case, case.x, double)
    if slopes is None:
        return Measured("There is no gradient to compare with.", "masked", Estimate(1.0, 1.0, 1.0))
    there, _ = dishonest(case, case.attacked("pgd").points, double)
    found = share(wrong | there)
    return Measured(
        f"For {found.percent()} of the samples the gradient is not the slope that small steps measure, there or where "
        "the attack ends.",
        graded(found, _WRONG, _WRONG_MASKED),
        found,
        plots.scatter("change that the gradient predicts", "change measured", slopes.said[0], slopes.real[0]),
    )


@check(
    "flat_steps",
    "Steps and plateaus",
    fine="Even a tiny change of the input changes the output.",
    bad="Small changes of the input change nothing at all: the model rounds its input or its features. On the "
    "plateaus between the steps the gradient is zero or invented.",
    advice="Attack what comes after the rounding, or replace the rounding by the identity on the way back (BPDA).",
    source="Athalye et al. 2018, shattered gradients; thresholds ours, against sound models in "
    "results/audit_confusion",
    weight=75,
    threshold=_FLAT,
    decisive=_FLAT_MASKED,
)
def flat_steps(case: Case) -> Measured:
    """Outputs that stay the same to the bit when every input value moves by a thousandth of the box."""
    if case.random_outputs:
        return Measured("The model is random, so every call differs.")
    step = STEP * width(case.threat, case.x)
    x = inside(case.x, case.threat, step)
    signs = torch.randint(0, 2, x.shape, generator=case.generator("steps")).to(x) * 2 - 1
    here = case.logits(x)
    sizes = [step * factor for factor in (0.1, 1.0, 10.0, 100.0)]
    same = [(case.logits(x + size * signs) == here).all(1) for size in sizes]
    found = share(same[1])
    flat = [float(rows.double().mean()) for rows in same]
    return Measured(
        f"{found.percent()} of the outputs do not change by a bit.",
        graded(found, _FLAT, _FLAT_MASKED),
        found,
        plots.lines(
            "change of every input value", sizes, {"outputs that stay the same": flat}, log=True, percent=True
        ),
    )


@check(
    "straight_through",
    "Attack through layers that block gradients (BPDA)",
    fine="No layer blocks the gradient, or going through it does not help an attack.",
    bad="A layer of the model gives attacks no gradient, such as one that rounds. An attack that skips this layer when "
    "it follows the gradient succeeds where the plain one fails: the layer hides the weakness and does not remove it.",
    advice="Take the layer away and audit again, or report the accuracy under an attack that goes through it: it is no "
    "defence.",
    source="Athalye et al. 2018, backward pass differentiable approximation; threshold ours",
    weight=88,
    threshold=_HELPS,
    decisive=_HELPS,
)
def straight_through(case: Case) -> Measured:
    """PGD with every layer whose gradient is zero or missing replaced by the identity on the way back."""
    blocking = blocking_layers(case)
    if not blocking:
        return Measured("No layer of equal input and output shape blocks the gradient.")
    names = ", ".join(f"layer {name} ({type(module).__name__})" for name, module in blocking[:3])
    with _passing(module for _, module in blocking):
        through = case.attack(climb(case.threat, case.budget.steps), "straight through")
    outcome = case.outcome(through.points, through.problem)
    case.fooling["PGD through blocking layers"] = outcome.fooled
    found = share(outcome.fooled & ~case.white_box)
    both = share(outcome.fooled | case.white_box)
    return Measured(
        f"Going through {names} fools {found.percent()} more of the samples.",
        graded(found, _HELPS, _HELPS),
        found,
        plots.bars("samples fooled", {"as it is": share(case.white_box), "through the layers too": both}),
    )


def blocking_layers(case: Case) -> list[tuple[str, nn.Module]]:
    """The innermost modules of equal input and output shape that pass no gradient, with their names."""
    blocking = []
    for name, module in case.model.named_modules():
        if name and not any(True for _ in module.children()) and not _is_torch(module):
            seen = _inputs_of(case, module)
            if seen and all(_blocks(module, inputs) for inputs in seen):
                blocking.append((name, module))
    return blocking


def _is_torch(module: nn.Module) -> bool:
    """Torch's own layers are differentiable; a ReLU that is off everywhere is no rounding."""
    return type(module).__module__.startswith("torch.nn")


def _inputs_of(case: Case, module: nn.Module) -> list[Tensor]:
    """What a module is given first, for the first samples, batch by batch."""
    seen: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
            seen.append(inputs[0].detach())

    first: list[Tensor] = []
    handle = module.register_forward_pre_hook(look)
    try:
        for part in torch.split(case.x[:16], case.batch_size):
            seen.clear()
            case.logits(part)
            first += seen[:1]
    finally:
        handle.remove()
    return first


def _blocks(module: nn.Module, seen: Tensor) -> bool:
    u = seen.clone().requires_grad_()
    with running(module, "eval"), torch.enable_grad():
        try:
            out = module(u)
        except Exception:  # it may need what the rest of the network sets up
            return False
        if not isinstance(out, Tensor) or out.shape != u.shape or torch.equal(out, u):
            return False
        if not out.requires_grad:
            return True
        (g,) = torch.autograd.grad(out.sum(), u, allow_unused=True)
    return g is None or bool((g == 0).double().mean() > 0.95)


@contextmanager
def _passing(modules: Iterator[nn.Module]) -> Iterator[None]:
    """The modules compute what they did, and are the identity on the way back."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out.detach() + (inputs[0] - inputs[0].detach())

    register: Callable[[nn.Module], Any] = lambda module: module.register_forward_hook(hook)  # noqa: E731
    handles = [register(module) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
