"""How many steps of its attack a sample withstood, as a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.schedules import Weight
from robustreg.terms import Term

Form = Literal["tanh", "sigmoid", "discrete"]


@dataclass(frozen=True)
class Geometry(Term):
    """The geometry-aware weight of GAIRAT (Zhang et al. 2021): more for samples that fall in fewer steps.

    ``kappa`` of ``K`` looks of the search, of which the first is at its start and the last one step before its end, saw
    the label's class. With ``a = lam + 5 (1 - 2 kappa / K)`` the weight is ``(1 + tanh a) / 2``, ``sigmoid(a)``, or
    ``1 - kappa / (K + 1)`` whatever ``lam``. It is a constant. The authors divide it by its mean over the batch:
    ``weighted(CrossEntropy(at=attack), by=Geometry(attack), normalise=True)``.

    Args:
        adversary: the search, ``PGD(threat)`` say, on the whole batch and with one start.
        lam: the smaller, the more unequal the weights; ``inf`` makes all of them 1. A number or its schedule.
        form: ``"tanh"``, ``"sigmoid"`` or ``"discrete"``.
    """

    adversary: Point | None = None
    lam: Weight = -1.0
    form: Form = "tanh"

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {self.form!r}")
        if getattr(self.adversary, "restarts", 1) > 1:
            raise ValueError("the steps to a wrong prediction are counted from one start: restarts must be 1")

    @property
    def needs(self) -> frozenset[str]:
        """Labels, and an adversary where there is none."""
        return frozenset({"labels"} if self.adversary is not None else {"labels", "adversary"})

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [0, 1]; 0 for samples without a label."""
        if self.adversary is None:
            raise ValueError(f"the term {self.name} needs an adversary: pass a point such as PGD(threat)")
        right = probe.at(_Withstood(self.adversary))
        kappa = right.to(torch.promote_types(probe.x.dtype, torch.float32)).sum(1)
        weight = self._weight(kappa, right.shape[1], probe)
        return torch.where(probe.labels() >= 0, weight, 0.0)

    def _weight(self, kappa: Tensor, looks: int, probe: Probe) -> Tensor:
        lam = probe.scheduled(self.lam)
        if lam == math.inf:
            return torch.ones_like(kappa)
        if self.form == "discrete":
            return 1.0 - kappa / (looks + 1)
        a = lam + 5.0 * (1.0 - 2.0 * kappa / looks)
        return torch.sigmoid(a if self.form == "sigmoid" else 2.0 * a)


@dataclass(frozen=True)
class _Withstood(Point):
    """Not a place: where a search saw the right class ``[B, K]``.

    A point all the same, because it is found with the search and belongs to it: a step that looks at its points twice,
    at other weights, has it from the first look, as it has the search's end.
    """

    adversary: Point

    def locate(self, probe: Probe) -> Tensor:
        """True for every look that saw the label's class."""
        probe.at(self.adversary)
        seen = probe.predicted.get(self.adversary)
        if seen is None:
            raise ValueError(
                f"{type(self.adversary).__name__} takes no steps that could be counted: use PGD(threat)"
            )
        return torch.stack(seen, dim=1) == probe.labels().unsqueeze(1)
