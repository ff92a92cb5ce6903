"""Energy, VAT, input-gradient, Jacobian, curvature and cross-Lipschitz training: each paper's line, and its numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import Virtual
from robustreg.config import build, load_recipe
from robustreg.methods import card_of
from robustreg.penalties import CrossLipschitz, Curvature, Energy, JacobianNorm, energies

T, L2 = rr.Threat("linf", 0.1), rr.Threat("l2", 0.3)
CE = rr.CrossEntropy()
M = rr.methods


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


UNIT = rr.Threat("l2", 1.0, None)
LINES = [
    (M.energy(T), CE + Energy(T)),
    (
        M.energy(T, 0.3, "ball", norm="l2", eps=2.0, samples=4),
        CE + 0.3 * Energy(rr.Threat("l2", 2.0), "ball", samples=4),
    ),
    (M.energy(T, divergence="kl", estimator="central"), CE + Energy(T, divergence="kl", estimator="central")),
    (M.energy(T, base="adv"), rr.CrossEntropy(at=rr.Steepest(T, mode="batch")) + Energy(T)),
    (M.vat(T), CE + rr.LossAt(Virtual(T, mode="batch"), "kl", "batch")),
    (
        M.vat(T, 2.0, norm="l2", eps=1.0, iterations=3, xi=0.01, clip="box"),
        CE + 2.0 * rr.LossAt(Virtual(rr.Threat("l2", 1.0), 3, 0.01, mode="batch", clip="box"), "kl", "batch"),
    ),
    (M.adversarial_training_l2(T, eps=1.5), CE + rr.Perturbed(rr.Threat("l2", 1.5))),
    (M.double_backpropagation(0.5), CE + 0.5 * rr.GradientNorm(UNIT, squared=True)),
    (M.tulip(1.0), CE + 0.5 * rr.GradientNorm(UNIT, squared=True, estimator="forward")),
    (M.tulip(1.0, order=2), CE + 0.5 * rr.GradientNorm(UNIT, squared=True, estimator="central", step=0.02)),
    (M.jacobian(0.1, None), CE + 0.1 * JacobianNorm()),
    (M.jacobian(norm="spectral", mode="eval"), CE + 0.01 * JacobianNorm(norm="spectral", mode="eval")),
    (M.cure(), CE + 4.0 * Curvature(0.6)),
    (M.cure(1.0, 1.5, "official", direction="gradient"), CE + Curvature(1.5, "gradient", squared=False)),
    (M.cross_lipschitz(1e-4, 3), CE + 1e-4 * CrossLipschitz(3)),
]


@pytest.mark.parametrize(("method", "written"), LINES, ids=lambda o: repr(o)[:70])
def test_a_method_is_the_line_that_one_would_write(
    method: rr.Objective, written: rr.Objective, restless_net: nn.Module, batch: Any
) -> None:
    assert method.entries == written.entries
    assert torch.isfinite(method(restless_net, *batch))


@pytest.mark.parametrize(
    "method",
    [
        M.energy,
        M.vat,
        M.adversarial_training_l2,
        M.double_backpropagation,
        M.tulip,
        M.jacobian,
        M.cure,
        M.cross_lipschitz,
    ],
)
def test_each_has_a_card(method: Any) -> None:
    card = card_of(method)
    assert card.name == method.__name__
    assert card.citation
    assert card.equations
    assert all(s.source for s in card.settings)
    assert card.name in str(card)


@pytest.mark.parametrize(
    ("build_it", "sentence"),
    [
        (lambda: M.energy(T, base="noisy"), "base must be 'clean' or 'adv', got 'noisy'"),
        (lambda: M.tulip(order=3), "order must be 1 or 2, got 3"),
        (lambda: M.tulip(norm="l1"), "norm='l1' needs features"),
        (lambda: M.tulip(norm="l3"), "norm must be 'l2', 'l1' or 'linf', got 'l3'"),
        (lambda: M.cure(form="code"), "form must be 'paper' or 'official', got 'code'"),
    ],
)
def test_bad_options_are_refused(build_it: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_it()


# -- the papers' numbers -------------------------------------------------------------------------------------


class OneHidden(nn.Module):
    """The ReLU network of the fixture FC."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor([[1, 2], [-1, 1], [2, -1]], dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor([[1, 0, 1], [0, 1, -1], [-1, 1, 0.5]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.u.T) @ self.v.T


def test_double_backpropagation_on_the_hidden_layer_fixture() -> None:
    net, x, y = OneHidden(), torch.tensor([[0.5, 0.25]], dtype=torch.float64), torch.tensor([1])
    out = M.double_backpropagation(1.0).detailed(net, x, y)
    assert out.values["cross_entropy"].item() == pytest.approx(2.66135281, abs=1e-8)
    assert out.values["gradient_norm"].item() == pytest.approx(19.55368623, abs=1e-8)
    penalty = out.loss - CE(_probe(net, x, y)).mean()
    dv, du = torch.autograd.grad(penalty, [net.v, net.u])
    expected_v = [
        [10.84476665, 0, 18.70150992],
        [-9.91100863, 0, -18.98416246],
        [-0.93375803, 0, 0.28265255],
    ]
    expected_u = [[9.72324788, 1.02763840], [0, 0], [19.18857871, 0.55015877]]
    torch.testing.assert_close(dv, torch.tensor(expected_v, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(du, torch.tensor(expected_u, dtype=torch.float64), rtol=0, atol=1e-7)


def _probe(net: nn.Module, x: Tensor, y: Tensor) -> rr.Probe:
    from robustreg.streams import Stream

    return rr.Probe(net, x, y, stream=Stream(0))


WEIGHT = torch.tensor([[1.5, -2], [-1.5, 2]], dtype=torch.float64)
X, Y = torch.tensor([[0.2, 0.1]], dtype=torch.float64), torch.tensor([0])


def binary(x: Tensor) -> Tensor:
    """The linear model of the fixture FA."""
    return x @ WEIGHT.T


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"norm": "l2"}, 2.28181784),
        ({"norm": "l2", "order": 2}, 2.25088140),
        ({"norm": "l1", "features": 2}, 2.25857566),
        ({"norm": "linf"}, 1.82049037),
    ],
)
def test_tulips_differences_on_the_binary_fixture(options: dict[str, Any], difference: float) -> None:
    objective = M.tulip(2.0, **options)
    out = objective.detailed(binary, X, Y)
    assert out.values["cross_entropy"].item() == pytest.approx(0.59813887, abs=1e-8)
    penalty = (out.loss - out.values["cross_entropy"]).item() / 2
    assert penalty == pytest.approx(0.5 * difference**2, abs=1e-7)
    if options == {"norm": "l2"}:
        assert penalty == pytest.approx(2.60334633, abs=1e-7)


def test_tulip_is_its_authors_loss(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    u = x.clone().requires_grad_()
    clean = F.cross_entropy(smooth_net(u), y, reduction="none")
    (g,) = torch.autograd.grad(clean.mean(), u, retain_graph=True)
    v = g / g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    moved = F.cross_entropy(smooth_net(x + 0.01 * v), y, reduction="none")
    expected = clean.mean() + 0.3 * 0.5 * ((moved - clean) / 0.01).square().mean()
    loss = M.tulip(0.3)(smooth_net, x, y)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-12
    )


def test_cures_official_loss_is_the_mean_of_unsquared_norms(smooth_net: nn.Module, double_batch: Any) -> None:
    """The authors' regulariser, with the sum of the losses in place of the call that torch now rejects."""
    x, y = double_batch
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(u), y, reduction="sum"), u)
    s = g.sign()
    z = 3 * (s + 1e-7) / (s.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) + 1e-7)
    u = x.clone().requires_grad_()
    change = F.cross_entropy(smooth_net(u + z), y, reduction="sum") - F.cross_entropy(
        smooth_net(u), y, reduction="sum"
    )
    (d,) = torch.autograd.grad(change, u, create_graph=True)
    expected = F.cross_entropy(smooth_net(x), y) + 4 / 6 * d.flatten(1).norm(dim=1).sum()
    loss = M.cure(4.0, 3.0, "official")(smooth_net, x, y)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=1e-5, atol=1e-8
    )


# -- the energy's statement ----------------------------------------------------------------------------------


def test_adversarial_training_and_vat_lower_a_lower_bound_of_the_energy(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    adversarial = M.adversarial_training_l2(L2).detailed(smooth_net, x, y).per_sample
    increment = adversarial["perturbed"] - adversarial["cross_entropy"]
    energy = M.energy(L2, samples=100).detailed(smooth_net, x, y).per_sample["energy"]
    assert (increment <= energy + 1e-4).all()
    smoothness = M.vat(L2).detailed(smooth_net, x, y, step=3).per_sample["loss_at"]
    energy = (
        M.energy(L2, divergence="kl", samples=100).detailed(smooth_net, x, y, step=3).per_sample["energy"]
    )
    assert (smoothness <= energy + 1e-4).all()
    assert (smoothness > 0).all()
    measured = energies(smooth_net, x, y, L2, samples=100)
    torch.testing.assert_close(measured.increment, increment, rtol=0, atol=1e-13)


def test_vat_is_what_one_would_write_by_hand(smooth_net: nn.Module, double_batch: Any) -> None:
    from robustreg.streams import Stream

    x, y = double_batch
    some = torch.where(torch.arange(6) < 2, y, -1)
    loss = M.vat(L2, 0.7)(smooth_net, x, some, step=5)

    def unit(g: Tensor) -> Tensor:
        return g / g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)

    clean = smooth_net(x).detach()
    stream = Stream(torch.initial_seed(), 5)
    d = torch.randn(
        x.shape, generator=stream.generator("cpu", "draw", Virtual(L2, mode="batch").key), dtype=x.dtype
    )
    probe = (1e-6 * unit(d)).requires_grad_()
    (g,) = torch.autograd.grad(numerics.kl(clean, smooth_net(x + probe)).sum(), probe)
    smoothness = numerics.kl(clean, smooth_net(x + 0.3 * unit(g)))
    expected = F.cross_entropy(smooth_net(x[:2]), y[:2]) + 0.7 * smoothness.mean()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-11
    )


def test_the_semi_supervised_energy_uses_every_sample(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    some = torch.where(torch.arange(6) < 2, y, -1)
    out = M.energy(L2, divergence="kl").detailed(relu_net, x, some, step=0)
    assert (out.per_sample["energy"] > 0).all()
    assert out.values["energy"].item() == pytest.approx(out.per_sample["energy"].mean().item())
    assert out.values["cross_entropy"].item() == pytest.approx(
        out.per_sample["cross_entropy"][:2].mean().item()
    )


@pytest.mark.parametrize(
    ("objective", "counts"),
    [
        (M.energy(L2), (2, 1, 2, 1)),
        (M.vat(L2), (3, 1, 2, 0)),
        (M.adversarial_training_l2(L2), (2, 0, 2, 0)),
        (M.double_backpropagation(), (1, 1, 1, 1)),
        (M.tulip(), (2, 1, 2, 0)),
        (M.jacobian(), (1, 1, 1, 1)),
        (M.cure(), (3, 2, 3, 2)),
        (M.cross_lipschitz(), (1, 10, 1, 10)),
    ],
    ids=lambda o: repr(o)[:60],
)
def test_passes_per_step(objective: rr.Objective, counts: tuple[int, ...]) -> None:
    plan = objective.plan()
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == counts


# -- recipes -------------------------------------------------------------------------------------------------

RECIPES = ["energy", "vat", "jacobian", "cure", "cross_lipschitz"]


@pytest.mark.parametrize("name", RECIPES)
def test_its_recipe_builds_and_takes_a_step(name: str) -> None:
    built = build(load_recipe(name, ["model.width=4", "data.train_size=100"]))
    options = dict(built.recipe.objective.options)
    method = getattr(M, name)
    written = method(built.threat, **options) if name in ("energy", "vat") else method(**options)
    assert built.objective.entries == written.entries
    samples = built.splits.train.floats()
    loss = built.objective(built.net, samples.x[:8], samples.y[:8])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.net.parameters())
