"""Per-sample losses that attacks climb and penalties differentiate, by name or as any function.

A loss is a name (``"ce"``, ``"margin"``, ``"dlr"``, ``"kl"``), a :class:`SmoothedCrossEntropy`, or any function
``(logits [B, C], y [B]) -> [B]``. Names are values, so points that carry a loss stay hashable. ``"kl"`` needs no
label: it is the divergence from the network's own prediction at the clean sample, ``KL(p(x) || p(x'))`` with ``p(x)``
constant, as TRADES and VAT climb it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from robustreg import numerics

LossFunction = Callable[[Tensor, Tensor], Tensor]
Loss = str | LossFunction


def negative_margin(logits: Tensor, y: Tensor) -> Tensor:
    """``max_{k != y} z_k - z_y`` per sample ``[B]``: positive exactly where the prediction is wrong."""
    return -numerics.margin(logits, y)


@dataclass(frozen=True)
class SmoothedCrossEntropy:
    """Cross-entropy with target ``(1 - a) e_y + a / C`` (the uniform part includes the true class)."""

    smoothing: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing must lie in [0, 1], got {self.smoothing}")

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Values ``[B]`` of logits ``[B, C]`` and labels ``[B]``."""
        return numerics.cross_entropy(logits, y, self.smoothing)


LABELLED: dict[str, LossFunction] = {
    "ce": numerics.cross_entropy,
    "margin": negative_margin,
    "dlr": numerics.dlr,
}


def needs_labels(loss: Loss) -> bool:
    """Whether the loss reads labels (all do, but ``"kl"``)."""
    return loss != "kl"


def check_loss(loss: Loss) -> None:
    """Refuse a loss name that does not exist."""
    if isinstance(loss, str) and loss not in LABELLED and loss != "kl":
        raise ValueError(f"loss must be one of ce, margin, dlr, kl or a function (logits, y) -> [B], got {loss!r}")


def labelled(loss: Loss) -> LossFunction:
    """The function ``(logits, y) -> [B]`` behind a loss that reads labels."""
    check_loss(loss)
    if loss == "kl":
        raise ValueError("the loss 'kl' compares with the clean prediction and reads no labels")
    return LABELLED[loss] if isinstance(loss, str) else loss
