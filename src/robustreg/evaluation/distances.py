"""How far away the nearest misclassified points are: a distribution over samples, from one run of an attack.

An attack within a radius says how many samples fall at that radius. An attack of minimal norm (`FAB`, `DeepFool`,
`CarliniWagner`) says for each sample how far away the nearest misclassified point is that it can find, and with that
how many fall at any radius. Distances are upper bounds, as points nearer by may have been missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustreg.attacks import MinimalNorm
from robustreg.evaluation.crafting import named
from robustreg.evaluation.intervals import Interval, order_ranks
from robustreg.evaluation.packing import pack, unpack
from robustreg.evaluation.samples import Samples
from robustreg.evaluation.work import Work, joined
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
ANY_RADIUS = 1e30  # larger than any distance, and its multiples still finite in float32


@dataclass(frozen=True)
class Nearest(Point):
    """The nearest misclassified point an attack finds, however far away; the sample itself where it finds none."""

    attack: MinimalNorm

    @property
    def reads_labels(self) -> bool:
        """It looks for points that are not of the label's class."""
        return True

    def locate(self, probe: Probe) -> Tensor:
        """The points `[B, ...]`."""
        return self.attack.nearest(probe, bounded=False).points


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances to the nearest misclassified points that one attack found, or several together.

    Attributes:
        name: what the evaluation calls it.
        attack: the attack and its options as text.
        threat: norm and box; the radius is without meaning.
        chosen: `[N]` bool, the samples it was asked about.
        values: `[n]` float64, their distances in the order of the samples: 0 where the clean sample is misclassified
            already, infinite where the attack found nothing.
        seconds: time it took.
        problem: for an attack that broke its box one sentence on what it did.
    """

    name: str
    attack: str
    threat: Threat
    chosen: Tensor
    values: Tensor
    seconds: float
    problem: str | None = None

    @property
    def stage(self) -> str:
        """What its work and its points go by, which no attack within a radius shares."""
        return stage_of(self.name)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.values)

    @property
    def found(self) -> int:
        """For how many samples there is a misclassified point."""
        return int(self.values.isfinite().sum())

    @property
    def median(self) -> float:
        """Half of the samples are misclassified within this distance."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float:
        """The smallest distance within which at least the share q of the samples, 0 < q <= 1, is misclassified.

        Infinite where the attack found points for fewer samples than that.
        """
        if not 0.0 < q <= 1.0:
            raise ValueError(f"a quantile is of a share in (0, 1], got {q}")
        # What q * n loses to rounding must not cost a rank.
        return float(self.values.sort().values[max(math.ceil(q * self.n - 1e-9), 1) - 1])

    def interval(self, q: float = 0.5, level: float = 0.95) -> Interval:
        """An interval for the quantile of the distribution that the samples are drawn from, by order statistics."""
        low, high = order_ranks(self.n, q, level)
        ends = [0.0, *self.values.sort().values.tolist(), math.inf]
        return Interval(ends[low], ends[high])

    def accuracy(self, eps: float) -> float:
        """The share of samples without a misclassified point within eps: robust accuracy there is at most this."""
        return float((self.values > eps).double().mean())

    def to_dict(self) -> dict[str, Any]:
        """Return the row of evaluation.json; an infinite distance is null."""
        low, high = self.interval()
        threat = self.threat.to_dict()
        del threat["eps"]
        return {
            "name": self.name,
            "attack": self.attack,
            "threat": threat,
            "problem": self.problem,
            "n": self.n,
            "found": self.found,
            "median": _number(self.median),
            "low": _number(low),
            "high": _number(high),
            "quantiles": {f"{q:g}": _number(self.quantile(q)) for q in QUANTILES},
            "samples": pack(self.chosen),
            "distances": [_number(value) for value in self.values.tolist()],
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], n: int) -> Distances:
        """Read what `to_dict` wrote, of an evaluation of n samples.

        Raises:
            ValueError: when there is not one distance for each sample, or one that makes no sense.
        """
        chosen = unpack(values["samples"], n)
        distances = torch.tensor(
            [math.inf if d is None else float(d) for d in values["distances"]], dtype=torch.float64
        )
        if len(distances) != int(chosen.sum()) or not len(distances) or bool((~(distances >= 0)).any()):
            raise ValueError(f"{values['name']!r} does not have one distance >= 0 for each of its samples")
        return cls(
            name=str(values["name"]),
            attack=str(values["attack"]),
            threat=Threat.from_dict({**values["threat"], "eps": ANY_RADIUS}),
            chosen=chosen,
            values=distances,
            seconds=float(values.get("seconds", 0.0)),
            problem=values["problem"],
        )


def nearest_attacks(
    attacks: Mapping[str, MinimalNorm] | Iterable[MinimalNorm] | MinimalNorm | None,
) -> dict[str, MinimalNorm]:
    """Return the attacks by name.

    Raises:
        TypeError: one is no attack of minimal norm.
    """
    found: dict[str, MinimalNorm] = {}
    for name, attack in ({} if attacks is None else named(attacks)).items():
        if not isinstance(attack, MinimalNorm):
            raise TypeError(
                f"distances need attacks of minimal norm (FAB, DeepFool, CarliniWagner), but {name!r} is "
                f"{type(attack).__name__}"
            )
        found[name] = attack
    return found


def stage_of(name: str) -> str:
    """What the work of measuring distances with the attack of this name goes by."""
    return f"distance {name}"


def anywhere(threat: Threat) -> Threat:
    """The threat's norm and box, with any radius."""
    return threat.with_eps(ANY_RADIUS)


def distances_of(work: Work, chosen: Tensor, threat: Threat, samples: Samples) -> Tensor:
    """Distances `[n]` of the samples in `chosen` `[N]` bool, from the points an attack left for those it attacked."""
    values = torch.zeros(len(samples), dtype=torch.float64)
    values[work.attacked] = math.inf
    index, points = joined(work.fooled, samples.x)
    if len(index):
        values[index] = threat.length(points.double() - samples.x.cpu()[index].double())
    return values[chosen]


def together(listed: Iterable[Distances]) -> list[Distances]:
    """For each norm and box that several attacks looked at, on the same samples, the nearest point of any of them."""
    groups: dict[tuple[Threat, str], list[Distances]] = {}
    for distances in listed:
        if distances.problem is None:
            groups.setdefault((anywhere(distances.threat), pack(distances.chosen)), []).append(distances)
    return [
        Distances(
            name=f"nearest of all, {threat.name}",
            attack=", ".join(member.name for member in members),
            threat=threat,
            chosen=members[0].chosen,
            values=torch.stack([member.values for member in members]).amin(dim=0),
            seconds=sum(member.seconds for member in members),
        )
        for (threat, _), members in groups.items()
        if len(members) > 1
    ]


def table(listed: list[Distances]) -> list[str]:
    """The distributions as lines of aligned text; none when there are none."""
    if not listed:
        return []
    shown = ("median", "95 % interval", *(f"{100 * q:g} %" for q in QUANTILES if q != 0.5), "found")
    rows = [("distance to the nearest misclassified point", "", *shown)]
    for one in [*listed, *together(listed)]:
        low, high = one.interval()
        quantiles = [_short(one.quantile(q)) for q in QUANTILES if q != 0.5]
        ends = f"[{_short(low)}, {_short(high)}]"
        found = f"{one.found}/{one.n}"
        rows.append((one.name, one.threat.name, _short(one.median), ends, *quantiles, found))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _short(value: float) -> str:
    return "-" if math.isinf(value) else f"{value:.4g}"


def _number(value: float) -> float | None:
    # Seven digits are what float32 holds.
    return float(f"{value:.7g}") if math.isfinite(value) else None
