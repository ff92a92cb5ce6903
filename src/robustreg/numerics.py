"""Arithmetic that stays finite: norms, KL, cross-entropy and margins, one value per sample.

Every function takes a batch first (`[B, ...]` or logits `[B, C]`), returns `[B]`, and computes in at least
float32: float16 and bfloat16 inputs are upcast before the arithmetic, float64 stays float64. All of them
can be differentiated twice, and none hides a problem behind a clamp or a small constant.
"""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "cross_entropy",
    "dlr",
    "dual_exponent",
    "error_log_odds",
    "flatten",
    "kl",
    "margin",
    "norm",
    "one_for_each",
    "targeted_cross_entropy",
    "targeted_dlr",
    "targeted_margin",
    "upcast",
]

UNLABELLED = -1
"""The label of a sample that has none; losses are zero there."""

# Beyond it the p-norm is the max-norm to float64 rounding, and p * (p - 1) would overflow float32.
_LARGEST_EXPONENT = 1e15


def upcast(v: Tensor) -> Tensor:
    """Return `v` in the precision to compute in: float32 for anything narrower, otherwise unchanged.

    Raises:
        ValueError: `v` is not a floating point tensor.
    """
    if not v.is_floating_point():
        raise ValueError(f"expected a floating point tensor, got {v.dtype}: convert it with .float()")
    return v.float() if v.dtype.itemsize < 4 else v


def as_rows(values: Tensor, like: Tensor) -> Tensor:
    """``[B]`` as ``[B, 1, ...]``, to broadcast over ``like [B, ...]``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def flatten(v: Tensor) -> Tensor:
    """Flatten everything but the batch: `[B, ...]` to `[B, D]`; `[B]` becomes `[B, 1]`.

    Raises:
        ValueError: `v` has no batch dimension.
    """
    if v.dim() == 0:
        raise ValueError("expected a batch [B, ...], got a tensor without dimensions")
    return v.flatten(1) if v.dim() > 1 else v.unsqueeze(1)


@overload
def dual_exponent(p: float) -> float: ...
@overload
def dual_exponent(p: Tensor) -> Tensor: ...
def dual_exponent(p: float | Tensor) -> float | Tensor:
    """Return p* with 1/p + 1/p* = 1 (Hoelder): 1 and inf are each other's dual, 2 is its own.

    A tensor holds many exponents, whose values are not checked.

    Raises:
        ValueError: p < 1 or NaN.
    """
    if isinstance(p, Tensor):
        return 1 + 1 / (p - 1)
    _check_exponent(p)
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def norm(v: Tensor, p: float | Tensor) -> Tensor:
    """Return the p-norm of each sample over all its entries, `[B, ...]` to `[B]`, for any p in [1, inf].

    A tensor `[B]` gives every sample an exponent of its own, in [1, 1e15], whose values are not checked.

    First and second derivatives are finite everywhere. Where the mathematics has none, they are these:
    at a zero sample gradient and second derivative are 0; an entry that is exactly 0 contributes 0 to both
    (for 1 < p < 2 the true second derivative there is infinite); for p = inf the entries that tie for the
    maximum share the gradient equally. Values neither overflow nor underflow on the way: each sample is
    divided by its largest entry first. Samples whose largest entry is below the smallest normal number of
    the dtype count as zero for 1 < p < inf. NaN gives NaN and infinity gives infinity.

    Raises:
        ValueError: p < 1 or NaN, or not one p per sample, or `v` not a floating point batch.
    """
    if not isinstance(p, Tensor):
        _check_exponent(p)
    rows = flatten(upcast(v))
    if rows.shape[1] == 0 or (not isinstance(p, Tensor) and p == 1):
        return rows.abs().sum(1)
    largest = rows.abs().amax(1)
    if isinstance(p, Tensor):
        p = one_for_each(p, rows)
    elif p > _LARGEST_EXPONENT:
        return largest
    # ||v|| = s * ||v / s|| for every s > 0: the derivative with respect to s is 0, so s may be a constant.
    largest = largest.detach()
    tiny = torch.finfo(rows.dtype).tiny
    zero = largest < tiny
    scale = torch.where(zero | largest.isinf(), 1.0, largest)
    # Both wheres are needed: the inner one keeps the infinite slopes of the root away from the backward pass.
    scaled = torch.where(zero.unsqueeze(1), 1.0, rows / scale.unsqueeze(1))
    return torch.where(zero, 0.0, scale * _root_of_powers(scaled, p, tiny))


def _root_of_powers(rows: Tensor, p: float | Tensor, tiny: float) -> Tensor:
    """(sum |r|^p)^(1/p) for rows whose largest entry is 1, so that the root's derivatives are finite."""
    if not isinstance(p, Tensor) and p == 2:
        return rows.square().sum(1).sqrt()
    size = rows.abs()
    nothing = size < tiny
    size = torch.where(nothing, 1.0, size)
    powers = torch.where(nothing, 0.0, size.pow(p.unsqueeze(1) if isinstance(p, Tensor) else p))
    return powers.sum(1).pow(1 / p)


def one_for_each(p: Tensor, v: Tensor) -> Tensor:
    """Return exponents `[B]`, one for each sample of `v` `[B, ...]`, in the dtype of `v`.

    Raises:
        ValueError: another number of them.
    """
    if p.shape != v.shape[:1]:
        raise ValueError(f"expected exponents of shape {list(v.shape[:1])}, one per sample, got {_shape(p)}")
    return p.to(v.dtype)


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Return KL(softmax(p_logits) || softmax(q_logits)) per sample, logits `[B, C]` to `[B]`, in nats.

    Computed from log-probabilities, so value and gradients (to both arguments) are finite at any finite
    logit gap. Rounding can make the value of two almost equal distributions negative by about 1e-7.

    Raises:
        ValueError: the shapes differ or are not `[B, C]`.
    """
    if p_logits.shape != q_logits.shape:
        raise ValueError(
            f"expected two batches of logits of one shape, got {_shape(p_logits)} and {_shape(q_logits)}"
        )
    log_p = functional.log_softmax(_logits(p_logits), dim=1)
    log_q = functional.log_softmax(_logits(q_logits), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each sample, logits `[B, C]` and int labels `[B]` to `[B]`, in nats.

    The target is `(1 - smoothing) * onehot(y) + smoothing / C` (Szegedy et al. 2016). Samples labelled -1
    have loss 0 and gradient 0. Without smoothing the bits are those of `torch.nn.functional.cross_entropy`.

    Raises:
        ValueError: wrong shapes, labels that are not integers, smoothing outside [0, 1].
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must lie in [0, 1], got {smoothing!r}")
    logits, y = _logits_and_labels(logits, y)
    return functional.cross_entropy(
        logits, y, ignore_index=UNLABELLED, label_smoothing=smoothing, reduction="none"
    )


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y - max_{k != y} z_k, logits `[B, C]` to `[B]`: positive where the prediction is right.

    Classes that tie for the maximum share its gradient equally. Samples labelled -1 have margin 0.

    Raises:
        ValueError: wrong shapes, labels that are not integers, fewer than two classes.
    """
    logits, y = _logits_and_labels(logits, y, least=2)
    own = y.clamp(min=0).unsqueeze(1)
    others = logits.scatter(1, own, -math.inf).amax(1)
    return torch.where(y == UNLABELLED, 0.0, logits.gather(1, own).squeeze(1) - others)


def error_log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Return log((1 - p_y) / p_y) = log sum_{k != y} exp(z_k) - z_y, logits `[B, C]` to `[B]`.

    The cross-entropy is softplus of it, so the two rise together and their gradients have one direction; but where the
    cross-entropy and its gradient vanish in rounding (p_y = 1 to float32 from a margin of 17 on), this does not.
    Samples labelled -1 have value 0.

    Raises:
        ValueError: wrong shapes, labels that are not integers, fewer than two classes.
    """
    logits, y = _logits_and_labels(logits, y, least=2)
    own = y.clamp(min=0).unsqueeze(1)
    # The difference first: it has no rounding of the logits' level, which may be large.
    gaps = logits - logits.gather(1, own)
    return torch.where(y == UNLABELLED, 0.0, gaps.scatter(1, own, -math.inf).logsumexp(1))


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits-ratio loss, logits `[B, C]` to `[B]`; larger is worse for the model.

    -(z_y - max_{k != y} z_k) / (z_(1) - z_(3)) with z_(i) the i-th largest logit, invariant to shifts and
    scales (Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", section 4). **With fewer than four classes it falls back to -margin**: of two
    classes there is no z_(3), and of three the ratio is constantly 1, without gradient, wherever z_y is the
    smallest. Where the three largest logits are equal there is no scale to divide by and the value is -margin
    too. Samples labelled -1 have loss 0.

    Raises:
        ValueError: wrong shapes, labels that are not integers, fewer than two classes.
    """
    if logits.shape[-1] < 4:
        return -margin(logits, y)
    logits, y = _logits_and_labels(logits, y)
    own = y.clamp(min=0)
    top = logits.topk(3, dim=1)
    first, second, third = top.values.unbind(1)
    other = torch.where(top.indices[:, 0] == own, second, first)
    gap, spread = other - logits.gather(1, own.unsqueeze(1)).squeeze(1), first - third
    loss = gap / torch.where(spread < torch.finfo(spread.dtype).tiny, 1.0, spread)
    return torch.where(y == UNLABELLED, 0.0, loss)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return z_t - z_y, logits `[B, C]` and two labels `[B]` to `[B]`: positive only where the prediction is wrong.

    Samples labelled -1 have value 0.

    Raises:
        ValueError: wrong shapes, labels that are not integers.
    """
    logits, y = _logits_and_labels(logits, y)
    pair = torch.stack([target.long(), y.clamp(min=0)], 1)
    gap = logits.gather(1, pair)
    return torch.where(y == UNLABELLED, 0.0, gap[:, 0] - gap[:, 1])


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the targeted difference-of-logits-ratio loss, logits `[B, C]` and two labels `[B]` to `[B]`.

    (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) with z_(i) the i-th largest logit (Croce and Hein 2020, section 4).
    **With fewer than four classes it is z_t - z_y**, and so it is where the four largest logits are equal. Samples
    labelled -1 have loss 0.

    Raises:
        ValueError: wrong shapes, labels that are not integers.
    """
    loss = targeted_margin(logits, y, target)
    logits = upcast(logits)
    if logits.shape[1] < 4:
        return loss
    top = logits.topk(4, dim=1).values
    # A sum of differences of at most the first: no rounding of the logits' level, which may be large.
    spread = ((top[:, 0] - top[:, 2]) + (top[:, 0] - top[:, 3])) / 2
    return loss / torch.where(spread < torch.finfo(spread.dtype).tiny, 1.0, spread)


def targeted_cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return log p_t, logits `[B, C]` and two labels `[B]` to `[B]`; 0 for samples labelled -1.

    Raises:
        ValueError: wrong shapes, labels that are not integers.
    """
    value = -cross_entropy(logits, target)
    return torch.where(y == UNLABELLED, 0.0, value)


def _check_exponent(p: float) -> None:
    if not p >= 1:  # also refuses NaN
        raise ValueError(f"expected a norm exponent p in [1, inf], got {p!r}")


def _shape(v: Tensor) -> list[int]:
    return list(v.shape)


def _logits(logits: Tensor) -> Tensor:
    if logits.dim() != 2:
        raise ValueError(f"expected logits of shape [B, C], got {_shape(logits)}")
    return upcast(logits)


def _logits_and_labels(logits: Tensor, y: Tensor, least: int = 0) -> tuple[Tensor, Tensor]:
    logits = _logits(logits)
    if logits.shape[1] < least:
        raise ValueError(f"a margin needs logits of at least {least} classes, got {logits.shape[1]}")
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"expected integer class labels, got {y.dtype}")
    if y.shape != logits.shape[:1]:
        raise ValueError(f"expected labels of shape [{logits.shape[0]}], one per sample, got {_shape(y)}")
    return logits, y.long()
