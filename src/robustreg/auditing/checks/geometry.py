"""The shape of the loss around the samples: alignment, linearity, curvature, energy, single-step symptoms, a picture.

A rugged loss is common in models that are not robust and honest about it, so these say "notice" and never decide the
verdict alone, but for the one that is a contradiction: an attack's step after which the loss is lower than before.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.single_step import IFGSM
from robustreg.auditing import plots
from robustreg.auditing.case import Case
from robustreg.auditing.checking import Measured, check, graded
from robustreg.auditing.finding import Concern
from robustreg.auditing.statistics import mean, median, share
from robustreg.penalties.energy import Energies, energies
from robustreg.points import Uniform

_ALIGNED, _LINEAR, _ABNORMAL, _CURVED, _GRID = 0.2, 1.0, 0.2, 10.0, 21
_DRAWS = 4  # in the ball, for its energy
_NO_DECISION = "; informs only, because sound models that are not robust are rugged too"


@check(
    "alignment",
    "Gradient alignment",
    fine="The gradient points the same way nearby as at the sample.",
    bad="Within the radius the gradient turns so much that one step from the sample is nearly a step in the dark.",
    advice="Trust multi-step attacks with restarts only.",
    source=f"Andriushchenko and Flammarion 2020, GradAlign{_NO_DECISION}",
    weight=30,
    threshold=_ALIGNED,
    below=True,
    percent=False,
)
def alignment(case: Case) -> Measured:
    """cos(g(x), g(x + u)), u uniform in the ball, mean over the right samples."""
    return _aligned(case, case.noise(case.x, "alignment"))


@check(
    "perturbation_alignment",
    "Gradient alignment along the attack (PertAlign)",
    fine="The gradient keeps its direction along the attack's step.",
    bad="Where the single step ends the gradient points elsewhere: the loss curves within the step, which is how "
    "catastrophic overfitting begins.",
    advice="Watch this number in training; use more steps, or CatastrophicOverfittingGuard.",
    source=f"Teymourian et al., SORA, PertAlign; threshold ours{_NO_DECISION}",
    weight=31,
    threshold=_ALIGNED,
    below=True,
    percent=False,
)
def perturbation_alignment(case: Case) -> Measured:
    """cos(g(x), g(FGSM(x))), mean over the right samples."""
    return _aligned(case, case.attacked("fgsm").points)


@check(
    "linearity",
    "Local linearity (LLR)",
    fine="Within the radius the loss is nearly the plane that the gradient says.",
    bad="Within the radius the loss is far from the plane that the gradient describes.",
    advice="Trust multi-step attacks with restarts only.",
    source=f"Qin et al. 2019, LLR{_NO_DECISION}",
    weight=29,
    threshold=_LINEAR,
    percent=False,
)
def linearity(case: Case) -> Measured:
    """|L(x + d) - L(x) - d . g| at PGD's point and at noise, the larger, over eps ||g||_*, median over the samples."""
    start, g = case.losses(case.x, case.y), case.clean_gradient
    scale = (case.threat.eps * case.threat.dual_norm(g)).clamp(min=1e-12)
    gaps = []
    for points in (case.attacked("pgd").points, case.noise(case.x, "linearity")):
        moved = (numerics.flatten(g) * numerics.flatten(points - case.x)).sum(1)
        gaps.append((case.losses(points, case.y) - start - moved).abs())
    ratio = torch.stack(gaps).amax(0) / scale
    found = median(ratio, case.seed)
    return Measured(
        f"The median deviation is {found.number()} times what the gradient predicts.",
        _if(found.low > _LINEAR),
        found,
        plots.histogram("deviation over what the gradient predicts", {"samples": ratio}, log=True),
    )


@check(
    "single_step_symptoms",
    "Symptoms of single-step training",
    fine="A step up the gradient raises the loss, and one step ends about where many small ones do.",
    bad="A step of the attack ends where the loss is lower than halfway, or than at the start: the model has bent "
    "its loss to defeat exactly this step.",
    advice="Judge the model by multi-step attacks only; do not train on single steps without a safeguard.",
    source="Vivek and Babu 2020, R1, R2, R3; Lin et al. 2023, abnormal adversarial examples; threshold ours, against "
    "sound models in results/audit_confusion",
    weight=50,
    threshold=_ABNORMAL,
)
def single_step_symptoms(case: Case) -> Measured:
    """R1 and R2 as mean squared distances of logits; R3 and abnormal examples as shares of the right samples."""
    fgsm, half = case.attacked("fgsm"), case.attacked("half")
    many = case.attack(IFGSM(case.threat, steps=10), "ifgsm")
    z = case.logits(fgsm.points)
    r1 = mean((z - case.logits(many.points)).square().sum(1), case.seed)
    r2 = mean((z - case.logits(case.attacked("rs_fgsm").points)).square().sum(1), case.seed)
    start = case.losses(case.x, case.y)
    r3 = share(half.losses > fgsm.losses * 1.01 + 1e-6)
    abnormal = share(start > fgsm.losses * 1.01 + 1e-6)
    return Measured(
        f"R1 {r1.number()}; R2 {r2.number()}; for {r3.percent()} the loss is higher halfway (R3), for "
        f"{abnormal.percent()} at the start.",
        graded(abnormal, _ABNORMAL),
        abnormal,
        plots.bars(
            "samples whose loss is lower after the step than", {"halfway (R3)": r3, "at the start": abnormal}
        ),
    )


@check(
    "curvature",
    "Curvature",
    fine="The loss bends little within the radius.",
    bad="Along the gradient the slope changes by many times itself within the radius.",
    advice="Trust multi-step attacks with restarts only.",
    source=f"Moosavi-Dezfooli et al. 2019, CURE{_NO_DECISION}",
    weight=27,
    threshold=_CURVED,
    percent=False,
)
def curvature(case: Case) -> Measured:
    """||g(x + h d) - g(x)|| / ||g(x)|| over h, h in radii, along the gradient and along random directions."""
    h = 0.1
    g = case.clean_gradient
    near = case.x + h * case.threat.steepest(g)
    random = case.noise(case.x, "curvature", scale=h)
    scale = numerics.norm(g, 2).clamp(min=1e-12)
    along, across = (
        mean(numerics.norm(_gradient(case, points) - g, 2) / scale / h, case.seed)
        for points in (near, random)
    )
    return Measured(
        f"Within one radius the gradient changes by {along.number()} times itself along the gradient, "
        f"{across.number()} along random directions.",
        _if(along.low > _CURVED),
        along,
        plots.bars(
            "relative change of the gradient within one radius",
            {"along the gradient": along, "random directions": across},
            percent=False,
        ),
    )


@check(
    "energy",
    "Energy of the loss in the ball",
    fine="How steep the loss is around the samples, for comparison between models.",
    bad="How steep the loss is around the samples, for comparison between models.",
    advice="",
    source="Zhang, Huang and Xu 2019 and 2022; no threshold",
    weight=10,
    percent=False,
)
def energy(case: Case) -> Measured:
    """The four energies, means over the right samples."""
    found = _energies(case)
    worst = mean(found.worst, case.seed)
    parts = ", ".join(f"{name} {value:.3g}" for name, value in found.means().items())
    rows = {name: mean(getattr(found, name), case.seed) for name in found.means()}
    return Measured(
        f"On the scale of the loss: {parts}.",
        "none",
        worst,
        plots.bars("energy, on the scale of the loss", rows, percent=False),
    )


@check(
    "surface",
    "The loss around one sample",
    fine="The loss over the plane of the gradient and a random direction; a smooth slope is what one hopes to see.",
    bad="",
    advice="",
    source="as drawn by Tramer et al. 2018 and many since; to be looked at",
    weight=5,
)
def surface(case: Case) -> Measured:
    """Loss at x + a d_g + b d_r for a, b from -1 to 1 radii, for the first right sample."""
    x, y = case.x[:1], case.y[:1]
    signs = torch.randn(x.shape, generator=case.generator("surface")).to(x)
    first, second = case.threat.steepest(case.clean_gradient[:1]), case.threat.steepest(signs)
    ticks = torch.linspace(-1, 1, _GRID).to(x)
    points = [x + a * first + b * second for a in ticks for b in ticks]
    losses = case.losses(torch.cat(points), y.expand(len(points)))
    values = torch.nan_to_num(losses.double(), 0.0, 1e6, 0.0).reshape(_GRID, _GRID)
    return Measured(
        f"The loss runs from {float(values.min()):.3g} to {float(values.max()):.3g}.",
        plot=plots.surface("random direction, in eps", "gradient, in eps", values),
    )


def _energies(case: Case) -> Energies:
    """The energies at the right samples, batch by batch, each sample with draws of its own."""
    in_ball = [Uniform(case.threat, number, clip="none") for number in range(_DRAWS)]
    draws = {point: case.threat.random(case.x, case.generator("energy", point.number)) for point in in_ball}
    parts = [
        energies(
            case.model,
            case.x[rows],
            case.y[rows],
            case.threat,
            samples=_DRAWS,
            iterations=1,
            generator=case.generator("energy"),
            noise={point: draw[rows] for point, draw in draws.items()},
        )
        for rows in torch.split(torch.arange(len(case.x)), case.batch_size)
    ]
    return Energies(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Energies)))


def _aligned(case: Case, elsewhere: Tensor) -> Measured:
    """The cosine between the gradients at the right samples and at other points `[n, ...]`."""
    cosines = _cosine(case.clean_gradient, _gradient(case, elsewhere))
    found = mean(cosines, case.seed)
    return Measured(
        f"The mean cosine is {found.number()}.",
        _if(found.high < _ALIGNED),
        found,
        plots.histogram("cosine between the two gradients", {"samples": cosines}),
    )


def _gradient(case: Case, x: Tensor) -> Tensor:
    g = case.gradient(x, case.y)
    return torch.zeros_like(x) if g is None else g


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Per sample `[B]`; NaN where either is 0, which is left out of means."""
    rows, others = numerics.flatten(a).double(), numerics.flatten(b).double()
    lengths = rows.norm(dim=1) * others.norm(dim=1)
    return (rows * others).sum(1) / torch.where(lengths > 0, lengths, torch.nan)


def _if(concerned: bool) -> Concern:
    return "notice" if concerned else "none"
