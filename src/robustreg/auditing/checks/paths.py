"""Whether the gradients along a way add up to the change of the output from its one end to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.auditing import plots
from robustreg.auditing.case import Case
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.slopes import rounding_of
from robustreg.auditing.statistics import Estimate, share

_LEFT_OUT, _LEFT_OUT_MASKED = 0.10, 0.50
_PIECES, _OFF, _JUMP, _SAMPLES = 32, 0.25, 0.5, 64


@check(
    "path_of_gradients",
    "Gradients added up along a path",
    fine="On the way to an attacked input the gradients add up to what the output really does.",
    bad="Walking from a sample to the edge of the ball, the output changes in ways that the gradients on the way say "
    "nothing of: it jumps, or is steep only in places too narrow to be met. An attack that follows gradients walks "
    "past the wrong answers without noticing.",
    advice="Look in the model for jumps and steps: votes, rounding, top-k, hard choices between branches, very steep "
    "layers, detached parts. Attack what lies behind them, or replace them by something smooth on the way back "
    "(BPDA). Until then measure with an attack that needs no gradients (Square).",
    source="the fundamental theorem of calculus, by the midpoint rule with "
    f"{_PIECES} pieces; a sample counts if more than a quarter of all ups and downs of the margin is left "
    "unexplained on one of two ways, or if on one piece it jumps by more than half of its range on that way without "
    "the gradient saying so; Athalye et al. 2018, shattered gradients; thresholds ours, against sound models "
    "in results/audit_confusion",
    weight=89,
    threshold=_LEFT_OUT,
    decisive=_LEFT_OUT_MASKED,
)
def path_of_gradients(case: Case) -> Measured:
    """The margin's change against the sum of gradient times step, to where an attack ends and to a random corner."""
    if case.random_outputs:
        return Measured("The model is random, so changes say nothing.")
    n = min(_SAMPLES, len(case.x))
    x = case.x[:n]
    signs = torch.randn(x.shape, generator=case.generator("path")).to(x)
    corner = case.threat.project(x + case.threat.steepest(signs), x)
    ends = {"the attack's end": case.attacked("margin").points[:n], "a random corner": corner}
    left_out, off = {}, torch.zeros(n, dtype=torch.bool, device=x.device)
    for name, end in ends.items():
        missed = _unexplained(case, x, end)
        if missed is None:
            return Measured("There is no gradient to add up.", "masked", Estimate(1.0, 1.0, 1.0))
        left_out[name], jump = missed
        off |= (left_out[name] > _OFF) | (jump > _JUMP)
    found = share(off)
    return Measured(
        f"For {found.percent()} of {n} samples more than a quarter of the margin's change on the way to the "
        "attack's end, or to a random corner of the ball, is in no gradient, or half of its range is in one jump.",
        graded(found, _LEFT_OUT, _LEFT_OUT_MASKED),
        found,
        plots.histogram("share of the change that no gradient explains", left_out),
    )


def _unexplained(case: Case, x: Tensor, end: Tensor) -> tuple[Tensor, Tensor] | None:
    """What the gradients miss from x to end `[n, ...]`; None where there are none.

    The share of the margin's ups and downs that is missing at the end, and the largest jump on one piece that its
    gradient says nothing of, as a share of the margin's range; both `[n]`. Jumps up and down cancel in the first.
    """
    y, step = case.y[: len(x)], (end - x) / _PIECES
    promised, heights = [], [case.losses(x, y, "margin")]
    for i in range(_PIECES):
        g = case.gradient(x + (i + 0.5) * step, y, "margin")
        if g is None:
            return None
        promised.append((numerics.flatten(g).double() * numerics.flatten(step).double()).sum(1))
        heights.append(case.losses(x + (i + 1) * step, y, "margin"))
    margins, said = torch.stack(heights).double(), torch.stack(promised)
    travelled = margins.diff(dim=0).abs().sum(0)
    missed = (margins[-1] - margins[0] - said.sum(0)).abs()
    jump = (margins.diff(dim=0) - said).abs().amax(0)
    rounding = rounding_of(case, case.logits(x))
    # Where the gradients promise more than ever happens, that promise is the scale.
    size = torch.maximum(travelled, said.sum(0).abs())
    reach = torch.maximum(margins.amax(0) - margins.amin(0), said.abs().amax(0))
    still = torch.maximum(travelled, missed) <= rounding
    left_out = torch.where(still, 0.0, missed / size.clamp(min=1e-300))
    jumped = torch.where(jump <= rounding, 0.0, jump / reach.clamp(min=1e-300))
    return torch.nan_to_num(left_out, 1.0, 1.0, 1.0), torch.nan_to_num(jumped, 1.0, 1.0, 1.0)
