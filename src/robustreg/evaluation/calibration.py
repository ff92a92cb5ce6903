"""Calibration: whether the confidence of a prediction is the chance that it is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """Reliability of the clean predictions.

    Attributes:
        ece: expected calibration error, the mean over samples of |accuracy - confidence| of their bin.
        confidence: mean confidence of the predicted class over all samples.
        bins: the non-empty bins as `(mean confidence, accuracy, count)`, in order of confidence.
    """

    ece: float
    confidence: float
    bins: tuple[tuple[float, float, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON-able data."""
        rows = [{"confidence": c, "accuracy": a, "count": k} for c, a, k in self.bins]
        return {"ece": self.ece, "confidence": self.confidence, "bins": rows}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """Read what `to_dict` wrote."""
        rows = tuple((float(b["confidence"]), float(b["accuracy"]), int(b["count"])) for b in values["bins"])
        return cls(float(values["ece"]), float(values["confidence"]), rows)


def measure_calibration(logits: Tensor, y: Tensor, bins: int = 15) -> Calibration:
    """Measure calibration with equal-width bins of confidence (Guo et al., 2017, arXiv:1706.04599, eq. 3).

    Args:
        logits: `[B, C]`.
        y: labels `[B]`, int64.
        bins: number of equal-width bins of (0, 1].
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    right = (predicted == y).double()
    # Bins are half open, (i/bins, (i+1)/bins], as in the paper.
    which = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    count = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, which, right * 0 + 1)
    total_confidence = torch.zeros_like(count).index_add_(0, which, confidence)
    total_right = torch.zeros_like(count).index_add_(0, which, right)
    ece = float((total_right - total_confidence).abs().sum() / max(len(y), 1))
    rows = zip(total_confidence.tolist(), total_right.tolist(), count.tolist(), strict=True)
    filled = tuple((c / k, r / k, int(k)) for c, r, k in rows if k)
    return Calibration(ece, float(confidence.mean()), filled)
