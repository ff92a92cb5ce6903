"""The class-weighted half of the improved KL divergence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustreg.discrepancies import logit_variance
from robustreg.memory import Memory
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term


class ClassMeans(Memory):
    """The mean prediction of each class, and the sums of the means to come."""

    def __init__(self) -> None:
        self.means: Tensor | None = None
        self.sums: Tensor | None = None
        self.steps = 0

    def observe(self, predictions: Tensor, y: Tensor, refresh: int) -> None:
        """Add predictions ``[n, C]`` of samples of classes ``y [n]``; new means after ``refresh`` steps."""
        classes = predictions.shape[1]
        if self.sums is None:
            self.sums = predictions.new_zeros(classes, classes)
        self.sums = self.sums.to(predictions).index_add(0, y, predictions)
        self.steps += 1
        if self.steps >= refresh:
            seen = self.sums.sum(1, keepdim=True)
            self.means = torch.where(seen > 0, self.sums / torch.where(seen > 0, seen, 1.0), 1 / classes)
            self.sums, self.steps = None, 0

    def state_dict(self) -> dict[str, Any]:
        """The matrix in use, and the sums of the one to come."""
        tensors = {"means": self.means, "sums": self.sums}
        return {"steps": self.steps, **{name: t for name, t in tensors.items() if t is not None}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.means, self.sums = state.get("means"), state.get("sums")
        self.steps = int(state.get("steps", 0))


@dataclass(frozen=True)
class ClassWeightedGap(Term):
    """Half the variance of the logit gap under the mean prediction of the sample's class (Cui et al. 2024).

    ``1/4 sum_jk w_j w_k ((z_j - z_k) - (z'_j - z'_k))^2`` with ``w`` the row of the sample's label in a ``C x C``
    matrix: the average of ``softmax(z / temperature)`` over the clean samples of each class, taken over the last
    ``refresh`` steps and constant until they have passed again. It starts uniform; a class that was not seen keeps a
    uniform row. The matrix is the term's state. Processes that train together each average over their own shard. A
    step that updates a state cannot be compiled.

    Args:
        adversary: the point whose logits are to agree with the clean ones.
        temperature: of the averaged predictions.
        refresh: steps between two matrices; the authors take an epoch, 391 steps for CIFAR-10 in batches of 128.
        gamma: weights are raised to this power and normalised by the batch's mean total weight (the later GKL).
        mode: the mode in which the network is run.
    """

    adversary: Point | None = None
    temperature: float = 4.0
    refresh: int = 391
    gamma: float = 1.0
    mode: Mode = "train"
    memory: ClassMeans = field(default_factory=ClassMeans, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.refresh < 1:
            raise ValueError(f"refresh is a number of steps and must be >= 1, got {self.refresh}")

    @property
    def needs(self) -> frozenset[str]:
        """Labels, and an adversary where there is none."""
        return super().needs | {"labels"}

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``; 0 for samples without a label."""
        if self.adversary is None:
            raise ValueError(f"the term {self.name} needs an adversary: pass a point such as PGD(threat)")
        clean = probe.logits(CLEAN, self.mode)
        other = probe.logits(self.adversary, self.mode)
        y = probe.labels()
        weights = self._weights(clean, y)
        labelled = y >= 0
        total = torch.where(labelled, weights.sum(1).square(), 0.0).sum() / probe.labelled()
        probe.defer(lambda: self._observe(clean.detach(), y))
        return torch.where(labelled, logit_variance(clean, other, weights), 0.0) / torch.where(
            total == 0, 1.0, total
        )

    def _weights(self, z: Tensor, y: Tensor) -> Tensor:
        means = self.memory.means
        if means is None or means.shape[1] != z.shape[1]:  # at first, and in a rehearsal
            return torch.full_like(z, 1 / z.shape[1]).pow(self.gamma).detach()
        return means.to(z)[y.clamp(min=0)].pow(self.gamma)

    def _observe(self, z: Tensor, y: Tensor) -> None:
        labelled = y >= 0
        predictions = torch.softmax(z[labelled] / self.temperature, dim=1)
        self.memory.observe(predictions, y[labelled], self.refresh)
