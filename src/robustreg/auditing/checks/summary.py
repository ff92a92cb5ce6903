"""What the other checks add up to: every attack of the audit in one table, and whether there was enough to go by."""

from __future__ import annotations

import torch

from robustreg.auditing import plots
from robustreg.auditing.case import WIDE, Case, spread
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.finding import Concern
from robustreg.auditing.statistics import Estimate, share

_GAP, _GAP_WIDE, _ENOUGH, _FAILED = 0.15, 0.3, 20, 0.25
_DRAWN = 20  # classes, at most


@check(
    "worst_case",
    "All attacks together",
    fine="All attacks of this audit together find little more than the usual one, PGD, finds alone.",
    bad="All attacks of this audit together fool many more samples than the usual one, PGD. What PGD says of this "
    "model is far too good.",
    advice="Report the worst case over several kinds of attack, one of them without gradients: `robustreg evaluate` "
    "with the standard ensemble.",
    source="Carlini et al. 2019, section 4: report the worst case per sample; thresholds as of loss_scale, one degree "
    "milder (a notice from 15 %), because a better loss or step beats PGD on sound models, too, and each attack has "
    "its own check; where the logits are small the threshold is for what PGD on rescaled ones does not find either",
    weight=81,
    threshold=_GAP_WIDE,
)
def worst_case(case: Case) -> Measured:
    """Samples that PGD leaves standing and any attack that was made for another check fools."""
    names = {
        "FGSM": "fgsm",
        "PGD": "pgd",
        "PGD on the margin": "margin",
        "PGD, more effort": "more",
        "APGD on the margin": "adaptive",
    }
    fooled = {name: case.attacked(key).fooled for name, key in names.items()} | case.fooling
    pgd, worst = fooled["PGD"], case.white_box.clone()
    rows = {name: share(~mask) for name, mask in sorted(fooled.items(), key=lambda row: int(row[1].sum()))}
    for mask in fooled.values():
        worst |= mask
    found = share(worst & ~pgd)
    said = (
        f"Of the samples classified right {share(~pgd).percent()} withstand PGD, {share(~worst).percent()} all "
        f"{len(fooled)} attacks; {found.percent()} are lost between the two."
    )
    aimed = pgd
    # Small logits are no fault: what PGD finds at another scale of them is loss_scale's to tell of.
    if spread(case.all_logits) <= WIDE:
        aimed = pgd | case.attacked("scaled").fooled
    concern: Concern = "none" if case.random_outputs else graded(share(worst & ~aimed), _GAP_WIDE)
    if concern == "none" and found.low > _GAP and not case.random_outputs:
        concern = "notice"
    return Measured(
        said,
        concern,
        found,
        plots.bars("samples that withstand each attack", rows | {"all together": share(~worst)}),
    )


@check(
    "learnt",
    "A model that tells classes apart",
    fine="The model gives different inputs different classes.",
    bad="The model gives every input the same class. No attack can fool it on the samples of that class, so its "
    "accuracy under attack equals its clean accuracy; that is no robustness.",
    advice="Train the model until its clean accuracy is above chance: a smaller eps, a smaller learning rate, or eps "
    "that grows over the epochs.",
    source="ours: one class for samples of several classes and for noise",
    weight=45,
    threshold=2.0,
    below=True,
    percent=False,
)
def learnt(case: Case) -> Measured:
    """Whether there is more than one class among the answers."""
    share_right = f"{share(case.right).percent()} of the samples are classified right"
    answers, classes = case.all_logits.argmax(1), case.all_logits.shape[1]
    shares = {f"class {k}": share(answers == k) for k in range(classes)} if classes <= _DRAWN else {}
    count = 1.0 if case.one_class else float(len(torch.unique(answers)))
    said = "One class for everything" if case.one_class else f"{count:.0f} classes among the answers"
    return Measured(
        f"{said}; {share_right}.",
        "suspicious" if case.one_class else "none",
        Estimate(count, count, count),
        plots.bars("share of the answers", shares | {"right": share(case.right)}),
    )


@check(
    "evidence",
    "Enough to go by",
    fine="There were enough samples, and the checks could be carried out.",
    bad="There is too little to go by: with so few samples, or so many checks that failed, masking could have gone "
    "unseen.",
    advice="Give the audit more samples that the model classifies right, and look at the checks that could not be "
    "carried out.",
    source=f"ours: below {_ENOUGH} samples an effect of a fifth of them stays within the intervals",
    weight=40,
    threshold=float(_ENOUGH),
    below=True,
    percent=False,
)
def evidence(case: Case) -> Measured:
    """The samples that attacks start from, and the checks that failed."""
    few, failed = len(case.x) < _ENOUGH, len(case.failed) > _FAILED * max(case.checked, 1)
    said = f"{len(case.x)} of {len(case.all_x)} samples classified right; "
    said += f"{len(case.failed)} of {case.checked} checks failed"
    said += f" ({', '.join(case.failed)})." if case.failed else "."
    n = float(len(case.x))
    counts = {"right": n, "wrong": len(case.all_x) - n, "checks that failed": float(len(case.failed))}
    plot = plots.bars("samples and checks", {k: Estimate(v, v, v) for k, v in counts.items()}, percent=False)
    return Measured(said, "suspicious" if few or failed else "none", Estimate(n, n, n), plot)
