"""The energies of a neighbourhood: closed forms, the chain of bounds that makes them energies, and their gradients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import Virtual
from robustreg.penalties import Energy, energies
from robustreg.streams import Stream

L2 = rr.Threat("l2", 0.3, None)
NORMS = [1.0, 1.5, 2.0, 3.0, float("inf")]
EVERY = ["segment", "ball", "worst", "centre"]


def per_sample(term: rr.Term, net: Any, x: Tensor, y: Tensor | None, **options: Any) -> Tensor:
    return rr.Objective.of(term).detailed(net, x, y, step=0, **options).per_sample["energy"]


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


@dataclass(frozen=True)
class Shifted(rr.Point):
    """The sample plus a given vector."""

    by: tuple[float, ...]

    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.x + torch.tensor(self.by, dtype=probe.x.dtype)


def identity(x: Tensor) -> Tensor:
    """A network whose logits are its input, so that a loss of the logits is any function of the input."""
    return x


# -- closed forms ----------------------------------------------------------------------------------------------------

W, X, Y = (
    torch.tensor([0.6, -0.8, 0.3]).double(),
    torch.tensor([[0.5, 0.1, -0.4]]).double(),
    torch.tensor([1]),
)


def logistic(x: Tensor) -> Tensor:
    """The binary logistic model as two logits."""
    return torch.stack([torch.zeros_like(x[:, 0]), x @ W + 0.2], 1)


@pytest.mark.parametrize(
    ("points", "expected"), [("centre", 0.133289), ("segment", 0.145418), ("worst", 0.157639)]
)
def test_the_logistic_model_has_closed_forms(points: Any, expected: float) -> None:
    samples = 64 if points == "segment" else 1
    assert per_sample(Energy(L2, points, samples=samples), logistic, X, Y).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_the_segments_energy_of_a_logistic_model_is_the_adversarial_increment() -> None:
    m, length = 0.3, 0.3 * W.norm().item()
    increment = math.log1p(math.exp(-m + length)) - math.log1p(math.exp(-m))
    assert increment == pytest.approx(0.145418, abs=1e-6)
    found = [per_sample(Energy(L2, samples=k), logistic, X, Y).item() for k in (1, 10, 100)]
    errors = [abs(f - increment) for f in found]
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 90  # midpoints: O(1/K^2)
    assert errors[2] < 1e-8


def test_the_balls_energy_of_a_logistic_model_is_an_integral() -> None:
    s = torch.linspace(-0.3, 0.3, 20001, dtype=torch.float64)
    density = (1 - (s / 0.3) ** 2).clamp(min=0)  # (d - 1) / 2 = 1
    size = W.norm()
    expected = 0.3 * size * (torch.sigmoid(-0.3 - size * s) * density).sum() / density.sum()
    assert expected.item() == pytest.approx(0.3 * 0.444665, abs=1e-6)
    n = 200_000
    found = per_sample(Energy(L2, "ball"), logistic, X.expand(n, 3), Y.expand(n)).mean().item()
    assert found == pytest.approx(expected.item(), abs=6e-5)
    assert abs(found - 0.133289) > 6e-5  # it is not the centre's


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("points", EVERY)
def test_all_energies_of_a_linear_loss_are_eps_times_the_dual_norm(p: float, points: Any) -> None:
    c = torch.tensor([0.3, -1.0, 0.5, 2.0]).double()
    threat = rr.Threat(p, 0.2, None)
    x, y = torch.zeros(1, 4).double(), torch.zeros(1, dtype=torch.long)
    found = per_sample(Energy(threat, points, divergence=lambda z, _: z @ c), identity, x, y)
    expected = 0.2 * torch.linalg.vector_norm(c, numerics.dual_exponent(p))
    torch.testing.assert_close(found, expected[None], rtol=0, atol=1e-14)
    diagnosed = energies(identity, x, y, threat, divergence=lambda z, _: z @ c)
    for value in diagnosed.means().values():
        assert value == pytest.approx(expected.item(), abs=1e-12)


A = torch.tensor([[2.0, 0.3, -0.1], [0.3, 1.0, 0.2], [-0.1, 0.2, -0.5]]).double()
B = torch.tensor([0.4, -0.2, 0.7]).double()


def quadratic(a: Tensor, b: Tensor | float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda u, _: (u * b).sum(1) + 0.5 * ((u @ a) * u).sum(1)


def test_the_dirichlet_energy_of_a_quadratic_loss_is_a_moment_of_the_ball() -> None:
    n, eps = 100_000, 0.8
    x, y = torch.zeros(n, 3).double(), torch.zeros(n, dtype=torch.long)
    term = Energy(rr.Threat("l2", eps, None), "ball", 2, quadratic(A, B))
    values = per_sample(term, identity, x, y)
    expected = eps * (B.square().sum() + eps**2 * A.square().sum() / 5)
    assert values.mean().item() == pytest.approx(expected.item(), abs=4 * values.std().item() / n**0.5)
    probe_points = rr.Uniform(rr.Threat("l2", eps, None), clip="none")
    u = probe_points(identity, x, y, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((B + u @ A).mean(0), B, rtol=0, atol=0.01)


def test_along_any_direction_a_quadratic_divergence_has_half_the_norms_product() -> None:
    r = torch.tensor([0.1, -0.2, 0.3]).double()
    x, y = torch.zeros(1, 3).double(), torch.zeros(1, dtype=torch.long)
    point = Shifted(tuple(r.tolist()))
    found = per_sample(Energy(L2, divergence=quadratic(A), end=point), identity, x, y)
    torch.testing.assert_close(found, 0.5 * (r.norm() * (A @ r).norm())[None], rtol=0, atol=1e-14)
    assert found >= 0.5 * r @ A @ r


def test_at_vats_point_the_segment_is_the_smoothness_and_the_worst_point_is_twice_that() -> None:
    h = A @ A
    values, vectors = torch.linalg.eigh(h)
    end = Shifted(tuple((0.3 * vectors[:, -1]).tolist()))
    x, y = torch.zeros(1, 3).double(), torch.zeros(1, dtype=torch.long)
    segment = per_sample(Energy(L2, divergence=quadratic(h), end=end), identity, x, y).item()
    worst = per_sample(Energy(L2, "worst", divergence=quadratic(h), end=end), identity, x, y).item()
    smoothness = 0.5 * 0.3**2 * values[-1].item()
    assert segment == pytest.approx(smoothness, abs=1e-13)
    assert worst == pytest.approx(2 * smoothness, abs=1e-13)
    diagnosed = energies(identity, x, y, L2, divergence=quadratic(h), end=end)
    assert diagnosed.increment.item() == pytest.approx(smoothness, abs=1e-13)


def test_the_end_points_can_say_nothing_while_the_loss_moves_in_between() -> None:
    x, y, eps = torch.zeros(1, 1).double(), torch.zeros(1, dtype=torch.long), 0.3

    def there_and_back(z: Tensor, y: Tensor) -> Tensor:
        return torch.sin(math.pi * z[:, 0] / eps).square()

    found = energies(identity, x, y, L2, divergence=there_and_back, samples=400, end=Shifted((eps,)))
    assert found.increment.item() == pytest.approx(0, abs=1e-15)
    assert found.centre.item() == pytest.approx(0, abs=1e-15)
    assert found.segment.item() == pytest.approx(2, abs=1e-4)


# -- the bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("divergence", ["ce", "kl", "margin"])
def test_what_adversarial_training_and_vat_lower_is_a_lower_bound(
    p: float, divergence: str, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    threat = rr.Threat(p, {1.0: 3.0, 1.5: 2.0, 2.0: 1.5, 3.0: 1.0}.get(p, 0.4), None)
    for end in (None, rr.PGD(threat, 3, loss=divergence, early_exit=False)):
        found = energies(
            smooth_net,
            x,
            None if divergence == "kl" else y,
            threat,
            divergence=divergence,
            samples=100,
            end=end,
        )
        assert (found.increment <= found.segment + 1e-4).all()
        for smaller in (found.segment, found.ball, found.centre):
            assert (smaller <= found.worst + 1e-12).all()
        assert (found.segment > 1e-3).all()
    if divergence == "kl":
        assert (found.centre < 1e-12).all()


def test_the_loss_in_the_ball_stays_under_the_worst_energy(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    threat = rr.Threat("l2", 0.5, None)
    found = energies(smooth_net, x, y, threat, samples=200, iterations=5)
    clean = F.cross_entropy(smooth_net(x), y, reduction="none")
    attack = rr.PGD(threat, 40, early_exit=False)(smooth_net, x, y)
    highest = F.cross_entropy(smooth_net(attack), y, reduction="none")
    assert (highest <= clean + found.worst + 1e-4).all()


def test_ascent_finds_a_steeper_point_than_chance(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    threat = rr.Threat("l2", 0.5, None)
    by_chance = energies(smooth_net, x, y, threat, samples=300, iterations=0)
    for iterations in (1, 2, 3):
        by_ascent = per_sample(Energy(threat, "worst", iterations=iterations), smooth_net, x, y)
        assert (by_ascent > by_chance.ball).all()
        assert (by_ascent > by_chance.centre).all()


def test_the_diagnostics_are_the_terms_values(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    found = energies(smooth_net, x, y, L2, samples=5)
    for points in ("centre", "segment"):
        term = Energy(L2, points, samples=5 if points == "segment" else 1)
        torch.testing.assert_close(
            getattr(found, points), per_sample(term, smooth_net, x, y), rtol=0, atol=1e-13
        )
    assert found.means()["segment"] == pytest.approx(found.segment.mean().item())


# -- limits and special cases ----------------------------------------------------------------------------------------


def test_the_centre_is_the_gradient_penalty(relu_net: nn.Module, batch: Any) -> None:
    relu_net, x = relu_net.double(), batch[0].double()
    for p in NORMS:
        for power, scale in ((1, 1.0), (2, 1 / 0.3)):
            threat = rr.Threat(p, 0.3, None)
            one = rr.Objective.of(Energy(threat, "centre", power))(relu_net, x, batch[1])
            other = scale * rr.Objective.of(rr.GradientNorm(threat, squared=power == 2))(
                relu_net, x, batch[1]
            )
            torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
            torch.testing.assert_close(
                gradients(one, relu_net), gradients(other, relu_net), rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize("points", ["segment", "ball", "worst"])
def test_over_a_small_radius_it_is_the_input_gradients_norm(
    points: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    threat = rr.Threat("l2", 1e-7, None)
    found = per_sample(Energy(threat, points), smooth_net, *double_batch) / 1e-7
    expected = per_sample(Energy(rr.Threat("l2", 1.0, None), "centre"), smooth_net, *double_batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_without_labels_it_is_half_the_curvature_over_a_small_radius(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, eps = double_batch[0], 1e-4
    threat = rr.Threat("l2", eps, None)
    found = per_sample(Energy(threat, divergence="kl"), smooth_net, x, None) / eps**2
    point = Virtual(threat, mode="batch")
    at = rr.Probe(smooth_net, x, None, stream=Stream(torch.initial_seed(), 0)).at(point)
    for i in range(len(x)):
        sample = x[i : i + 1]
        h = hessian(
            lambda u, s=sample: numerics.kl(smooth_net(s), smooth_net(s + u.reshape(s.shape)))[0],
            torch.zeros(16).double(),
        )
        d = (at[i] - x[i]).flatten() / eps
        assert found[i].item() == pytest.approx(0.5 * (h @ d).norm().item(), rel=1e-3)


@pytest.mark.parametrize("divergence", ["ce", "kl"])
def test_weight_zero_is_plain_training_bit_for_bit(
    divergence: str, restless_net: nn.Module, batch: Any
) -> None:
    plain = gradients(rr.Objective.of(rr.CrossEntropy())(restless_net, *batch, step=0), restless_net)
    logged = rr.CrossEntropy() + 0 * Energy(L2, divergence=divergence)
    assert torch.equal(gradients(logged(restless_net, *batch, step=0), restless_net), plain)


def test_radius_zero_has_energy_zero(relu_net: nn.Module, batch: Any) -> None:
    for estimator in ("double", "central"):
        for points in EVERY:
            loss = rr.Objective.of(Energy(L2.with_eps(0.0), points, estimator=estimator))(relu_net, *batch)
            assert loss.item() == 0
            assert gradients(loss, relu_net).abs().max() == 0


def test_end_points_of_the_segment(smooth_net: nn.Module, double_batch: Any) -> None:
    at_end = per_sample(Energy(L2, quadrature="end"), smooth_net, *double_batch)
    expected = rr.GradientNorm(L2, at=rr.Steepest(L2, mode="batch"), mode="batch")
    found = rr.Objective.of(expected).detailed(smooth_net, *double_batch).per_sample["gradient_norm"]
    torch.testing.assert_close(at_end, found, rtol=0, atol=1e-14)


def test_clipped_points_stay_in_the_box_and_the_segment_gets_shorter(relu_net: nn.Module, batch: Any) -> None:
    x, y = (batch[0] - 0.2) / 0.6, batch[1]
    threat = rr.Threat("linf", 0.3)
    for points in EVERY:
        for divergence in ("ce", "kl") if points != "centre" else ("ce",):
            term = Energy(
                threat, points, divergence=divergence, samples=2 if points in ("segment", "ball") else 1
            )
            for point in dataclasses.replace(term, clip="box").around(threat):
                z = point(relu_net, x, y)
                assert z.min() >= 0
                assert z.max() <= 1
                assert (z != x).any() == (points != "centre")
    edge = torch.ones(1, 1, 4, 4)
    pushed = rr.Threat("linf", 0.3)
    assert per_sample(
        Energy(pushed, clip="box", end=rr.Steepest(pushed, clip="box")), relu_net, edge, y[:1]
    ) <= (per_sample(Energy(pushed, clip="none"), relu_net, edge, y[:1]))


# -- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["ce", "kl"])
@pytest.mark.parametrize("power", [1, 2])
def test_the_loss_and_its_gradient_are_what_one_would_write_by_hand(
    divergence: str, power: int, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    term = Energy(L2, "segment", power, divergence, samples=3)
    loss = rr.Objective.of(term)(smooth_net, x, None if divergence == "kl" else y, step=0)

    reference = smooth_net(x).detach()
    of = (
        (lambda u: numerics.kl(reference, smooth_net(u)))
        if divergence == "kl"
        else (lambda u: F.cross_entropy(smooth_net(u), y, reduction="none"))
    )

    def slope(at: Tensor, **options: Any) -> Tensor:
        u = at.detach().requires_grad_()
        return torch.autograd.grad(of(u).sum(), u, **options)[0]

    def unit(g: Tensor) -> Tensor:
        return g / g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)

    if divergence == "kl":
        d = torch.randn(
            x.shape,
            generator=Stream(torch.initial_seed(), 0).generator("cpu", "draw", Virtual(L2, mode="batch").key),
            dtype=x.dtype,
        )
        r = 0.3 * unit(slope(x + 1e-6 * unit(d)))
    else:
        r = 0.3 * unit(slope(x))
    norms = [slope(x + t * r, create_graph=True).flatten(1).norm(dim=1) for t in (1 / 6, 3 / 6, 5 / 6)]
    expected = 0.3 * torch.stack([n**power for n in norms]).mean(0).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("points", ["ball", "segment", "worst"])
@pytest.mark.parametrize("power", [1, 2])
def test_gradcheck_where_the_points_do_not_move(
    points: Any, power: int, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch[0][:2], double_batch[1][:2]
    end = None if points == "ball" else rr.Uniform(L2, clip="none")
    objective = rr.Objective.of(Energy(L2, points, power, samples=1 if points == "worst" else 2, end=end))
    names = [n for n, _ in smooth_net.named_parameters()]

    def of(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return objective(lambda u: functional_call(smooth_net, state, (u,)), x, y, step=0)

    assert torch.autograd.gradcheck(of, tuple(p.detach().requires_grad_() for p in smooth_net.parameters()))


@pytest.mark.parametrize("divergence", ["ce", "kl"])
@pytest.mark.parametrize("points", ["segment", "ball", "worst"])
def test_the_central_difference_is_off_by_the_square_of_its_step(
    divergence: str, points: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    threat = rr.Threat("l2", 0.5, None)

    def of(**options: Any) -> tuple[Tensor, Tensor]:
        loss = rr.Objective.of(Energy(threat, points, divergence=divergence, **options))(
            smooth_net, x, y, step=0
        )
        return loss.detach(), gradients(loss, smooth_net)

    value, gradient = of()
    errors = []
    for h in (0.4, 0.2, 0.1):
        v, g = of(estimator="central", step=h)
        errors.append((abs(v - value).item(), (g - gradient).norm().item()))
    for i in range(2):
        for coarse, fine in zip(errors[i], errors[i + 1], strict=True):
            assert coarse / fine == pytest.approx(4, rel=0.15)


def test_the_central_difference_survives_dropout(restless_net: nn.Module, batch: Any) -> None:
    net, x = restless_net.double(), batch[0].double()
    one, other = (
        rr.Objective.of(Energy(L2, estimator=e, step=1e-4))(net, x, batch[1], step=0)
        for e in ("double", "central")
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


# -- labels ----------------------------------------------------------------------------------------------------------


def test_the_divergence_without_labels_never_looks_at_them(restless_net: nn.Module, batch: Any) -> None:
    x, y = batch
    for points in ("segment", "ball", "worst"):
        objective = rr.Objective.of(Energy(L2, points, divergence="kl"))
        assert objective.entries[0][1].needs == frozenset()
        found = [
            objective(restless_net, x, labels, step=0).item()
            for labels in (None, y, 2 - y, -torch.ones_like(y))
        ]
        assert len(set(found)) == 1
        assert found[0] > 0


def test_the_supervised_energy_is_averaged_over_the_labelled(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    some = torch.where(torch.arange(6) % 2 == 0, y, -1)
    for points in EVERY:
        out = rr.Objective.of(Energy(L2, points)).detailed(relu_net, x, some, step=0)
        values = out.per_sample["energy"]
        assert (values[1::2] == 0).all()
        assert out.loss.item() == pytest.approx(values[::2].mean().item())
    assert "labels" in Energy(L2).needs
    assert Energy(divergence="kl").needs == {"threat"}
    assert "labels" in Energy(L2, divergence="kl", end=rr.FGSM(L2)).needs
    nobody = rr.Objective.of(Energy(L2))(relu_net, x, torch.full_like(y, -1))
    assert nobody.item() == 0


# -- what every term must stand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", ["segment", "worst", "centre"])
def test_a_sample_does_not_depend_on_its_company(
    points: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    term = Energy(L2, points)
    whole = per_sample(term, smooth_net, x, y)
    parts = torch.cat(
        [per_sample(term, smooth_net, x[s], y[s]) for s in (slice(0, 1), slice(1, 4), slice(4, 6))]
    )
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-13)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(
        per_sample(term, smooth_net, x[order], y[order]), whole[order], rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize(
    ("points", "divergence"), [(p, d) for p in EVERY for d in ("ce", "kl") if (p, d) != ("centre", "kl")]
)
@pytest.mark.parametrize("estimator", ["double", "central"])
def test_it_stays_finite(
    points: Any, divergence: str, scale: float, estimator: Any, relu_net: nn.Module, batch: Any
) -> None:
    with torch.no_grad():
        relu_net[-1].weight.mul_(scale)
    loss = rr.Objective.of(Energy(L2, points, divergence=divergence, estimator=estimator))(relu_net, *batch)
    assert loss.isfinite()
    assert gradients(loss, relu_net).isfinite().all()
    if scale == 0:
        assert abs(loss.item()) < 1e-6


@pytest.mark.parametrize("divergence", ["ce", "kl"])
def test_low_precision(divergence: str, relu_net: nn.Module, batch: Any) -> None:
    exact = rr.Objective.of(Energy(L2, divergence=divergence))(relu_net, *batch, step=0)
    net = relu_net.bfloat16()
    loss = rr.Objective.of(Energy(L2, divergence=divergence))(net, batch[0].bfloat16(), batch[1], step=0)
    assert loss.dtype == torch.float32
    assert gradients(loss.float(), net).isfinite().all()
    if divergence == "ce":
        assert loss.item() == pytest.approx(exact.item(), rel=0.1)


def test_only_the_clean_forward_updates_statistics(restless_net: nn.Module, batch: Any) -> None:
    objective = rr.CrossEntropy() + Energy(L2, samples=2) + Energy(L2, "worst", divergence="kl")
    objective(restless_net, *batch)
    assert restless_net[1].num_batches_tracked == 1


def test_the_diagnostics_leave_no_trace(
    restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    before = snapshot(restless_net)
    with torch.inference_mode():
        found = energies(restless_net, *batch, L2)
    energies(restless_net, batch[0], None, L2, divergence="kl", mode="batch")
    assert snapshot(restless_net) == before
    assert all(v.shape == (6,) and not v.requires_grad for v in vars(found).values())
    a, b = (
        energies(restless_net, *batch, L2, generator=torch.Generator().manual_seed(s)).ball for s in (1, 2)
    )
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("term", "counts"),
    [
        (Energy(L2), (2, 1, 2, 1)),
        (Energy(L2, samples=4), (5, 4, 5, 4)),
        (Energy(L2, samples=4, estimator="central"), (13, 4, 9, 0)),
        (Energy(L2, "ball", samples=2), (3, 2, 3, 2)),
        (Energy(L2, "centre"), (1, 1, 1, 1)),
        (Energy(L2, "worst"), (3, 2, 2, 1)),
        (Energy(L2, divergence="kl"), (3, 2, 2, 1)),
        (Energy(L2, "worst", divergence="kl"), (4, 3, 2, 1)),
    ],
    ids=repr,
)
def test_the_plan_counts_the_passes(
    term: Energy, counts: tuple[int, ...], restless_net: nn.Module, batch: Any
) -> None:
    objective = rr.CrossEntropy() + term
    plan = objective.plan()
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == counts
    runs: list[int] = []
    restless_net.register_forward_hook(lambda *_: runs.append(1))
    objective(restless_net, *batch)
    assert len(runs) == plan.forwards


def test_terms_share_the_step_to_the_adversarial_point() -> None:
    alone = (rr.CrossEntropy() + Energy(L2)).plan()
    both = (rr.CrossEntropy() + Energy(L2) + rr.Perturbed(L2) + rr.GradientNorm(L2)).plan()
    assert both.forwards == alone.forwards + 1
    assert alone.joint_backwards == 1  # the step's gradient comes with that of the cross-entropy,
    assert both.input_backwards == alone.input_backwards + 1  # unless it is differentiated again


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"points": "sphere"}, "points must be 'segment', 'ball', 'worst' or 'centre', got 'sphere'"),
        ({"power": 3}, "power must be 1 or 2, got 3"),
        ({"divergence": "js"}, "loss must be one of"),
        ({"samples": 0}, "samples and iterations must be >= 1"),
        ({"points": "worst", "samples": 2}, "is one point, so samples must be 1, got 2"),
        ({"points": "centre", "divergence": "kl"}, "is always 0"),
        ({"points": "ball", "end": rr.Clean()}, "has no end to choose"),
        ({"estimator": "forward"}, "estimator must be 'double' or 'central'"),
        ({"quadrature": "simpson"}, "quadrature must be 'midpoint' or 'end'"),
        ({"step": 0.0}, "must be positive, got 0.0"),
        ({"mode": "test"}, "mode must be one of"),
        ({"clip": "ball"}, "clip must be one of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Energy(L2, **options)


def test_the_diagnostics_refuse_bad_batches(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    with pytest.raises(ValueError, match=r"energies\(\) needs labels"):
        energies(relu_net, x, None, L2)
    with pytest.raises(ValueError, match="labels must be"):
        energies(relu_net, x, y[:2], L2)
    with pytest.raises(ValueError, match="divide by 255"):
        energies(relu_net, 255 * x, y, rr.Threat("linf", 0.1))
