"""The functionals against definitions made by other means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case
from robustreg.connections.functionals import FUNCTIONALS, attack, l2_threat
from robustreg.connections.quantities import largest, pairwise
from robustreg.threat import Threat

BY_KEY = {f.key: f for f in FUNCTIONALS}
Build = Callable[[str], nn.Module]


@pytest.fixture(params=["relu_pool", "gelu"])
def case(request: pytest.FixtureRequest, network: Build, samples: Tensor) -> Case:
    return Case(network(request.param), samples, torch.arange(6) % 3, threat=Threat("linf", 0.1))


def test_every_functional_is_a_finite_number_a_sample(case: Case) -> None:
    for functional in FUNCTIONALS:
        values = functional.values(case)
        assert values.shape == (6,), functional.key
        assert values.dtype == torch.float64
        assert not values.requires_grad
        assert torch.isfinite(values).all(), functional.key
        assert (values >= -1e-12).all() or functional.key == "pgd", functional.key
    assert len(BY_KEY) == len(FUNCTIONALS)


def test_norms_of_dense_matrices(case: Case) -> None:
    expected = {
        "gradient_l1": case.gradient.abs().sum(1),
        "gradient_l2": case.gradient.norm(dim=1),
        "jacobian": 0.5 * case.jacobian.square().sum((1, 2)),
        "jacobian_spectral": torch.linalg.matrix_norm(case.jacobian, ord=2),
        "cross_lipschitz": pairwise(case).mean((1, 2)),
        "fisher_trace": torch.einsum("bdd->b", case.hessian),
        "curvature_spectral": largest(case.hessian),
        "confidence": 1 - case.p_y,
    }
    for key, value in expected.items():
        torch.testing.assert_close(BY_KEY[key].values(case), value, rtol=1e-8, atol=1e-12)


def test_the_factor_of_confidence_is_divided_out(case: Case) -> None:
    torch.testing.assert_close(
        BY_KEY["gradient_free"].values(case), case.gradient.norm(dim=1) / (1 - case.p_y), rtol=1e-8, atol=0.0
    )
    spread = 1 - case.p.square().sum(1)
    trace = torch.einsum("bdd->b", case.hessian)
    torch.testing.assert_close(BY_KEY["curvature_free"].values(case), trace / spread, rtol=1e-8, atol=0.0)


def test_a_confident_network_has_no_gradient_but_slopes(network: Build, samples: Tensor) -> None:
    """Logits times 40 on samples that are right: the gradient fades, what is left without its factor does not."""
    plain = network("affine").double()
    y = plain(samples.double()).argmax(1)
    steep = nn.Sequential(plain, nn.Linear(3, 3, bias=False)).double()
    steep[1].weight.data = 400 * torch.eye(3, dtype=torch.float64)
    before, after = (Case(net, samples, y, threat=Threat("linf", 0.1)) for net in (plain, steep))
    for key, sign in (("gradient_l2", -1), ("fisher_trace", -1), ("gradient_free", 1), ("jacobian", 1)):
        change = BY_KEY[key].values(after).log() - BY_KEY[key].values(before).log()
        assert (sign * change.median() > 0).all(), key
    assert torch.isfinite(BY_KEY["curvature_free"].values(after)).all()


def test_the_l2_ball_is_the_smallest_around() -> None:
    x, y = torch.zeros(1, 16), torch.tensor([0])
    for norm, length in (("linf", 4 * 0.1), ("l2", 0.1), ("l1", 0.1)):
        case = Case(nn.Linear(16, 3), x, y, threat=Threat(norm, 0.1))
        assert l2_threat(case).eps == pytest.approx(length)
        assert l2_threat(case).norm == 2.0


def test_the_divergences_are_at_one_attack(case: Case) -> None:
    """TRADES's, ARoW's and ALP's look at the same point."""
    there = case.logits_at(case.measured(Case.probe).at(attack(case)))
    log_p, log_q = case.logits.log_softmax(1), there.log_softmax(1)
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    torch.testing.assert_close(BY_KEY["trades"].values(case), kl, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(
        BY_KEY["arow"].values(case), (1 - case.of_label(log_q.exp())) * kl, rtol=1e-6, atol=1e-12
    )
    torch.testing.assert_close(
        BY_KEY["alp"].values(case), (there - case.logits).square().sum(1), rtol=1e-6, atol=1e-12
    )
