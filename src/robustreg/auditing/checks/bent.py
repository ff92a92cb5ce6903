"""Outputs on which the cross-entropy fails whatever their scale, and the margin does not."""

from __future__ import annotations

from robustreg.auditing import plots
from robustreg.auditing.case import Case
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.statistics import share

_BENT, _BENT_MASKED = 0.10, 0.30


@check(
    "bent_outputs",
    "The margin against cross-entropy at any scale",
    fine="Where the usual loss misses samples, a better scale of the outputs finds them.",
    bad="The usual loss misses samples that an attack on the margin fools, and making the outputs larger or smaller "
    "does not help. Scale is what honest networks differ in; here the outputs are bent, by a cap or a root, say, so "
    "that no answer changes and the loss leads nowhere.",
    advice="Look at the end of the model for a function of the outputs (tanh, clamp, power, floor) and attack what "
    "goes into it. Evaluate with losses that only compare outputs (margin, DLR), as the standard ensemble does.",
    source="Carlini and Wagner 2017; ours: an honest network of small outputs is repaired by their scale; thresholds "
    "as of more_effort, against sound models in results/audit_confusion",
    weight=79,
    threshold=_BENT,
    decisive=_BENT_MASKED,
)
def bent_outputs(case: Case) -> Measured:
    """Samples that PGD fools on the margin, and on cross-entropy neither as it is nor at a spread of 10."""
    if case.random_outputs:
        return Measured(
            "The model is random, so comparing single attacks says nothing; see the averaging attack."
        )
    plain, margin = case.attacked("pgd").fooled, case.attacked("margin").fooled
    scaled = case.attacked("scaled").fooled
    found = share(margin & ~plain & ~scaled)
    rows = {
        "cross-entropy": share(plain),
        "at another scale too": share(plain | scaled),
        "the margin too": share(plain | scaled | margin),
    }
    return Measured(
        f"The margin fools {found.percent()} of the samples beyond cross-entropy at two scales.",
        graded(found, _BENT, _BENT_MASKED),
        found,
        plots.bars("samples fooled", rows),
    )
