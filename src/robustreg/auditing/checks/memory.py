"""Whether an answer depends on what was asked before."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch
from torch import Tensor, nn

from robustreg.auditing import plots
from robustreg.auditing.case import Case, spread
from robustreg.auditing.checking import Measured, check
from robustreg.auditing.statistics import share
from robustreg.evaluation.predict import correct

_SHARE, _HELPS = 0.02, 0.05


def forgetful(model: nn.Module) -> nn.Module | None:
    """A copy of the model as it is now, which shares its parameters; None where it cannot be copied."""
    with suppress(Exception):  # a stranger's module may refuse
        return copy.deepcopy(model, {id(p): p for p in model.parameters()})
    return None


@check(
    "earlier_calls",
    "What was asked before",
    fine="An answer does not depend on what the model was asked before.",
    bad="The model remembers: asked the same, a copy that was asked nothing before answers otherwise. An attack asks "
    "many times and is shown the memory. An attacker who sends only the last input, prepared on a copy, meets the "
    "model as it is.",
    advice="Switch the memory off before you attack the model, or send each input to a fresh copy of it, and report "
    "the accuracy on that.",
    source="Chen, Carlini and Wagner 2020, stateful defences; ours: answers must be the same beyond rounding, and "
    "an attack's points must not fool the copy alone; thresholds as of the batch's",
    weight=84,
    threshold=_SHARE,
    decisive=_HELPS,
)
def earlier_calls(case: Case) -> Measured:
    """Answers of the model after all its calls, and of copies from before them, near samples and where PGD ends."""
    if case.random_outputs:
        return Measured("The model is random, so answers differ anyway.")
    if case.before_calls is None:
        return Measured("The model cannot be copied, so it was not looked at.")
    places = {"noise": case.noise(case.x, "earlier"), "after PGD": case.attacked("pgd").points}
    rows = {name: _compared(case, case.before_calls, points) for name, points in places.items()}
    changed = share(torch.stack([change for change, _ in rows.values()]).any(0))
    escaped = share(torch.stack([escape for _, escape in rows.values()]).any(0))
    bars = {f"{name}, another answer": share(change) for name, (change, _) in rows.items()}
    masked = escaped.low > _HELPS
    return Measured(
        f"{changed.percent()} of the outputs depend on earlier calls; {escaped.percent()} of the samples are right "
        "only because of them.",
        "masked" if masked else "suspicious" if changed.low > _SHARE else "none",
        escaped if masked else changed,
        plots.bars("samples whose answer depends on earlier calls", bars),
    )


def _compared(case: Case, before: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """Whether outputs at the points `[n, ...]` differ, and whether the copy alone is fooled, two masks `[n]`."""
    fresh = forgetful(before)
    if fresh is None:
        raise RuntimeError("the model could be copied once and not again")
    now = case.logits(points)
    first = case.logits(points, fresh.to(points.device).eval())
    changed = ((now - first).abs().amax(1) > 1e-3 * spread(case.all_logits)) & now.isfinite().all(1)
    return changed, correct(now, case.y) & ~correct(first, case.y) & changed
