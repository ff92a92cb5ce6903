"""The unified gradient regularisation family (Lyu et al. 2015): closed forms, limits and identities T1 to T9.

``sigma`` is the radius, ``p`` the norm, ``1/p + 1/p* = 1``; forms A (penalty), B (perturbed) and C (mixed).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.methods import card_of, gradient_family

INF = math.inf


def threat(p: float, sigma: float) -> rr.Threat:
    return rr.Threat(p, sigma, None)


def perturbation(g: list[float], p: float, sigma: float) -> Tensor:
    """The perturbation of a network whose loss has the input gradient g everywhere."""
    gradient = torch.tensor([g], dtype=torch.float64)
    x, y = torch.zeros_like(gradient), torch.tensor([0])
    point = rr.Steepest(threat(p, sigma), loss=lambda z, y: z[:, 0])
    return point(lambda u: u @ gradient.T, x, y)[0]


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


# -- T1: ||e||_p = sigma and g.e = sigma ||g||_{p*} ----------------------------------------------------------


@pytest.mark.parametrize(("p", "rise"), [(1, 0.4), (1.5, 0.451436), (2, 0.509902), (3, 0.586292), (INF, 0.8)])
def test_t1_the_perturbation_has_length_sigma_and_raises_by_the_dual_norm(p: float, rise: float) -> None:
    g = torch.tensor([3.0, -4.0, 0.0, 1.0], dtype=torch.float64)
    e = perturbation(g.tolist(), p, 0.1)
    assert float(threat(p, 0.1).length(e[None])) == pytest.approx(0.1, abs=1e-12)
    assert float(g @ e) == pytest.approx(rise, abs=1e-6)
    assert float(g @ e) == pytest.approx(0.1 * float(threat(p, 0.1).dual_norm(g[None])), abs=1e-12)


@pytest.mark.parametrize(
    ("p", "e"),
    [
        (1, (0, -0.1, 0, 0)),
        (2, (0.058835, -0.078446, 0, 0.019612)),
        (1.5, (0.044162, -0.078511, 0, 0.004907)),
        (3, (0.071533, -0.082599, 0, 0.041299)),
        (INF, (0.1, -0.1, 0, 0.1)),
    ],
)
def test_t1_the_perturbations_of_the_notes(p: float, e: tuple[float, ...]) -> None:
    assert perturbation([3, -4, 0, 1], p, 0.1).tolist() == pytest.approx(e, abs=1e-6)


# -- T2: limits ----------------------------------------------------------------------------------------------


def test_t2_p_to_1_shares_between_ties_and_p_to_infinity_is_the_sign() -> None:
    assert perturbation([2, -2, 1], 1.0001, 1).tolist() == pytest.approx([0.50003, -0.50003, 0], abs=1e-5)
    assert perturbation([2, -2, 1], 1, 1).tolist() == [0.5, -0.5, 0]
    assert perturbation([3, -4, 0, 1], 1e6, 1).tolist() == pytest.approx([1, -1, 0, 1], abs=1e-4)


# -- T3: scale invariance, permutation equivariance, independent rows ----------------------------------------


@given(
    p=st.sampled_from([1.0, 1.5, 2.0, 3.0, INF]),
    g=st.lists(
        st.floats(-9, 9).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=4, max_size=4, unique=True
    ),
    scale=st.floats(1e-6, 1e6),
    order=st.permutations(range(4)),
)
@settings(max_examples=30, deadline=None)
def test_t3_scale_and_order(p: float, g: list[float], scale: float, order: list[int]) -> None:
    e = perturbation(g, p, 0.3)
    torch.testing.assert_close(perturbation([scale * v for v in g], p, 0.3), e, rtol=0, atol=1e-12)
    torch.testing.assert_close(perturbation([g[i] for i in order], p, 0.3), e[order], rtol=0, atol=1e-12)


def test_t3_rows_of_a_batch_do_not_touch_each_other(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    point = rr.Steepest(threat(1.5, 0.3))
    rows = [point(smooth_net, x[i : i + 1], y[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(point(smooth_net, x, y), torch.cat(rows), rtol=0, atol=1e-13)


# -- T4: binary logistic regression, where form B is the exact robust loss -----------------------------------


class Logistic(nn.Module):
    """A network of two classes whose logit difference is w.x + b: its cross-entropy is softplus(-+(w.x + b))."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), b

    def forward(self, x: Tensor) -> Tensor:
        half = (x @ self.w + self.b) / 2
        return torch.stack([-half, half], dim=1)


W = torch.tensor([0.6, -0.8, 0.3], dtype=torch.float64)
LOGISTIC = Logistic(W, 0.2)
X, Y = torch.tensor([[0.5, 0.1, -0.4]], dtype=torch.float64), torch.tensor([1])


def test_t4_the_plain_loss() -> None:
    assert rr.Objective.of(rr.CrossEntropy())(LOGISTIC, X, Y).item() == pytest.approx(0.554355, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "b", "a"), [(1, 0.663597, 0.656489), (2, 0.699774, 0.687644), (INF, 0.803650, 0.771390)]
)
def test_t4_both_forms_on_logistic_regression(p: float, b: float, a: float) -> None:
    robust, penalty = (
        gradient_family(threat(p, 0.3), form)(LOGISTIC, X, Y).item() for form in ("perturbed", "penalty")
    )
    assert robust == pytest.approx(b, abs=1e-6)
    assert penalty == pytest.approx(a, abs=1e-6)


@given(
    p=st.floats(1, 30),
    sigma=st.floats(0, 2),
    label=st.sampled_from([0, 1]),
    numbers=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_t4_form_b_is_the_worst_case_of_any_logistic_network(
    p: float, sigma: float, label: int, numbers: list[float]
) -> None:
    w, x = (torch.tensor(part, dtype=torch.float64) for part in (numbers[:3], numbers[3:]))
    m = (2 * label - 1) * (float(w @ x) + 0.2)
    worst = F.softplus(
        torch.tensor(-m + sigma * float(threat(p, sigma).dual_norm(w[None])), dtype=torch.float64)
    )
    loss = gradient_family(threat(p, sigma))(Logistic(w, 0.2), x[None], torch.tensor([label]))
    assert loss.item() == pytest.approx(worst.item(), abs=1e-9)


def test_t4_no_point_of_the_ball_is_worse() -> None:
    for p in (1, 1.5, 2, INF):
        within = threat(p, 0.3)
        robust = gradient_family(within)(LOGISTIC, X, Y)
        points = X + within.random(X.expand(500, 3).contiguous(), torch.Generator().manual_seed(0))
        assert (F.cross_entropy(LOGISTIC(points), Y.expand(500), reduction="none") <= robust + 1e-12).all()


# -- T5: a loss that is linear in the input ------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, INF])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_t5_forms_a_and_b_agree_exactly_on_a_linear_loss(p: float, sigma: float) -> None:
    c = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = (
        torch.rand(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        torch.tensor([0, 1, 2, 1]),
    )

    def linear(z: Tensor, y: Tensor) -> Tensor:
        return z.gather(1, y[:, None])[:, 0]

    a = rr.LossAt(loss=linear) + rr.GradientNorm(threat(p, sigma), loss=linear)
    b = rr.Objective.of(rr.Perturbed(threat(p, sigma), loss=linear))
    weight = c.requires_grad_()
    torch.testing.assert_close(
        a(lambda u: u @ weight, x, y), b(lambda u: u @ weight, x, y), rtol=1e-12, atol=1e-12
    )


# -- T6: softmax regression ----------------------------------------------------------------------------------


def test_t6_the_parameter_gradient_of_form_a_in_closed_form() -> None:
    g = torch.Generator().manual_seed(2)
    net = nn.Linear(4, 3).double()
    with torch.no_grad():
        net.weight.copy_(torch.randn(3, 4, generator=g, dtype=torch.float64))
        net.bias.copy_(torch.randn(3, generator=g, dtype=torch.float64))
    x, y, sigma = torch.rand(4, generator=g, dtype=torch.float64), 2, 0.4

    w = net.weight.detach()
    p = (w @ x + net.bias.detach()).softmax(0)
    r = p - F.one_hot(torch.tensor(y), 3)
    gradient = w.T @ r
    v = gradient / gradient.norm()
    jacobian = torch.diag(p) - torch.outer(p, p)
    expected = torch.outer(r, x) + sigma * (torch.outer(r, v) + torch.outer(jacobian @ w @ v, x))

    loss = gradient_family(threat(2, sigma), "penalty")(net, x[None], torch.tensor([y]))
    (found,) = torch.autograd.grad(loss, net.weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# -- T7: form B with its detached perturbation against form A ------------------------------------------------


@pytest.mark.parametrize("p", [1.5, 2, 3, INF])
@pytest.mark.parametrize("dropout", [False, True])
def test_t7_the_gradients_of_both_forms_differ_by_the_square_of_sigma(
    p: float, dropout: bool, smooth_net: nn.Module, double_batch: Any
) -> None:
    net = nn.Sequential(smooth_net[:3], nn.Dropout(0.3), smooth_net[3]) if dropout else smooth_net
    ratios = []
    for sigma in (1e-1, 1e-2, 1e-3):
        a, b = (
            gradients(
                gradient_family(threat(p, sigma), form, same_dropout=True)(net, *double_batch, step=0), net
            )
            for form in ("penalty", "perturbed")
        )
        ratios.append(float((a - b).norm()) / sigma**2)
    assert ratios[1] == pytest.approx(ratios[2], rel=0.15)
    assert 0 < max(ratios) < 3 * min(ratios)


# -- T8: sigma = 0 is plain training, p = inf is FGSM --------------------------------------------------------


@pytest.mark.parametrize("form", ["perturbed", "penalty", "mixed"])
@pytest.mark.parametrize("p", [1, 1.5, 2, INF])
def test_t8_without_a_radius_it_is_plain_training(
    form: Any, p: float, relu_net: nn.Module, batch: Any
) -> None:
    x, y = batch
    plain = gradients(F.cross_entropy(relu_net(x), y), relu_net)
    library = gradients(rr.Objective.of(rr.CrossEntropy())(relu_net, x, y), relu_net)
    family = gradients(gradient_family(threat(p, 0.0), form, alpha=0.5)(relu_net, x, y), relu_net)
    assert torch.equal(library, plain)
    if (
        form == "mixed"
    ):  # its clean loss has its gradient from the backward to the input, summed in another order
        torch.testing.assert_close(family, plain, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(family, plain)


def test_t8_with_batchnorm_too(restless_net: nn.Module, batch: Any) -> None:
    x, y = batch
    for layer in restless_net:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    nets = [copy.deepcopy(restless_net) for _ in range(2)]
    plain = gradients(F.cross_entropy(nets[0](x), y), nets[0])
    family = gradients(gradient_family(threat(2, 0.0), "penalty")(nets[1], x, y), nets[1])
    assert torch.equal(family, plain)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True))


def fgsm_by_hand(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x = x.clone().requires_grad_()
    F.cross_entropy(net(x), y).backward()
    assert x.grad is not None
    return (x + eps * x.grad.sign()).detach()


def test_t8_p_infinity_is_fgsm_element_by_element(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    by_hand = fgsm_by_hand(relu_net, x, y, 0.1)
    assert torch.equal(rr.Steepest(threat(INF, 0.1))(relu_net, x, y), by_hand)
    loss = gradient_family(threat(INF, 0.1))(relu_net, x, y)
    torch.testing.assert_close(loss, F.cross_entropy(relu_net(by_hand), y), rtol=0, atol=1e-7)


def test_t8_the_mixed_form_is_goodfellows_objective(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    by_hand = 0.3 * F.cross_entropy(relu_net(x), y) + 0.7 * F.cross_entropy(
        relu_net(fgsm_by_hand(relu_net, x, y, 0.1)), y
    )
    found = gradient_family(threat(INF, 0.1), "mixed", alpha=0.3)(relu_net, x, y)
    torch.testing.assert_close(gradients(found, relu_net), gradients(by_hand, relu_net), rtol=0, atol=1e-6)


# -- T9: the penalties of different norms --------------------------------------------------------------------


@given(seed=st.integers(0, 1000), p=st.floats(1, 10), q=st.floats(1, 10))
@settings(max_examples=20, deadline=None)
def test_t9_the_penalty_grows_with_p(seed: int, p: float, q: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(3, 6, generator=g, dtype=torch.float64), torch.tensor([0, 1, 1])
    weight = torch.randn(6, 2, generator=g, dtype=torch.float64, requires_grad=True)

    def penalty(p: float) -> Tensor:
        objective = rr.Objective.of(rr.GradientNorm(threat(p, 0.2)))
        return objective.detailed(lambda u: torch.tanh(u @ weight), x, y).per_sample["gradient_norm"]

    low, high = penalty(min(p, q)), penalty(max(p, q))
    assert (low <= high * (1 + 1e-12) + 1e-15).all()
    one, two, inf = (penalty(p) for p in (1, 2, INF))
    assert (one <= two * (1 + 1e-12)).all()
    assert (two <= inf * (1 + 1e-12)).all()
    assert (inf <= math.sqrt(6) * two * (1 + 1e-12)).all()
    assert (math.sqrt(6) * two <= 6 * one * (1 + 1e-12)).all()


# -- relations of section 2 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.5, 2, INF])
def test_the_three_forms_have_the_same_value_to_first_order(
    p: float, smooth_net: nn.Module, double_batch: Any
) -> None:
    for sigma in (1e-2, 1e-3):
        a = gradient_family(threat(p, sigma), "penalty")(smooth_net, *double_batch).item()
        b = gradient_family(threat(p, sigma), "perturbed")(smooth_net, *double_batch).item()
        c = gradient_family(threat(p, 2 * sigma), "mixed", alpha=0.5)(smooth_net, *double_batch).item()
        assert abs(a - b) < 20 * sigma**2
        assert abs(a - c) < 40 * sigma**2


def test_the_quadratic_term_of_form_b_is_the_curvature_along_the_gradient(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch[0][:1], double_batch[1][:1]

    def loss(u: Tensor) -> Tensor:
        return F.cross_entropy(smooth_net(u), y)

    g = torch.autograd.functional.jacobian(loss, x).flatten()
    hessian = torch.autograd.functional.hessian(loss, x).reshape(16, 16)
    sigma = 1e-3
    a, b = (
        gradient_family(threat(2, sigma), form)(smooth_net, x, y).item() for form in ("penalty", "perturbed")
    )
    assert (b - a) / sigma**2 == pytest.approx(0.5 * float(g @ hessian @ g / (g @ g)), rel=1e-2)


# -- options -------------------------------------------------------------------------------------------------


def test_norm_and_sigma_may_differ_from_the_threats() -> None:
    box = rr.Threat("linf", 0.1)
    (_, term), *_ = gradient_family(box, norm=2, sigma=1.5).entries
    assert term.threat == rr.Threat("l2", 1.5)
    (_, term), *_ = gradient_family(box, norm="l1").entries
    assert term.threat == rr.Threat("l1", 0.1)


def test_options_reach_the_terms() -> None:
    box = rr.Threat("linf", 0.1)
    (_, perturbed), *_ = gradient_family(box, clip="box", same_dropout=True).entries
    assert perturbed == rr.Perturbed(box, clip="box", same_dropout=True)
    assert gradient_family(box, "penalty", estimator="central").entries[1][1].estimator == "central"
    assert [w for w, _ in gradient_family(box, "mixed", alpha=0.25).entries] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "D"}, "form must be 'perturbed', 'penalty' or 'mixed', got 'D'"),
        ({"form": "mixed", "alpha": 1.5}, r"must lie in \[0, 1\], got 1.5"),
        ({"form": "penalty", "estimator": "fd"}, "estimator must be"),
        ({"norm": 0.5}, "a norm is"),
        ({"sigma": -1}, "eps is a finite number"),
        ({"clip": "ball"}, "clip must be one of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        gradient_family(rr.Threat("l2", 0.1), **options)


def test_the_card_names_the_paper_and_its_numbers() -> None:
    text = str(card_of(gradient_family))
    for part in (
        "Lyu",
        "ICDM 2015",
        "10.1109/ICDM.2015.84",
        "form A",
        "form B",
        "form C",
        "0.78 %",
        "Table I",
    ):
        assert part in text
    with pytest.raises(ValueError, match="sum has no card"):
        card_of(sum)
