"""What the claims are made of: the functionals, and the matrices and vectors that they are made of.

The four functionals are those of Guo, Chen, Chen and Zhang, "On Connections between Regularizations for Improving DNN
Robustness", TPAMI 2020 (arXiv 2007.02209), on networks with rectified linear units. Only the paper's abstract and
first page could be read when this was written: the claims about them are our own derivations for its functionals and
its class of networks, and none is attributed to a numbered theorem of the paper.

Where the library has a term for a functional, the term itself is one of the sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.penalties import CrossLipschitz, FisherTrace, GradientNorm, JacobianNorm
from robustreg.threat import Threat

OURS = "derived for the functionals of Guo et al. 2020 (arXiv 2007.02209)"
L2 = Threat("l2", 1.0, bounds=None)


def squared(v: Tensor) -> Tensor:
    """The sum of squares of each sample, ``[B]``."""
    return v.flatten(1).square().sum(1)


def entry_by_entry(found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Two sides ``[B]`` that are equal where all entries are: the expected ones' norm, with and without the error's."""
    size = squared(expected).sqrt()
    return size + squared(found - expected).sqrt(), size


def residual_p(case: Case) -> Tensor:
    """``p - e_y``, ``[B, C]``, the label's entry without cancellation."""
    return case.p.scatter(1, case.y[:, None], -wrong(case)[:, None])


def differences(case: Case) -> Tensor:
    """``J_k - J_y`` ``[B, C, D]``."""
    return case.jacobian - case.of_label(case.jacobian)[:, None]


def pairwise(case: Case) -> Tensor:
    """``||J_l - J_m||^2`` ``[B, C, C]``."""
    rows = case.jacobian.unbind(1)  # one after another: all at once are C times the Jacobian
    return torch.stack([(case.jacobian - row[:, None]).square().sum(2) for row in rows], 1)


def trace(case: Case) -> Tensor:
    """``tr H`` ``[B]``."""
    return torch.einsum("bdd->b", case.hessian)


def largest(matrices: Tensor) -> Tensor:
    """The largest eigenvalue of symmetric matrices ``[B, D, D]``."""
    values: Tensor = torch.linalg.eigvalsh(matrices)
    return values[:, -1]


def spectral(matrices: Tensor) -> Tensor:
    """The largest singular value of matrices ``[B, C, D]``."""
    norms: Tensor = torch.linalg.matrix_norm(matrices, ord=2)
    return norms


def igr(case: Case) -> Tensor:
    """``||g||_2`` by the library's term."""
    return case.term(GradientNorm(L2, mode="eval"))


def jacobian_term(case: Case) -> Tensor:
    """``1/2 ||J||_F^2`` by the library's term."""
    return case.term(JacobianNorm(mode="eval"))


def cross_lipschitz_term(case: Case) -> Tensor:
    """``1/C^2 sum_lm ||J_l - J_m||^2`` by the library's term."""
    return case.term(CrossLipschitz(mode="eval"))


def fisher_term(case: Case) -> Tensor:
    """``sum_k p_k ||grad(-log p_k)||^2`` by the library's term, over all labels."""
    return case.term(FisherTrace(samples=None, mode="eval"))


def hessian_by_autograd(case: Case) -> Tensor:
    """The loss's Hessian ``[B, D, D]``, differentiated twice."""
    u = case.x.detach().requires_grad_()
    with torch.enable_grad():
        loss = torch.nn.functional.cross_entropy(case.logits_at(u), case.y, reduction="none")
        (g,) = torch.autograd.grad(loss.sum(), u, create_graph=True)
        g = g.flatten(1)
        rows = [
            torch.autograd.grad(column.sum(), u, retain_graph=True)[0].flatten(1) for column in g.unbind(1)
        ]
    return torch.stack(rows, 1)


def gradient_change(case: Case) -> Tensor:
    """``grad L(x + d) - grad L(x)`` ``[B, D]``."""
    return case.loss_gradient_at(case.end) - case.gradient


def bent(case: Case) -> Tensor:
    """``grad_x^2 L d`` ``[B, D]`` by differentiating twice, on any network."""
    u = case.x.detach().requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(case.loss_at(u).sum(), u, create_graph=True)
        (image,) = torch.autograd.grad(g, u, case.displacement.reshape(u.shape))
    return image.flatten(1)


def linearity_gap(case: Case) -> Tensor:
    """``L(x + d) - L(x) - d . g``."""
    return case.loss_at(case.end) - case.loss - (case.displacement * case.gradient).sum(1)


def wrong(case: Case) -> Tensor:
    """``1 - p_y``, without cancellation."""
    return -torch.expm1(-case.loss)


def margin_distance(case: Case, dual: float = 2.0) -> Tensor:
    """``min_k (z_y - z_k) / ||J_y - J_k||_q`` ``[B]``: where a linear network changes its mind; 0 if it is wrong."""
    gaps = case.of_label(case.logits)[:, None] - case.logits
    slopes = torch.linalg.vector_norm(differences(case), ord=dual, dim=2)
    ratio = torch.where(slopes > 0, gaps / torch.where(slopes > 0, slopes, 1.0), torch.inf)
    ratio = torch.where(gaps > 0, ratio, 0.0)  # wrong as it is, also where nothing would change it
    ratio.scatter_(1, case.y[:, None], torch.inf)
    return ratio.amin(1)


def boundary_step(case: Case, norm: str) -> Tensor:
    """Unit steps ``[B, ...]`` in a norm to the nearest boundary of the linear piece that a sample is on."""
    threat = Threat(norm, 1.0, bounds=None)
    slopes = differences(case)
    gaps = case.of_label(case.logits)[:, None] - case.logits
    steep = torch.linalg.vector_norm(slopes, ord=numerics.dual_exponent(threat.norm), dim=2)
    ratio = torch.where(steep > 0, gaps / torch.where(steep > 0, steep, 1.0), torch.inf)
    nearest = ratio.scatter(1, case.y[:, None], torch.inf).argmin(1)
    slope = slopes[torch.arange(len(slopes), device=slopes.device), nearest]
    return threat.steepest(slope.reshape(case.x.shape))


def boundary_point(case: Case, norm: str) -> Tensor:
    """Where that boundary is, ``[B, ...]``; the sample itself where there is none."""
    distance = margin_distance(case, numerics.dual_exponent(Threat(norm, 1.0).norm))
    distance = torch.where(distance.isfinite(), distance, 0.0)
    return case.x + numerics.as_rows(distance, case.x) * boundary_step(case, norm)


def weight(case: Case) -> Tensor:
    """``w = J_0 - J_1`` ``[B, D]``."""
    return case.jacobian[:, 0] - case.jacobian[:, 1]


def steepest_end(case: Case, norm: str) -> Tensor:
    """``x`` and the steepest step of the case's radius in a norm, without a box."""
    threat = Threat(norm, case.radius, bounds=None)
    return case.x + threat.steepest(case.gradient.reshape(case.x.shape))


def loss_rounding(case: Case) -> Tensor:
    """What float64 leaves of differences of losses and logits, ``[B]``."""
    size = torch.maximum(case.logits.abs().amax(1), case.logits_at(case.end).abs().amax(1))
    return 64 * torch.finfo(torch.float64).eps * (1 + size)


def gradient_rounding(case: Case) -> Tensor:
    """What float64 leaves of input gradients, whose probabilities cancel where a network is confident, ``[B]``."""
    return 64 * torch.finfo(torch.float64).eps * squared(case.jacobian).sqrt()


def hessian_rounding(case: Case) -> Tensor:
    """The same of second derivatives ``[B]``."""
    return 64 * torch.finfo(torch.float64).eps * squared(case.jacobian)
