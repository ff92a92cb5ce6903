"""The standard ensemble: attacks of four kinds, one after the other on the samples still standing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustreg.attacks.apgd import APGD, APGDT
from robustreg.attacks.fab import FAB
from robustreg.attacks.square import Square
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat

Version = Literal["standard", "plus", "rand"]


def members(threat: Threat, version: Version = "standard") -> dict[str, Point]:
    """The ensemble's attacks by name, in their order.

    F. Croce and M. Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks", ICML 2020; for l1 with the settings of their "Mind the Box", ICML 2021.

    Args:
        threat: norm ``linf``, ``l2`` or ``l1``, radius and box.
        version: ``"standard"``: APGD on the cross-entropy, targeted APGD and FAB towards nine classes (APGD five for
            l1), Square with 5,000 queries of the schedule for 10,000. ``"plus"`` has more restarts and the untargeted
            forms too. ``"rand"`` is for randomised networks: APGD on cross-entropy and DLR, each gradient the mean of
            20.
    """
    sparse = threat.norm == 1
    if version == "rand":
        return {
            "apgd_ce": APGD(threat, loss="ce", eot_iter=20),
            "apgd_dlr": APGD(threat, loss="dlr", eot_iter=20),
        }
    if version == "plus":
        return {
            "apgd_ce": APGD(threat, restarts=5),
            "apgd_dlr": APGD(threat, restarts=5, loss="dlr"),
            "fab": FAB(threat, restarts=5, targets=None),
            "square": Square(threat, rescale=False),
            "apgd_t": APGDT(threat),
            "fab_t": FAB(threat),
        }
    if version != "standard":
        raise ValueError(f"version must be 'standard', 'plus' or 'rand', got {version!r}")
    return {
        "apgd_ce": APGD(threat, restarts=5 if sparse else 1),
        "apgd_t": APGDT(threat, targets=5 if sparse else 9),
        "fab_t": FAB(threat),
        "square": Square(threat, rescale=False),
    }


@dataclass(frozen=True)
class StandardEnsemble(Point):
    """The ensemble as one attack: a sample that one member fools is left alone by the next.

    Its members' own accuracies are measured by giving them to an evaluation one by one: ``members(threat)`` with
    ``evaluate(..., sequential=True)``, which takes the same time. A sample that no member fools gets the sample itself.
    As a training point it would be the members' last word on the whole batch, at hundreds of passes a step.

    Args:
        threat: norm ``linf``, ``l2`` or ``l1``, radius and box.
        version: see ``members``.
    """

    threat: Threat
    version: Version = "standard"

    def __post_init__(self) -> None:
        self.members()

    def members(self) -> dict[str, Point]:
        """Its attacks by name, in their order."""
        return members(self.threat, self.version)

    @property
    def reads_labels(self) -> bool:
        """Every member does."""
        return True

    def parts(self) -> Iterator[Point]:
        """The members, whose random numbers are each sample's own."""
        yield from self.members().values()

    def locate(self, probe: Probe) -> Tensor:
        """A point which fools the network, where a member finds one."""
        y = probe.labels()
        found = probe.x.clone()
        standing = torch.nonzero((self._classes(probe, probe.x, "clean") == y) & (y >= 0)).flatten()
        for name, attack in self.members().items():
            if standing.numel() == 0:
                break
            points = probe.among(standing).at(attack)
            fooled = self._classes(probe, points, name) != y[standing]
            found[standing[fooled]] = points[fooled]
            standing = standing[~fooled]
        return found

    def _classes(self, probe: Probe, x: Tensor, name: str) -> Tensor:
        return probe.run(x, "eval", self, name, point=self).argmax(1)
