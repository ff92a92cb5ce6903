"""Models that are no function of a sample: other logits at every run, or by what else is in the batch.

A verdict on them is of one run, or of one batch, and looking once more at a stored point may tell otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustreg.evaluation.point_checks import gap_of
from robustreg.evaluation.predict import logits_of

RANDOMISED = "the model's logits for the same inputs differ from run to run"
BY_BATCH = "the model's logits for a sample depend on what else is in its batch (BatchNorm without running statistics?)"


def unsteady(model: nn.Module, x: Tensor, logits: Tensor) -> str | None:
    """Run the model twice more, and say what its `logits` `[B, C]` at x `[B, ...]` depend on beside the sample.

    Returns:
        `RANDOMISED` or `BY_BATCH`, which begin a sentence, or None.
    """
    gap = gap_of(logits)
    if _differ(logits_of(model, x), logits, gap):
        return RANDOMISED
    half = max(len(x) // 2, 1)
    again = torch.arange(len(x), device=x.device) % half  # as many, for models that are made for a batch size
    return BY_BATCH if _differ(logits_of(model, x[again])[:half], logits[:half], gap) else None


def _differ(one: Tensor, other: Tensor, gap: float) -> bool:
    if one.shape != other.shape:  # said elsewhere
        return False
    return not torch.allclose(one.cpu(), other.cpu(), rtol=0.0, atol=gap, equal_nan=True)
