"""What the model gives out: finite numbers, logits rather than probabilities, not clipped, not a few levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustreg.auditing import plots
from robustreg.auditing.case import Case, climb
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.statistics import Estimate, share

_MANY, _PROBABILITIES, _CLIPPED, _LEVELS, _REPAIRED = 0.5, 0.5, 0.05, 0.1, 0.05


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
    decisive=_MANY,
)
def finite_outputs(case: Case) -> Measured:
    """NaN and infinities at the samples, at noise around them and where an attack ends."""
    places = {"samples": case.all_logits}
    if len(case.x):
        places["noise"] = case.logits(case.noise(case.x, "finite"))
        places["after PGD"] = case.logits(case.attacked("pgd").points)
    bad = {name: ~z.isfinite().all(1) for name, z in places.items()}
    found = share(torch.cat(list(bad.values())))
    return Measured(
        f"{found.percent()} of the outputs hold NaN or infinity.",
        graded(found, 0.0, _MANY),
        found,
        plots.bars("outputs that are no numbers", {name: share(rows) for name, rows in bad.items()}),
    )


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
    found = share(_probabilities(case.all_logits))
    return Measured(
        f"{found.percent()} of the outputs are probabilities that sum to 1.",
        graded(found, _PROBABILITIES),
        found,
        plots.histogram("sum of a sample's outputs", {"samples": case.all_logits.double().sum(1)}),
    )


@check(
    "repaired_outputs",
    "An attack on the logarithm of probabilities",
    fine="Undoing a softmax does not help an attack.",
    bad="The model gives probabilities, and an attack on their logarithm succeeds where the usual one fails: the "
    "softmax hid the weakness and removed nothing.",
    advice="Take the last softmax off before you evaluate the model; what was measured with it on is too high.",
    source="Carlini and Wagner 2017, attacks on logits; Croce et al. 2020; threshold ours",
    weight=87,
    threshold=_REPAIRED,
    decisive=_REPAIRED,
)
def repaired_outputs(case: Case) -> Measured:
    """Samples that PGD on log p fools and PGD on p does not, at the radius of a quarter, a half and all of eps."""
    if not _probabilities(case.all_logits).any():
        return Measured("The outputs are no probabilities.")
    repaired, rows = _Logarithm(case.model), {}
    for scale in (0.25, 0.5, 1.0):
        attack = climb(case.threat.with_eps(scale * case.threat.eps), case.budget.steps)
        plain, better = case.attack(attack, "plain", scale), case.attack(attack, "log", scale, model=repaired)
        rows[f"{scale:g} eps"] = share(better.fooled & ~plain.fooled)
    worst = max(rows.values(), key=lambda e: e.low)
    return Measured(
        f"The attack on the logarithm fools up to {worst.percent()} more of the samples.",
        graded(worst, _REPAIRED, _REPAIRED),
        worst,
        plots.bars("samples that only the attack on the logarithm fools", rows),
    )


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
    plot = plots.histogram("output values", {"outputs": z})
    return Measured(f"{found.percent()} of the outputs touch a common limit.", concern, found, plot)


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
    below=True,
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
        plots.histogram("output values", {"outputs": z}),
    )


def _probabilities(z: Tensor) -> Tensor:
    """Rows that are not negative and sum to one, `[B]`."""
    return (z >= 0).all(1) & ((z.double().sum(1) - 1).abs() < 1e-3)


class _Logarithm(nn.Module):
    """The logarithm of a model's probabilities, in float64, where a small one is not yet 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]``, up to a constant."""
        p: Tensor = self.model(x).double()
        return p.clamp(min=1e-300).log()
