"""What attacks find that use no gradients of the model: they must not beat those that do."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustreg.attacks import Square
from robustreg.auditing import plots
from robustreg.auditing.averaging import averages
from robustreg.auditing.case import Case, climb
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.statistics import Estimate, share
from robustreg.evaluation.predict import correct

_BEATS, _BEATS_MASKED = 0.04, 0.10
_SEEN, _BATCH, _HIDDEN, _RATE = 1000, 128, 128, 0.1

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
    decisive=_BEATS_MASKED,
)
def random_search(case: Case) -> Measured:
    """Samples that plain gradient attacks leave standing and some of many random points fools."""
    if case.random_outputs:
        return _of_random_model(case)
    standing = (~case.white_box).nonzero().squeeze(1)
    fooled = torch.zeros_like(case.white_box)
    for i in range(case.budget.draws):
        if len(standing) == 0:
            break
        x = case.x[standing]
        if i % 2:
            points = case.noise(x, "random search", i)
        else:  # a corner of the ball: further away than most of it
            signs = torch.randn(x.shape, generator=case.generator("random search", i)).to(x)
            points = case.threat.project(x + case.threat.steepest(signs), x)
        wrong = ~correct(case.logits(points), case.y[standing])
        fooled[standing[wrong]] = True
        standing = standing[~wrong]
    return _beyond_gradients(case, "random points", f"{case.budget.draws} random points", fooled)


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
    decisive=_BEATS_MASKED,
)
def square(case: Case) -> Measured:
    """Samples that plain gradient attacks leave standing and Square fools."""
    if case.threat.norm not in (1.0, 2.0, math.inf):
        return Measured(f"Square has no moves for {case.threat.name}.")
    if case.random_outputs:
        return _of_random_model(case)
    outcome = case.attack(
        Square(case.threat, queries=case.budget.queries), "square", among=~case.white_box
    ).or_raise()
    return _beyond_gradients(case, "Square", f"{case.budget.queries} queries of Square", outcome.fooled)


@check(
    "transfer",
    "Attacks on a copy against gradients",
    fine="Attacks made on a copy that learnt the model's answers find nothing that its own gradients miss.",
    bad=_BAD,
    advice="Add transfer attacks to the evaluation: from an undefended model of the same design, and from copies.",
    source=f"Papernot et al. 2017; Pintor et al. 2022, non-transferability; {_SOURCE}",
    weight=93,
    threshold=_BEATS,
    decisive=_BEATS_MASKED,
)
def transfer(case: Case) -> Measured:
    """Samples that plain gradient attacks leave standing and PGD on a substitute fools."""
    if case.random_outputs:
        return _transfer_to_random(case)
    substitute = trained_substitute(case, case.model)
    attack = climb(case.threat, 20, early_exit=False)
    outcome = case.attack(attack, "transfer", model=substitute, among=~case.white_box).or_raise()
    agree = share(substitute(case.x).argmax(1) == case.y)
    said = f"attacks on a copy that agrees on {agree.percent()}"
    return _beyond_gradients(case, "a copy", said, outcome.fooled)


def _transfer_to_random(case: Case) -> Measured:
    """The same for a random model: learnt from the mean of many calls, and judged by it."""
    gradients = averages(case)
    substitute = trained_substitute(case, gradients.judge)
    attack = climb(case.threat, 20, early_exit=False)
    points = case.attack(attack, "transfer", model=substitute).or_raise().points
    known = gradients.by_plain | gradients.by_averaged
    found = share(gradients.fooled(case, points) & ~known)
    both = share(known | gradients.fooled(case, points))
    return Measured(
        f"By the mean of {gradients.judge.calls} calls gradients fool {share(known).percent()} of the samples, "
        f"averaged ones included; attacks on a copy fool a further {found.percent()}.",
        graded(found, _BEATS, _BEATS_MASKED),
        found,
        plots.bars("samples fooled", {"gradients": share(known), "gradients and a copy": both}),
    )


def trained_substitute(case: Case, model: nn.Module) -> nn.Module:
    """A small perceptron that learnt the model's classes on the samples and on noise around them."""
    features, classes = math.prod(case.x.shape[1:]), case.all_logits.shape[1]
    torch.manual_seed(case.seed)  # the audit puts the global state back
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes)
    ).to(case.x)
    # Momentum by hand: torch.optim loads its compiler first, which takes longer than all of a small audit.
    parameters = list(net.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    x = case.all_x[:_SEEN]
    scales = (0.0, 1.0, 2.0)
    inputs = torch.cat([x if s == 0 else case.noise(x, "substitute", scale=s) for s in scales])
    answers = case.logits(inputs, model).argmax(1)
    generator = case.generator("substitute", "batches")
    for _ in range(case.budget.substitute_steps):
        rows = torch.randint(len(inputs), (_BATCH,), generator=generator).to(inputs.device)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(net(inputs[rows]), answers[rows])
        with torch.no_grad():
            for p, v, g in zip(parameters, velocities, torch.autograd.grad(loss, parameters), strict=True):
                p.sub_(v.mul_(0.9).add_(g), alpha=_RATE)
    return net.requires_grad_(False).eval()


def _beyond_gradients(case: Case, name: str, said: str, fooled: Tensor) -> Measured:
    """What an attack without the model's gradients fools `[n]` of the samples that these leave standing."""
    case.fooling[f"gradients, then {name}"] = case.white_box | fooled
    found = share(fooled & ~case.white_box)
    gradients, both = share(case.white_box), share(case.white_box | fooled)
    return Measured(
        f"Gradients fool {gradients.percent()} of the samples; {said} fool a further {found.percent()}.",
        graded(found, _BEATS, _BEATS_MASKED),
        found,
        plots.bars("samples fooled", {"gradients": gradients, f"gradients and {name}": both}),
    )


def _of_random_model(case: Case) -> Measured:
    return Measured(
        "The model is random, so being fooled once by one of many tries says nothing; see the averaging attack.",
        "none",
        Estimate(0.0, 0.0, 1.0),
    )
