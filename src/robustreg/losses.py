"""Per-sample losses that attacks climb and penalties differentiate, by name or as any function.

A loss is a name (``"ce"``, ``"margin"``, ``"dlr"``, ``"kl"``), a ``SmoothedCrossEntropy``, or any function
``(logits [B, C], y [B]) -> [B]``, which is given 0 in place of the label -1 and whose value there is not used. Names
are values, so points that carry a loss stay hashable. ``"kl"`` needs no label: it is the divergence from the network's
own prediction at the clean sample, ``KL(p(x) || p(x'))`` with ``p(x)`` constant, as TRADES and VAT climb it.

A loss that needs more than logits and labels (logits elsewhere, random numbers, the step) is a ``BoundLoss``: a frozen
value that is bound to a probe before it is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from robustreg import numerics

if TYPE_CHECKING:
    from robustreg.modes import Mode
    from robustreg.probe import Probe

LossFunction = Callable[[Tensor, Tensor], Tensor]
RowLoss = Callable[[Tensor, Tensor | None], Tensor]
"""``(logits [b, C], rows) -> [b]``: of the whole batch (rows None), or of the rows of it that are still in play."""


@runtime_checkable
class BoundLoss(Protocol):
    """A loss that looks at more of the probe than logits and labels. Implementations are frozen, hashable values."""

    @property
    def reads_labels(self) -> bool:
        """Whether it reads labels."""

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch, the network being run in ``mode``."""


Loss = str | LossFunction | BoundLoss


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


@dataclass(frozen=True)
class DivergenceFromClean:
    """``KL(p(x) || p(x'))`` from the network's own prediction at the clean sample, held constant: the loss ``"kl"``."""

    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The divergence, with the clean logits taken in the same mode."""
        clean = probe.clean_prediction(mode)
        return lambda logits, rows: numerics.kl(clean if rows is None else clean[rows], logits)


BOUND: dict[str, BoundLoss] = {"kl": DivergenceFromClean()}
LABELLED: dict[str, LossFunction] = {
    "ce": numerics.cross_entropy,
    "margin": negative_margin,
    "dlr": numerics.dlr,
}
_KNOW_UNLABELLED = (*LABELLED.values(), numerics.error_log_odds)


def needs_labels(loss: Loss) -> bool:
    """Whether the loss reads labels (all do, but ``"kl"`` and bound losses that say so)."""
    bound = bound_loss(loss)
    return bound is None or bound.reads_labels


def bound_loss(loss: Loss) -> BoundLoss | None:
    """The loss as one to bind to a probe, or None if it is a function of logits and labels."""
    if isinstance(loss, str):
        return BOUND.get(loss)
    return cast(BoundLoss, loss) if hasattr(loss, "bind") else None  # isinstance is slow: asked at every step


def check_loss(loss: Loss) -> None:
    """Refuse a loss name that does not exist."""
    if isinstance(loss, str) and loss not in LABELLED and loss not in BOUND:
        names = ", ".join([*LABELLED, *BOUND])
        raise ValueError(f"loss must be one of {names} or a function (logits, y) -> [B], got {loss!r}")


def labelled(loss: Loss) -> LossFunction:
    """The function ``(logits, y) -> [B]`` behind a loss that reads labels."""
    check_loss(loss)
    if bound_loss(loss) is not None:
        raise ValueError(f"the loss {loss!r} is no function of logits and labels: it is bound to a probe")
    if isinstance(loss, str):
        return LABELLED[loss]
    assert not isinstance(loss, BoundLoss)
    return (
        loss if isinstance(loss, SmoothedCrossEntropy) or loss in _KNOW_UNLABELLED else _for_unlabelled(loss)
    )


def _for_unlabelled(loss: LossFunction) -> LossFunction:
    """A user's loss, which need not know of the label -1, with 0 for the samples that have it."""

    def masked(logits: Tensor, y: Tensor) -> Tensor:
        values = loss(logits, y.clamp(min=0))
        if values.shape != y.shape:
            raise ValueError(
                f"a loss must give one value per sample, {list(y.shape)}, but {getattr(loss, '__name__', loss)} gave "
                f"{list(values.shape)}: use reduction='none'"
            )
        return torch.where(y >= 0, values, 0.0)

    return masked


def check_labels(x: Tensor, y: Tensor) -> None:
    """Refuse labels that are not integers ``[B]`` from -1 up."""
    if not isinstance(y, Tensor):
        raise TypeError(f"labels must be a tensor of integers [B], got a {type(y).__name__}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"labels must be integers [B], got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must be [B] = [{x.shape[0]}] like x {list(x.shape)}, got {list(y.shape)}")
    if y.numel() and int(y.min()) < -1:
        raise ValueError(f"labels must be class numbers from 0, or -1 for unlabelled, got {int(y.min())}")
