"""What the model gives out: finite numbers, logits rather than probabilities, not clipped, not a few levels."""

from __future__ import annotations

import torch

from robustreg.auditing.case import Case
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.statistics import Estimate, share

_PROBABILITIES, _CLIPPED, _LEVELS = 0.5, 0.05, 0.1


@check(
    "finite_outputs",
    "Finite outputs",
    fine="Every output is a number, so attacks can compare losses.",
    bad="For some inputs the model gives NaN or infinity. An attack cannot climb such a loss and gives up, which "
    "looks like robustness.",
    advice="Find the layer that overflows (divisions, exponentials, half precision) and repair it, then measure again.",
    source="Carlini et al. 2019, On evaluating adversarial robustness, section 4; ours: none is tolerated beyond its "
    "interval",
    weight=60,
    threshold=0.0,
)
def finite_outputs(case: Case) -> Measured:
    """NaN and infinities at the samples, at noise around them and where an attack ends."""
    bad = ~case.all_logits.isfinite().all(1)
    if len(case.x):
        for points in (case.noise(case.x, "finite"), case.attacked("pgd").points):
            bad = torch.cat([bad, ~case.logits(points).isfinite().all(1)])
    found = share(bad)
    concern = graded(found, 0.0, 0.5)
    return Measured(f"{found.percent()} of the outputs hold NaN or infinity.", concern, found)


@check(
    "logits",
    "Logits, not probabilities",
    fine="The model gives logits, which attacks need.",
    bad="The outputs are probabilities. Attacks take them for logits and apply a softmax again, which flattens the "
    "loss and makes attacks weak.",
    advice="Audit and evaluate the model without its last softmax or sigmoid.",
    source="Croce et al. 2020, RobustBench and AutoAttack's checks: a softmax in the model",
    weight=55,
    threshold=_PROBABILITIES,
)
def logits(case: Case) -> Measured:
    """Rows that are not negative and sum to one."""
    z = case.all_logits
    found = share((z >= 0).all(1) & ((z.double().sum(1) - 1).abs() < 1e-3))
    concern = graded(found, _PROBABILITIES)
    return Measured(f"{found.percent()} of the outputs are probabilities that sum to 1.", concern, found)


@check(
    "clipped_outputs",
    "Clipped outputs",
    fine="Outputs do not pile up at one value.",
    bad="Many outputs sit at exactly the same largest or smallest value: they are clipped, and at the limit the loss "
    "no longer tells an attack where to go.",
    advice="Evaluate the model without the clipping, or with an attack on what goes into it.",
    source="Athalye et al. 2018, shattered and vanishing gradients; threshold ours, against sound models in "
    "results/audit_confusion",
    weight=58,
    threshold=_CLIPPED,
)
def clipped_outputs(case: Case) -> Measured:
    """Outputs that equal the largest or the smallest of all, beyond those that must."""
    z = torch.cat([case.all_logits, case.logits(case.noise(case.all_x, "clipped"))])
    at_limit = (z == z.max()) | (z == z.min())
    rows = at_limit.any(1)
    found = share(rows)
    alone = int(rows.sum()) <= 4  # the extremes themselves, in the samples and in the noise
    concern = "none" if alone else graded(found, _CLIPPED, 0.9)
    if concern == "masked":
        concern = "suspicious"  # attacks may still succeed; what they miss is measured elsewhere
    return Measured(f"{found.percent()} of the outputs touch a common limit.", concern, found)


@check(
    "output_levels",
    "Few output levels",
    fine="Outputs vary continuously.",
    bad="The model gives only a few different output values, such as a hard decision. Small changes of the input "
    "change nothing, so a gradient attack sees a flat loss.",
    advice="Evaluate the scores before rounding or before the decision; add attacks that need no gradients.",
    source="Athalye et al. 2018, shattered gradients; threshold ours, against sound models in "
    "results/audit_confusion",
    weight=57,
    threshold=_LEVELS,
)
def output_levels(case: Case) -> Measured:
    """Different values among all outputs, as a share of how many there are."""
    z = torch.cat([case.all_logits, case.logits(case.noise(case.all_x, "levels"))])
    different = len(torch.unique(z)) / z.numel()
    found = Estimate(different, different, different)
    few = z.numel() >= 50 and different < _LEVELS
    return Measured(
        f"{len(torch.unique(z))} different values among {z.numel()} outputs.",
        "suspicious" if few else "none",
        found,
    )
