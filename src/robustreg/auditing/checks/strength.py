"""What stronger gradient attacks find: more steps, more restarts, another loss, a larger radius."""

from __future__ import annotations

import itertools
import math

import torch

from robustreg.auditing import plots
from robustreg.auditing.case import WIDE, Case, Outcome, climb, spread
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.finding import Concern
from robustreg.auditing.slopes import width
from robustreg.auditing.statistics import Estimate, share
from robustreg.evaluation.predict import correct
from robustreg.points import CLEAN, Steepest

_GAP, _GAP_MASKED, _WITHSTANDS = 0.3, 0.5, 2 / 3
_MORE, _MORE_MASKED, _LOSS, _LOSS_MASKED = 0.10, 0.3, 0.15, 0.3
_RANDOM = "The model is random, so comparing single attacks says nothing; see the averaging attack."
_FULL, _FULL_MASKED, _RISE, _FALL = 0.05, 0.2, 0.10, 0.25
_MILDER: dict[Concern, Concern] = {"none": "none", "suspicious": "notice", "masked": "suspicious"}


@check(
    "single_step",
    "One step against many",
    fine="Many small steps do not find much more than one large one would lead to expect.",
    bad="The model withstands one large gradient step and falls to many small ones. It has learnt to hide from the "
    "single step (catastrophic overfitting), not to be robust.",
    advice="Judge the model by multi-step attacks only. In training, use several steps, a noisier start or a penalty "
    "such as GradAlign, or watch for the collapse with CatastrophicOverfittingGuard.",
    source="Wong et al. 2020 and Andriushchenko and Flammarion 2020, catastrophic overfitting; thresholds ours, "
    "against sound models in results/audit_confusion; suspicious only if two thirds of the samples withstand "
    "the single step",
    weight=82,
    threshold=_GAP,
    decisive=_GAP_MASKED,
)
def single_step(case: Case) -> Measured:
    """Samples that withstand FGSM and fall to PGD, as a share of those classified right."""
    if case.threat.norm == 1:
        return Measured(
            "In l1 a single step moves a single value, so falling short of many steps says nothing."
        )
    fgsm, pgd = case.attacked("fgsm"), case.attacked("pgd")
    worst = share(~(fgsm.fooled | case.white_box))
    found = share(pgd.fooled & ~fgsm.fooled)
    said = (
        f"Of the samples classified right, {share(~fgsm.fooled).percent()} withstand FGSM, "
        f"{share(~pgd.fooled).percent()} PGD with {case.budget.steps} steps, {worst.percent()} the worst case; "
        f"{found.percent()} fall only to PGD."
    )
    plot = plots.bars(
        "samples that withstand",
        {"one step": share(~fgsm.fooled), f"{case.budget.steps} steps": share(~pgd.fooled), "worst": worst},
    )
    concern = graded(found, _GAP, _GAP_MASKED)
    if concern == "suspicious" and share(~fgsm.fooled).low <= _WITHSTANDS:
        concern = "notice"  # it does not withstand the single step: one step is just weaker than many
    return Measured(said, concern, found, plot)


@check(
    "label_leaking",
    "Accuracy under FGSM above clean accuracy",
    fine="An attack does not make the model better.",
    bad="The model is more often right under attack than without it: it reads the label from the attack's pattern. "
    "What it learnt is to recognise this attack.",
    advice="Judge the model by other attacks than the one it was trained on, and train with attacks that do not "
    "reveal the label (a random start, or the predicted label).",
    source="Kurakin et al. 2017, label leaking; McNemar's count of samples that change, by its Wilson interval",
    weight=72,
    threshold=0.5,
)
def label_leaking(case: Case) -> Measured:
    """Samples that FGSM turns from wrong to right, among all that it changes; at eps and at half of it."""
    if case.random_outputs:
        return Measured(_RANDOM)
    turned: list[Estimate] = []
    accuracies = {"clean": share(case.right)}
    for scale in (1.0, 0.5):
        attack = Steepest(case.threat, CLEAN, scale, clip="threat")
        points = case.craft(attack, case.all_x, case.all_y, "leaking", scale)
        right = correct(case.logits(points), case.all_y)
        accuracies[f"FGSM at {scale:g} eps"] = share(right)
        turned.append(share(right[right != case.right]))
    worst = max(turned, key=lambda e: e.low)
    return Measured(
        f"Accuracy {', '.join(f'{100 * e.value:.1f} % {name}' for name, e in accuracies.items())}; "
        f"of the predictions that changed {worst.percent()} became right.",
        graded(worst, 0.5),
        worst,
        plots.bars("accuracy", accuracies),
    )


@check(
    "more_effort",
    "More steps and restarts",
    fine="The attack has converged: more steps, restarts or steps of chosen length find hardly anything more.",
    bad="More steps and restarts, or steps of chosen length, keep finding more. The attack had not converged, so the "
    "number measured with it is too high, and a stronger attack will lower it again.",
    advice="Raise steps and restarts until the number stays, and use an attack with adaptive steps (APGD).",
    source="Carlini et al. 2019, section 4.5: attacks must converge; threshold ours, against sound models in "
    "results/audit_confusion",
    weight=68,
    threshold=_MORE,
    decisive=_MORE_MASKED,
)
def more_effort(case: Case) -> Measured:
    """Samples that only the longer attack fools, or on the margin only the one that chooses its steps (APGD)."""
    if case.random_outputs:
        return Measured(_RANDOM)
    pgd, more = case.attacked("pgd").fooled, case.attacked("more").fooled
    margin, chosen = case.attacked("margin").fooled, case.attacked("adaptive").fooled
    longer, adapted = share(more & ~pgd), share(chosen & ~margin)
    found = max(longer, adapted, key=lambda e: e.low)
    return Measured(
        f"{case.budget.more_steps} steps and {case.budget.restarts} restarts fool {longer.percent()} more than "
        f"{case.budget.steps} steps from one start; on the margin APGD fools {adapted.percent()} more than PGD.",
        graded(found, _MORE, _MORE_MASKED),
        found,
        plots.bars(
            "samples fooled",
            {
                "usual effort": share(pgd),
                "more effort": share(pgd | more),
                "PGD on the margin": share(margin),
                "APGD too": share(margin | chosen),
            },
        ),
    )


@check(
    "loss_scale",
    "Another loss, rescaled logits",
    fine="Attacks find the same whatever the scale of the logits.",
    bad="An attack succeeds as soon as it looks at the margin or at rescaled logits. Very large outputs leave the "
    "usual loss flat in the computer's arithmetic; very small ones let it push away from the right class "
    "without aiming at another. Either way the weakness is there, and the usual attack misses it.",
    advice="Evaluate with losses that do not depend on the scale (margin, DLR), as the standard ensemble does.",
    source="Carlini and Wagner 2017 on defensive distillation; Croce and Hein 2020, DLR loss; thresholds ours, "
    "against sound models in results/audit_confusion; up to a spread of the logits of 10 it is one degree milder, "
    "because there losses differ and no arithmetic fails",
    weight=86,
    threshold=_LOSS,
    decisive=_LOSS_MASKED,
)
def loss_scale(case: Case) -> Measured:
    """Samples that PGD fools on the margin or on logits scaled to a spread of 10, and not on the logits as they are."""
    if case.random_outputs:
        return Measured(_RANDOM)
    size = spread(case.all_logits)
    scaled = case.attacked("scaled")
    fooled = scaled.fooled | case.attacked("margin").fooled
    case.fooling["PGD on rescaled logits"] = scaled.fooled
    plain = case.attacked("pgd").fooled
    found = share(fooled & ~plain)
    concern = graded(found, _LOSS, _LOSS_MASKED)
    if size <= WIDE:  # nothing saturates there: cross-entropy and margin are just two losses
        concern = _MILDER[concern]
    return Measured(
        f"Margin or rescaled logits fool {found.percent()} more than the cross-entropy of the logits as they are, "
        f"whose spread over the classes is {'small' if size <= WIDE else 'large'} ({size:.3g}).",
        concern,
        found,
        plots.bars("samples fooled", {"usual loss": share(plain), "other losses too": share(plain | fooled)}),
    )


@check(
    "large_radius",
    "An attack without limits",
    fine="With enough room the attack fools every sample, as it must.",
    bad="Even an attack that may change the input completely leaves samples standing. Since every image can be "
    "turned into one of another class, it is the attack that fails, not the model that is robust.",
    advice="Find out why the attack stands still: see the findings on gradients, outputs and random numbers.",
    source="Athalye et al. 2018: unbounded attacks must reach 100 % success; Carlini et al. 2019; thresholds by the "
    "interval's lower end",
    weight=84,
    threshold=_FULL,
    decisive=_FULL_MASKED,
)
def large_radius(case: Case) -> Measured:
    """Samples that stand at the radius of the whole box."""
    radii, outcomes = _curve(case)
    found = share(~outcomes[-1].fooled)
    return Measured(
        f"At eps {radii[-1]:.3g} {found.percent()} still stand.",
        graded(found, _FULL, _FULL_MASKED),
        found,
        _accuracies(case),
    )


@check(
    "monotone_radius",
    "Accuracy falls as the radius grows",
    fine="The more an attack may change, the more it fools.",
    bad="A larger radius fools fewer samples, although everything that a smaller one allows is allowed. The attack "
    "is lost on a rugged loss.",
    advice="Do not trust single numbers of this attack; add attacks that need no gradients.",
    source="Carlini et al. 2019, section 4.4: accuracy against eps must be monotone; threshold ours, against sound "
    "models in results/audit_confusion",
    weight=66,
    threshold=_RISE,
)
def monotone_radius(case: Case) -> Measured:
    """The largest share of samples that fall at one radius and stand at the next."""
    if case.random_outputs:
        return Measured(_RANDOM)
    radii, outcomes = _curve(case)
    rises = [share(before.fooled & ~after.fooled) for before, after in itertools.pairwise(outcomes)]
    worst = max(range(len(rises)), key=lambda i: rises[i].value)
    found = rises[worst]
    return Measured(
        f"At most {found.percent()} of the samples that fall at one radius stand at the next "
        f"({radii[worst]:.3g} and {radii[worst + 1]:.3g}).",
        graded(found, _RISE),
        found,
        _accuracies(case),
    )


@check(
    "monotone_loss",
    "Loss grows with the radius",
    fine="The more an attack may change, the higher it drives the loss.",
    bad="With more room the attack ends at a lower loss than with less. It loses its way on a rugged loss, so the "
    "points it finds are not the worst ones.",
    advice="Use an attack with adaptive steps and restarts (APGD), and one that needs no gradients (Square).",
    source="Carlini et al. 2019, section 4.4, for the loss; threshold ours, against sound models in "
    "results/audit_confusion",
    weight=64,
    threshold=_FALL,
)
def monotone_loss(case: Case) -> Measured:
    """The largest share of samples whose loss under ten steps of PGD falls by a tenth from one radius to the next."""
    if case.random_outputs:
        return Measured(_RANDOM)
    radii = [r for r in _radii(case) if r <= 2 * case.threat.eps]
    attacks = [climb(case.threat.with_eps(r), 10, early_exit=False) for r in radii]
    losses = [case.attack(attack, "loss", r).losses for attack, r in zip(attacks, radii, strict=True)]
    falls = [share(after < 0.9 * before - 1e-3) for before, after in itertools.pairwise(losses)]
    worst = max(range(len(falls)), key=lambda i: falls[i].value)
    means = [float(torch.nan_to_num(loss.double(), 0, 1e6, 0).mean()) for loss in losses]
    return Measured(
        f"For at most {falls[worst].percent()} of the samples the loss falls from one radius to the next "
        f"({radii[worst]:.3g} and {radii[worst + 1]:.3g}).",
        graded(falls[worst], _FALL),
        falls[worst],
        plots.lines(f"eps ({case.threat.name})", radii, {"mean loss": means}, log=True),
    )


def _curve(case: Case) -> tuple[list[float], list[Outcome]]:
    """Radii up to the whole box, and the outcome of PGD at each; made once."""
    if case.curve is None:
        radii = _radii(case)
        outcomes = [
            case.attack(climb(case.threat.with_eps(r), min(case.budget.steps, 30)), "curve", r) for r in radii
        ]
        case.curve = radii, outcomes
    return case.curve


def _radii(case: Case) -> list[float]:
    """Radii from a quarter of the threat's to the whole box."""
    full = full_radius(case)
    radii = {case.threat.eps * f for f in (0.25, 0.5, 1.0, 2.0, 4.0)} | {full}
    return sorted(r for r in radii if 0 < r <= full)


def _accuracies(case: Case) -> plots.Plot:
    """Accuracy under PGD over the radii."""
    radii, outcomes = _curve(case)
    standing = [float((~outcome.fooled).double().mean()) for outcome in outcomes]
    return plots.lines(
        f"eps ({case.threat.name})", radii, {"accuracy under attack": standing}, log=True, percent=True
    )


def full_radius(case: Case) -> float:
    """The radius that holds the whole box, from anywhere in it."""
    features = math.prod(case.x.shape[1:])
    box = width(case.threat, case.all_x)
    whole = box if case.threat.norm == math.inf else box * features ** (1.0 / case.threat.norm)
    return max(whole, case.threat.eps)
