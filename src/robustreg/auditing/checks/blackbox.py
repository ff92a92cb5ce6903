"""What attacks find that use no gradients of the model: they must not beat those that do."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustreg.attacks import PGD
from robustreg.auditing.case import Case
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.statistics import Estimate, share

_BEATS, _BEATS_MASKED = 0.04, 0.10
_SEEN, _BATCH, _HIDDEN = 1000, 128, 128

_BAD = (
    "Gradients show the fastest way to a wrong answer, so an attack that sees them should never do worse than one "
    "that does not. Here it does: the gradients mislead."
)
_SOURCE = "thresholds ours, against sound models in results/audit_confusion"


@check(
    "random_search",
    "Random points against gradients",
    fine="Random points in the ball find nothing that gradients miss.",
    bad=_BAD,
    advice="Do not use the gradient attack's number. Evaluate with Square and with the standard ensemble.",
    source=f"Athalye et al. 2018: random sampling must not find what gradients miss; {_SOURCE}",
    weight=92,
    threshold=_BEATS,
)
def random_search(case: Case) -> Measured:
    """Samples that some of many random points fools and plain gradient attacks do not."""
    fooled = torch.zeros(len(case.x), dtype=torch.bool, device=case.x.device)
    for i in range(case.budget.draws):
        if i % 2:
            points = case.noise(case.x, "random search", i)
        else:  # a corner of the ball: further away than most of it
            signs = torch.randn(case.x.shape, generator=case.generator("random search", i)).to(case.x)
            points = case.threat.project(case.x + case.threat.steepest(signs), case.x)
        fooled |= case.logits(points).argmax(1) != case.y
    if case.random_outputs:
        return _of_random_model(case)
    found = share(fooled & ~case.white_box)
    return Measured(
        f"{case.budget.draws} random points fool {share(fooled).percent()}; {found.percent()} fall to them alone.",
        graded(found, _BEATS, _BEATS_MASKED),
        found,
    )


@check(
    "square",
    "Square attack against gradients",
    fine="The Square attack, which sees outputs only, finds nothing that gradients miss.",
    bad=_BAD,
    advice="Do not use the gradient attack's number. Evaluate with the standard ensemble, which has Square in it, "
    "and find out which part of the model blocks the gradient.",
    source=f"Andriushchenko et al. 2020; AutoAttack's flag on Square; {_SOURCE}",
    weight=95,
    threshold=_BEATS,
)
def square(case: Case) -> Measured:
    """Samples that Square fools and plain gradient attacks do not."""
    if case.threat.norm not in (1.0, 2.0, math.inf):
        return Measured(f"Square has no moves for {case.threat.name}.")
    if case.random_outputs:
        return _of_random_model(case)
    outcome = case.attacked("square")
    if outcome.problem is not None:
        raise RuntimeError(outcome.problem)
    found = share(outcome.fooled & ~case.white_box)
    return Measured(
        f"{case.budget.queries} queries fool {share(outcome.fooled).percent()}, gradients "
        f"{share(case.white_box).percent()}; {found.percent()} fall to Square alone.",
        graded(found, _BEATS, _BEATS_MASKED),
        found,
    )


@check(
    "transfer",
    "Attacks on a copy against gradients",
    fine="Attacks made on a copy that learnt the model's answers find nothing that its own gradients miss.",
    bad=_BAD,
    advice="Add transfer attacks to the evaluation: from an undefended model of the same design, and from copies.",
    source=f"Papernot et al. 2017; Pintor et al. 2022, non-transferability; {_SOURCE}",
    weight=93,
    threshold=_BEATS,
)
def transfer(case: Case) -> Measured:
    """Samples that PGD on a substitute fools and plain gradient attacks on the model do not."""
    if case.random_outputs:
        return _of_random_model(case)
    substitute = trained_substitute(case)
    outcome = case.attack(PGD(case.threat, steps=20, early_exit=False), "transfer", model=substitute)
    if outcome.problem is not None:
        raise RuntimeError(outcome.problem)
    agree = share(substitute(case.x).argmax(1) == case.y)
    found = share(outcome.fooled & ~case.white_box)
    return Measured(
        f"A copy that agrees on {agree.percent()} gives attacks that fool {share(outcome.fooled).percent()}; "
        f"{found.percent()} fall to them alone.",
        graded(found, _BEATS, _BEATS_MASKED),
        found,
    )


def trained_substitute(case: Case) -> nn.Module:
    """A small perceptron that learnt the model's classes on the samples and on noise around them."""
    features, classes = math.prod(case.x.shape[1:]), case.all_logits.shape[1]
    torch.manual_seed(case.seed)  # the audit puts the global state back
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes)
    ).to(case.x)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    x = case.all_x[:_SEEN]
    scales = (0.0, 1.0, 2.0)
    inputs = torch.cat([x if s == 0 else case.noise(x, "substitute", scale=s) for s in scales])
    answers = case.logits(inputs).argmax(1)
    generator = case.generator("substitute", "batches")
    for _ in range(case.budget.substitute_steps):
        rows = torch.randint(len(inputs), (_BATCH,), generator=generator).to(inputs.device)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(net(inputs[rows]), answers[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
        optimiser.step()
    return net.requires_grad_(False).eval()


def _of_random_model(case: Case) -> Measured:
    return Measured(
        "The model is random, so being fooled once by one of many tries says nothing; see the averaging attack.",
        "none",
        Estimate(0.0, 0.0, 1.0),
    )
