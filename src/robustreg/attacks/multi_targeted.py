"""Projected gradient ascent towards one other class after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from robustreg.attacks.pgd import PGD, Decay
from robustreg.attacks.search import Plain, Search, Searching
from robustreg.attacks.targets import (
    TargetedLoss,
    check_targets,
    clean_logits,
    others_by_rank,
    outspoken,
    towards,
)
from robustreg.modes import Mode
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class MultiTargeted(Searching):
    """MultiTargeted PGD (Gowal et al. 2019, "An alternative surrogate loss for PGD-based adversarial testing").

    PGD on ``z_t - z_y`` for every class ``t`` beside the label, from the most to the least likely at the clean sample.
    On a network that is linear in the ball this finds the worst case, which the margin to the nearest class at the
    start may miss. The steps are the steepest ones of ``PGD``; the authors take Adam.

    Called as an attack each climb is made by the samples that still stand, and who is not fooled gets the point of
    highest loss. Samples that are wrong without an attack stay as they are.

    Args:
        threat: ball and box.
        steps: number of steps of a climb.
        targets: how many classes; by default all that there are.
        restarts: number of random starts for each target.
        step_size: length of the first step in the threat's norm, as in ``PGD``.
        start: where to start; by default uniform in the ball. Restarts have draws of their own, the same for every
            target.
        loss: ``"margin"``, ``"dlr"`` or ``"ce"``, each towards the target.
        mode: the mode in which the network is run while searching.
        decay: of the step size over the steps.
        early_exit: let fooled samples leave when called as an attack.
    """

    threat: Threat
    steps: int = 40
    targets: int | None = None
    restarts: int = 1
    step_size: float | None = None
    start: Point | None = None
    loss: TargetedLoss = "margin"
    mode: Mode = "eval"
    decay: Decay = "linear"
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_targets(self.loss, self.targets)
        self._pgd()

    def parts(self) -> Iterator[Point]:
        """The starts."""
        yield from self._pgd().starts()

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        pgd, y, logits = self._pgd(), probe.labels(), clean_logits(probe, self, self.mode)
        targets = others_by_rank(logits, y, self.targets)
        search = Search(probe, self, self.threat, self.loss, self.mode, self.early_exit)
        search.dismiss(logits)
        for k in range(targets.shape[1]):
            loss = outspoken(towards(self.loss, y, targets[:, k]), self.loss)
            for start in pgd.starts():
                index = search.standing()
                z = self.threat.project(probe.at(start)[index], probe.x[index])
                search.climb(index, z, Plain(self.threat, pgd.sizes()), self.steps, loss, self, start, k)
        return search.found()

    def _pgd(self) -> PGD:
        return PGD(
            self.threat,
            self.steps,
            self.step_size,
            self.start,
            restarts=self.restarts,
            mode=self.mode,
            decay=self.decay,
        )
