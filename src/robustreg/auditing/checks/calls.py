"""Whether an output belongs to its input alone: two calls, other samples in the batch, layers in training mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustreg.auditing import plots
from robustreg.auditing.averaging import CALLS, averages
from robustreg.auditing.case import Case, climb, spread
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.statistics import share
from robustreg.evaluation.predict import correct
from robustreg.modes import running

_SHARE, _HELPS, _ALONE, _STEPS = 0.02, 0.05, 48, 20


def as_handed_over(model: nn.Module, x: Tensor) -> list[str]:
    """What layers in training mode do to the outputs, one sentence each; nothing of the model is changed by it."""
    left_on = [m for m in model.modules() if m.training and _has_two_modes(m)]
    if not left_on:
        return []
    kinds = ", ".join(sorted({type(m).__name__ for m in left_on}))
    said = [f"{len(left_on)} layers were handed over in training mode ({kinds})"]
    with torch.no_grad(), running(model, "batch"):
        first, second = model(x), model(x)
    with torch.no_grad(), running(model, "eval"):
        evaluated = model(x)
    if not torch.equal(first, second):
        said.append("two calls with the same input differ")
    if (first.argmax(1) != evaluated.argmax(1)).any():
        changed = float((first.argmax(1) != evaluated.argmax(1)).double().mean())
        said.append(f"{100 * changed:.1f} % of the predictions differ from evaluation mode")
    return said


@check(
    "training_layers",
    "Layers in training mode",
    fine="Dropout and normalisation layers were in evaluation mode.",
    bad="Layers that behave differently in training were left on. An attack on such a model fights random numbers "
    "and statistics of its own batch; this audit looked at the model in evaluation mode.",
    advice="Call model.eval() before you attack or use the model.",
    source="Carlini et al. 2019, section 4; a notice only, because the audit sets evaluation mode itself",
    weight=20,
)
def training_layers(case: Case) -> Measured:
    """Flags as the model was handed over, and what they do."""
    said = case.handed_over
    if not said:
        return Measured("No layer was handed over in training mode.")
    return Measured("; ".join(said) + ".", "notice")


@check(
    "repeated_calls",
    "The same input twice",
    fine="The same input gives the same output.",
    bad="The model gives different outputs for the same input. Each step of an attack then follows the gradient of "
    "another random model, and the attack may fail for that reason alone.",
    advice="Fix the random numbers, or evaluate with attacks that average over them (expectation over "
    "transformation) and report the worst of several calls.",
    source="Athalye et al. 2018, stochastic gradients; Croce et al. 2022, flag for randomised defences",
    weight=70,
    threshold=_SHARE,
)
def repeated_calls(case: Case) -> Measured:
    """Samples whose output changes from call to call, and whose class does."""
    calls, found = case.repeated, share(case.changes)
    classes = share((calls.argmax(2) != calls[0].argmax(1)).any(0))
    return Measured(
        f"Between {len(calls)} calls {found.percent()} of the outputs changed, {classes.percent()} of the classes.",
        graded(found, _SHARE),
        found,
        plots.bars("samples that change between calls", {"outputs": found, "classes": classes}),
    )


@check(
    "averaged_attack",
    "An attack that averages over random numbers",
    fine="Averaging over the model's random numbers does not help an attack.",
    bad="An attack that averages over the model's random numbers succeeds where the plain one fails: the randomness "
    "hid the weakness and did not remove it.",
    advice="Report the accuracy under the averaging attack, with more calls averaged until it stops falling.",
    source="Athalye et al. 2018, expectation over transformation; threshold ours, against sound models",
    weight=85,
    threshold=_HELPS,
    decisive=_HELPS,
)
def averaged_attack(case: Case) -> Measured:
    """PGD on the mean of several calls against PGD on single calls, judged by the mean of many calls."""
    if not case.random_outputs:
        return Measured("The model is not random, so there is nothing to average over.")
    by_plain, by_averaged = averages(case).by_plain, averages(case).by_averaged
    found = share(by_averaged & ~by_plain)
    rows = {"single calls": share(by_plain), "averaged too": share(by_plain | by_averaged)}
    return Measured(
        f"Averaging over {CALLS} calls fools {found.percent()} more of the samples.",
        graded(found, _HELPS, _HELPS),
        found,
        plots.bars("samples fooled", rows),
    )


@check(
    "batch_mates",
    "Other samples in the batch",
    fine="A sample's output depends on that sample alone.",
    bad="A sample's output depends on which other samples stand beside it. Attacks work on batches, so what they "
    "find for a batch says little about a single input, and the accuracy depends on how the test set is cut up.",
    advice="Use running statistics instead of those of the batch (model.eval()), or evaluate one sample at a time.",
    source="ours: it must not happen at all; share of samples beyond rounding, against sound models",
    weight=65,
    threshold=_SHARE,
)
def batch_mates(case: Case) -> Measured:
    """Outputs alone, in another order and beside noise, against those in the whole batch."""
    if case.random_outputs:
        return Measured("The model is random, so the outputs differ anyway.")
    changed, classes = _company(case)
    found = share(changed)
    return Measured(
        f"{found.percent()} of the outputs depend on the rest of the batch, {share(classes).percent()} of the classes.",
        graded(found, _SHARE),
        found,
        plots.bars("samples that others in the batch change", {"outputs": found, "classes": share(classes)}),
    )


@check(
    "attacked_alone",
    "Attacks on one sample at a time",
    fine="Attacking samples one at a time finds what attacking them in batches finds.",
    bad="Alone and in a batch the model is another one, and what is attacked in the one way falls in the other. An "
    "attacker sends one input, prepared as he likes, so the number from one way alone is not real.",
    advice="Make the model independent of the batch; or attack it in both ways and report what is left when every "
    "point is judged as a batch of one.",
    source="ours: an attacker controls a single input; threshold as of the averaging attack",
    weight=83,
    threshold=_HELPS,
    decisive=_HELPS,
)
def attacked_alone(case: Case) -> Measured:
    """Samples that PGD in batches of one fools and PGD on the whole batch does not, and the reverse, radii to eps."""
    if case.random_outputs or not bool(_company(case)[0].any()):
        return Measured("A sample's output does not depend on the batch, so there is nothing to compare.")
    n, rows = min(len(case.x), _ALONE), {}
    x, y = case.x[:n], case.y[:n]
    alone = correct(case.logits(x, rows=1), y)
    for scale in (0.25, 0.5, 1.0):
        attack = climb(case.threat.with_eps(scale * case.threat.eps), _STEPS)
        together = case.attack(attack, "together", scale)
        points = case.craft(attack, x, y, "together", scale, rows=1)  # from the same starts
        fooled = ~correct(case.logits(points, rows=1), y)
        carried = ~correct(case.logits(together.points[:n], rows=1), y)
        rows[f"{scale:g} eps, alone"] = share((fooled & ~together.fooled[:n])[alone])
        rows[f"{scale:g} eps, in company"] = share((carried & ~fooled)[alone])
    worst = max(rows.values(), key=lambda e: e.low)
    return Measured(
        f"One way of attacking, alone or in company, fools up to {worst.percent()} more of the samples than the other.",
        graded(worst, _HELPS, _HELPS),
        worst,
        plots.bars("samples that fall only when attacked", rows),
    )


def _company(case: Case) -> tuple[Tensor, Tensor]:
    """Whether other company changes the outputs and the classes of the first samples, two masks `[n]`."""
    x, size = case.all_x[:64], case.batch_size // 2  # noise stands beside as many
    z, alone, parts = case.logits(x, rows=size), case.logits(x[:16], rows=1), torch.split(x, size)
    noise = torch.split(case.noise(x, "mates"), size)
    backwards = torch.cat([case.logits(part.flip(0)).flip(0) for part in parts])
    beside = torch.cat(
        [case.logits(torch.cat([part, mates]))[: len(part)] for part, mates in zip(parts, noise, strict=True)]
    )
    limit = 1e-3 * spread(case.all_logits)
    changed = ((backwards - z).abs().amax(1) > limit) | ((beside - z).abs().amax(1) > limit)
    classes = (backwards.argmax(1) != z.argmax(1)) | (beside.argmax(1) != z.argmax(1))
    changed[: len(alone)] |= (alone - z[: len(alone)]).abs().amax(1) > limit
    classes[: len(alone)] |= alone.argmax(1) != z[: len(alone)].argmax(1)
    return changed, classes


def _has_two_modes(module: nn.Module) -> bool:
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or isinstance(module, (nn.modules.batchnorm._NormBase, nn.AlphaDropout))
