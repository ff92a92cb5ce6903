"""What a search finds in a batch before it is through with it, so that an interruption does not cost it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustreg.evaluation.predict import correct, logits_by_batch
from robustreg.evaluation.work import Work
from robustreg.threat import Threat


class Caught:
    """The samples of a batch that are fooled already.

    Args:
        indices: of the batch's samples, `[B]`.
        report: called with the number of samples fooled so far.
    """

    def __init__(self, indices: Tensor, report: Callable[[int], object]) -> None:
        self.indices, self._report = indices, report
        self._points: dict[int, Tensor] = {}

    def __call__(self, rows: Tensor, points: Tensor) -> None:
        """Take fooled samples, `rows` `[b]` of the batch, and their `points` `[b, ...]`."""
        for row, point in zip(rows.tolist(), points.detach(), strict=True):
            self._points.setdefault(row, point)
        self._report(len(self._points))

    def among(self, chosen: Tensor) -> Callable[[Tensor, Tensor], None]:
        """The same for a search that knows only the rows `chosen` `[b]` of the batch."""
        return lambda rows, points: self(chosen[rows], points)

    def keep(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, work: Work, batch_size: int
    ) -> None:
        """Record them in the work, those that hold what an attack's points must; `x` `[B, ...]` are all samples."""
        if not self._points:
            return
        rows = torch.tensor(list(self._points), device=x.device)
        points = torch.stack(list(self._points.values())).to(x.dtype)
        holds = ~correct(logits_by_batch(model, points, batch_size), y[rows])
        holds &= points.flatten(1).isfinite().all(1)
        if threat is not None:
            holds &= threat.contains(points, x[rows])
        right = torch.zeros(int(holds.sum()), dtype=torch.bool)
        work.add(self.indices[rows.cpu()][holds.cpu()], points[holds].cpu(), right, keep_survivors=False)
