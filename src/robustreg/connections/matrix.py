"""The matrix experiment: every functional on networks that were trained with every regulariser.

    row = look(net, x, y, threat)                       # one network
    ratios(networks), correlations(networks)            # several, by name and seed

Regularisers substitute for each other where training with one lowers the other's functional as well. Whether a
functional tells robustness is another question: how its mean ranks the networks against their worst-case accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.connections.case import Case
from robustreg.connections.functionals import FUNCTIONALS
from robustreg.threat import Threat

BASELINE = "plain"
LEVEL = 0.95


@dataclass(frozen=True)
class Look:
    """Every functional on one network.

    Attributes:
        means: by the functional's key, the mean over the samples: what training lowers.
        medians: likewise.
        by_confidence: the rank correlation over the samples between the functional and ``1 - p_y``; NaN where one of
            them is constant.
    """

    means: dict[str, float]
    medians: dict[str, float]
    by_confidence: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """As plain data; None for what is not finite."""
        return {
            name: {key: value if math.isfinite(value) else None for key, value in numbers.items()}
            for name, numbers in vars(self).items()
        }


@dataclass(frozen=True)
class Network:
    """A trained network in the experiment: ``name`` says with what, ``robust`` is worst-case accuracy."""

    name: str
    seed: int
    clean: float
    robust: float
    means: Mapping[str, float]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over regularisers, each the mean over its seeds.

    Attributes:
        value: Spearman's rho.
        low, high: of the bootstrap over seeds: the same regularisers, their seeds drawn anew.
        low_all, high_all: of the bootstrap over regularisers and seeds.
    """

    value: float
    low: float
    high: float
    low_all: float
    high_all: float


def look(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, batch: int = 250, seed: int = 0) -> Look:
    """Measure a network.

    Args:
        net: maps ``[B, ...]`` to logits ``[B, C]``; left as it is.
        x: samples ``[N, ...]`` within the threat's bounds.
        y: labels ``[N]``.
        threat: the ball of the functionals that have one; those of l2 take the smallest l2 ball around it.
        batch: samples at a time, each with a Jacobian of classes times inputs.
        seed: of the random points.
    """
    threat.check_input(x)
    parts: dict[str, list[Tensor]] = {f.key: [] for f in FUNCTIONALS}
    for start in range(0, len(x), batch):
        case = Case(net, x[start : start + batch], y[start : start + batch], threat=threat, seed=seed)
        for functional in FUNCTIONALS:
            parts[functional.key].append(functional.values(case))
    values = {key: torch.cat(found) for key, found in parts.items()}
    wrong = values["confidence"]
    return Look(
        {key: float(v.mean()) for key, v in values.items()},
        {key: float(v.median()) for key, v in values.items()},
        {key: spearman(v, wrong) for key, v in values.items()},
    )


def ratios(
    networks: Sequence[Network], baseline: str = BASELINE
) -> dict[str, dict[str, tuple[float, float]]]:
    """By regulariser and functional: the decimal logarithm of value over baseline, and its standard deviation.

    Both are over seeds; the baseline is the mean of its logarithms. NaN where a value is 0 or not finite.

    Raises:
        ValueError: no network has the baseline's name.
    """
    groups = by_name(networks)
    if baseline not in groups:
        raise ValueError(f"ratios are to networks named {baseline!r}, but there are {', '.join(groups)}")
    keys = list(networks[0].means)
    zero = {key: _logs(groups[baseline], key).mean() for key in keys}
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for name, members in groups.items():
        table[name] = {}
        for key in keys:
            logs = _logs(members, key) - zero[key]
            spread = float(logs.std()) if len(members) > 1 else math.nan
            table[name][key] = (float(logs.mean()), spread)
    return table


def stands_in(table: Mapping[str, Mapping[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """How much of what a functional's own regulariser lowers it by, each regulariser does: 1 is as much.

    For functionals of which a row has the name, and only where that row lowers its own by a tenth or more.
    """
    own = {
        key: table[key][key][0]
        for key in table
        if key in table[key] and table[key][key][0] < -math.log10(1.1)
    }
    return {name: {key: row[key][0] / own[key] for key in own} for name, row in table.items()}


def correlations(
    networks: Sequence[Network], draws: int = 2000, seed: int = 0, level: float = LEVEL
) -> dict[str, Correlation]:
    """Each functional's rank correlation with worst-case accuracy over the regularisers."""
    groups = list(by_name(networks).values())
    generator = torch.Generator().manual_seed(seed)
    picks = [torch.randint(len(g), (draws, len(g)), generator=generator) for g in groups]
    chosen = torch.randint(len(groups), (draws, len(groups)), generator=generator)
    robust = [torch.tensor([n.robust for n in g], dtype=torch.float64) for g in groups]
    return {
        key: _correlation(
            [torch.tensor([n.means[key] for n in g], dtype=torch.float64) for g in groups],
            robust,
            picks,
            chosen,
            level,
        )
        for key in networks[0].means
        if all(math.isfinite(n.means[key]) for n in networks)
    }


def between(networks: Sequence[Network], keys: Sequence[str]) -> list[list[float]]:
    """Rank correlations of functionals with each other over the regularisers, each the mean over its seeds."""
    groups = list(by_name(networks).values())
    means = {k: torch.tensor([_mean([n.means[k] for n in g]) for g in groups]) for k in keys}
    return [[spearman(means[a], means[b]) for b in keys] for a in keys]


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of ``[N]`` and ``[N]``, ties at their mean rank; NaN where one side is constant."""
    return float(_rank_correlation(a.double(), b.double()))


def by_name(networks: Sequence[Network]) -> dict[str, list[Network]]:
    """The seeds of each name, in the order of first appearance."""
    groups: dict[str, list[Network]] = {}
    for network in networks:
        groups.setdefault(network.name, []).append(network)
    return groups


def _rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of ``[..., N]`` and ``[..., N]`` along the last dimension."""
    first, second = (ranks - ranks.mean(-1, keepdim=True) for ranks in (_ranks(a), _ranks(b)))
    size = first.norm(dim=-1) * second.norm(dim=-1)
    product = (first * second).sum(-1)
    return torch.where(size > 0, product / size.clamp(min=1e-12), math.nan)


def _ranks(v: Tensor) -> Tensor:
    """From 1, ties at their mean rank."""
    ordered = v.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, v.contiguous())
    up_to = torch.searchsorted(ordered, v.contiguous(), right=True)
    return (below + up_to + 1).double() / 2


def _logs(members: Sequence[Network], key: str) -> Tensor:
    values = torch.tensor([n.means[key] for n in members], dtype=torch.float64)
    return torch.where(values > 0, values.clamp(min=1e-300).log10(), math.nan)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _correlation(
    values: Sequence[Tensor], robust: Sequence[Tensor], picks: Sequence[Tensor], chosen: Tensor, level: float
) -> Correlation:
    """``values`` and ``robust`` hold the seeds ``[S]`` of each regulariser, ``picks`` the seeds of each draw."""

    def over(sides: Sequence[Tensor]) -> Tensor:
        """The mean over the seeds of each draw, ``[draws, regularisers]``."""
        return torch.stack([side[pick].mean(1) for side, pick in zip(sides, picks, strict=True)], 1)

    a, b = over(values), over(robust)
    value = spearman(torch.stack([v.mean() for v in values]), torch.stack([v.mean() for v in robust]))
    every = _rank_correlation(a.gather(1, chosen), b.gather(1, chosen))
    return Correlation(value, *_interval(_rank_correlation(a, b), level), *_interval(every, level))


def _interval(values: Tensor, level: float) -> tuple[float, float]:
    known = values[values.isfinite()]
    if not len(known):
        return math.nan, math.nan
    low, high = torch.quantile(known, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(low), float(high)
