"""How far two predictions of one network are apart: what consistency penalties measure and guided attacks climb.

A discrepancy is a name of ``NAMED`` or any function ``(reference logits [B, C], other logits [B, C]) -> [B]``. The
reference is the prediction to be kept, usually the clean one, and the first argument of a divergence. Gradients flow
into both unless a docstring says otherwise. Everything is computed from logits, in at least float32, and stays finite
at any finite logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robustreg import numerics

DiscrepancyFunction = Callable[[Tensor, Tensor], Tensor]
Discrepancy = str | DiscrepancyFunction


def reverse_kl(reference: Tensor, other: Tensor) -> Tensor:
    """``KL(p' || p)`` per sample ``[B]``: the divergence with its arguments exchanged."""
    return numerics.kl(other, reference)


def js(reference: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence ``(KL(p || m) + KL(p' || m)) / 2`` per sample ``[B]``, ``m = (p + p') / 2``."""
    log_p, log_q = _log_probabilities(reference, other)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(1)


def squared_logits(reference: Tensor, other: Tensor) -> Tensor:
    """``sum_k (z_k - z'_k)^2`` per sample ``[B]``."""
    return _gap(reference, other).square().sum(1)


def mean_squared_logits(reference: Tensor, other: Tensor) -> Tensor:
    """``1/C sum_k (z_k - z'_k)^2`` per sample ``[B]``: its mean is the mean squared error of two batches of logits."""
    return squared_logits(reference, other) / reference.shape[1]


def squared_probabilities(reference: Tensor, other: Tensor) -> Tensor:
    """``sum_k (p_k - p'_k)^2`` per sample ``[B]``, in [0, 2]."""
    log_p, log_q = _log_probabilities(reference, other)
    return (log_p.exp() - log_q.exp()).square().sum(1)


def soft_cross_entropy(reference: Tensor, other: Tensor) -> Tensor:
    """``-sum_k sg(p_k) log p'_k`` per sample ``[B]``: the reference is a constant target.

    Its gradient is that of ``KL(sg(p) || p')``; the values differ by the target's entropy.
    """
    log_p, log_q = _log_probabilities(reference, other)
    return -(log_p.detach().exp() * log_q).sum(1)


def logit_variance(reference: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
    """Half the variance of the logit gap ``d = z - z'`` under class weights, per sample ``[B]``.

    ``1/4 sum_jk w_j w_k (d_j - d_k)^2 = (sum w) / 2 * sum_k w_k (d_k - mean)^2``, in O(C). It is the half of the
    decoupled KL divergence (Cui et al. 2024) that moves the reference: with ``w = sg(p)`` its gradient with respect to
    the reference is that of ``KL(p || p')``, and ``soft_cross_entropy`` has the gradient with respect to the other.

    Args:
        reference: logits ``[B, C]``.
        other: logits ``[B, C]``.
        weights: ``[B, C]`` (or ``[C]``), not negative; by default the reference's probabilities as constants.
    """
    d = _gap(reference, other)
    w = functional.softmax(numerics.upcast(reference), dim=1).detach() if weights is None else weights.to(d)
    total = w.sum(-1, keepdim=True)
    mean = (w * d).sum(1, keepdim=True) / torch.where(total == 0, 1.0, total)
    return 0.5 * (total * w * (d - mean).square()).sum(1)


def nuclear(reference: Tensor, other: Tensor) -> Tensor:
    """``||Z - Z'||_* / B``: the nuclear norm of the batch's logit gap ``[B, C]`` over the batch size, **a scalar**.

    It is a quantity of the whole batch: splitting the batch changes it. Where the gap lacks rank the subgradient of
    least norm is taken, so that equal logits have gradient 0.
    """
    gap = _gap(reference, other)
    values = torch.linalg.svdvals(gap)
    negligible = values[:1] * max(gap.shape) * torch.finfo(gap.dtype).eps
    return torch.where(values > negligible, values, 0.0).sum() / gap.shape[0]


NAMED: dict[str, DiscrepancyFunction] = {
    "kl": numerics.kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "squared_logits": squared_logits,
    "mean_squared_logits": mean_squared_logits,
    "squared_probabilities": squared_probabilities,
    "soft_cross_entropy": soft_cross_entropy,
    "logit_variance": logit_variance,
    "nuclear": nuclear,
}


def check_discrepancy(discrepancy: Discrepancy) -> None:
    """Refuse a name that does not exist."""
    if not callable(discrepancy) and discrepancy not in NAMED:
        raise ValueError(
            f"discrepancy must be one of {', '.join(NAMED)} or a function (logits, logits) -> [B], "
            f"got {discrepancy!r}"
        )


def between(discrepancy: Discrepancy) -> DiscrepancyFunction:
    """The function behind a discrepancy."""
    check_discrepancy(discrepancy)
    return NAMED[discrepancy] if isinstance(discrepancy, str) else discrepancy


def _check_pair(reference: Tensor, other: Tensor) -> None:
    if reference.ndim != 2 or reference.shape != other.shape:
        raise ValueError(
            f"expected two batches of logits [B, C] of one shape, got {list(reference.shape)} and {list(other.shape)}"
        )


def _gap(reference: Tensor, other: Tensor) -> Tensor:
    _check_pair(reference, other)
    return numerics.upcast(reference) - numerics.upcast(other)


def _log_probabilities(reference: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    _check_pair(reference, other)
    log_p, log_q = (functional.log_softmax(numerics.upcast(z), dim=1) for z in (reference, other))
    return log_p, log_q
