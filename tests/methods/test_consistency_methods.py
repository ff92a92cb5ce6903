"""TRADES, MART, ALP, ARoW, CoW, HAT, GAT, NuAT, IKL: numbers, gradients, identities, passes."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import methods
from robustreg.attacks import Guided
from robustreg.methods import card_of
from robustreg.penalties import Confidence, Consistency, TeacherCrossEntropy

T = rr.Threat("linf", 0.1)
ALL = ["alp", "arow", "gat", "hat", "ikl", "mart", "nuat", "pgd_at", "trades"]
LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))  # HAT's helper, where only its shape matters


def made(name: str, threat: rr.Threat = T, **options: Any) -> rr.Objective:
    options = {"helper": LINEAR, **options} if name == "hat" else options
    objective: rr.Objective = getattr(methods, name)(threat, **options)
    return objective


def approx(number: float) -> Any:
    return pytest.approx(number, abs=1e-6)


def as_rows(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def weight_one(probe: rr.Probe) -> Tensor:
    return torch.ones_like(probe.x[:, 0])


# -- numbers on paper -------------------------------------------------------------------------------------------------

TOTALS = [
    ("pgd_at", {}, (1.10413061 + 1.27797574) / 2),
    ("trades", {"beta": 0.0001}, 0.54393782 + 0.0001 * 0.20326582),
    ("trades", {"beta": 6}, 1.76353276),
    ("trades", {"beta": 7}, 1.96679858),
    ("trades", {"beta": 6, "smoothing": 0.2}, 1.91353276),
    ("trades", {"beta": 7, "smoothing": 0.2}, 2.11679858),
    ("arow", {}, 1.67606488),
    ("arow", {"lam": 7, "smoothing": 0.2}, 1.67606488),
    ("arow", {"lam_paper": 3.5}, 1.67606488),
    ("arow", {"lam": 6}, 1.53576101),
    ("arow", {"lam": 7, "form": "arow_ce"}, 1.52606488),
    ("arow", {"lam": 6, "form": "arow_ce"}, 1.38576101),
    ("arow", {"lam": 7, "form": "cow"}, 1.54761513),
    ("arow", {"lam": 6, "form": "cow"}, 1.42566123),
    ("mart", {"beta": 6}, 2.51967953),
    ("mart", {"beta": 5}, 2.43836758),
    ("alp", {}, 1.44562050),
    ("gat", {"boost": 1}, 2.23536766),
    ("nuat", {"ramp": 0}, 5.37163665),
]


@pytest.mark.parametrize(("name", "options", "total"), TOTALS)
def test_totals(name: str, options: dict[str, Any], total: float, fixture: Any) -> None:
    assert fixture.step(made(name, attack=fixture.attack, **options))[0] == approx(total)


def test_parts_of_arow(fixture: Any) -> None:
    at = fixture.attack
    parts = {
        "cross_entropy": [0.40760596, 0.68026967],
        "cross_entropy#2": [0.60760596, 0.78026967],
        "consistency": [0.23940136, 0.16713029],
        "confidence": [0.33149896, 0.27860069],
        "confidence#2": [0.66524096, 0.50648039],
        "consistency_by_vulnerability": [0.16004006, 0.12056767],
        "boosted_cross_entropy": [1.89477902, 2.16883673],
    }
    objective = (
        rr.CrossEntropy()
        + rr.CrossEntropy(smoothing=0.2)
        + Consistency(at)
        + Confidence(at)
        + Confidence()
        + rr.weighted(Consistency(at), by=rr.Vulnerability(at))
        + rr.penalties.BoostedCrossEntropy(at)
        + rr.weighted(Consistency(at), by=Confidence())
        + rr.weighted(Consistency(at), by=rr.Vulnerability())
    )
    found = fixture.step(objective)[3]
    for name, values in parts.items():
        assert found[name].tolist() == [approx(v) for v in values], name
    assert found["consistency_by_confidence"].mean().item() == approx(0.12195390)
    assert found["consistency_by_vulnerability#2"].mean().item() == approx(0.08131192)


GRADIENTS = [
    (
        "trades",
        {},
        [[0.74491186, -0.64330064, -0.10161122], [0.19409852, 0.40747478, -0.60157330]],
        [[-1.00122599, 0.90546275, 0.09576324], [-0.16416623, -0.68363911, 0.84780533]],
    ),
    (
        "arow",
        {},
        [[0.61079951, -0.50812482, -0.10267468], [0.14478010, 0.37053197, -0.51531207]],
        [[-0.96655994, 0.85799864, 0.10856131], [-0.11672063, -0.69293874, 0.80965937]],
    ),
]


@pytest.mark.parametrize(("name", "options", "clean", "adversarial"), GRADIENTS)
def test_gradients_with_respect_to_both_predictions(
    name: str, options: dict[str, Any], clean: Any, adversarial: Any, fixture: Any
) -> None:
    _, of_clean, of_adversarial, _ = fixture.step(made(name, attack=fixture.attack, **options))
    torch.testing.assert_close(of_clean, as_rows(clean), rtol=0, atol=1e-6)
    torch.testing.assert_close(of_adversarial, as_rows(adversarial), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("detach", "adversarial"),
    [(False, [-0.27615998, 0.24514247, 0.03101752]), (True, [-0.22310687, 0.20176760, 0.02133927])],
)
def test_arows_weight_carries_gradient_unless_it_is_detached(
    detach: bool, adversarial: list[float], fixture: Any
) -> None:
    at = fixture.attack
    term = rr.weighted(Consistency(at), by=rr.Vulnerability(at), detach=detach)
    _, of_clean, of_adversarial, _ = fixture.step(2 * rr.Objective.of(term))  # two samples: undoes the mean
    torch.testing.assert_close(of_adversarial[:1], as_rows([adversarial]), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        of_clean[:1], as_rows([[0.20328925, -0.17061592, -0.03267332]]), rtol=0, atol=1e-6
    )


def test_a_detached_reference_is_not_moved(fixture: Any) -> None:
    whole = fixture.step(rr.Objective.of(Consistency(fixture.attack)))
    half = fixture.step(rr.Objective.of(Consistency(fixture.attack, detach_reference=True)))
    assert half[0] == whole[0]
    assert not half[1].any()
    torch.testing.assert_close(half[2], whole[2], rtol=0, atol=1e-16)


def test_hat_is_trades_plus_the_helpers_labels_beyond_the_ball(fixture: Any) -> None:
    """x_h is as far again as x' (numbers 4 and 5), and the helper sees class 2 at every adversarial point."""
    asked: list[Tensor] = []

    class Helper(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            asked.append(x)
            return torch.tensor([[0.0, 0.0, 1.0]]).repeat(x.shape[0], 1)

    helper = Helper()
    objective = methods.hat(T, helper, beta=2.5, gamma=0.5, h=2.0, attack=fixture.attack)
    total, *_, values = fixture.step(objective)
    beyond = nn.functional.cross_entropy(fixture.net.logits[4:], torch.tensor([2, 2]), reduction="none")
    torch.testing.assert_close(values["teacher_cross_entropy"], beyond.detach(), rtol=0, atol=1e-14)
    assert total == approx(0.54393782 + 2.5 * 0.20326582 + 0.5 * beyond.mean().item())
    assert [z.flatten().tolist() for z in asked] == [[2, 3]]
    assert helper.training


@pytest.mark.parametrize("gamma", [1.0, 0.2])
def test_ikl_against_the_authors_pairwise_sum(gamma: float, fixture: Any) -> None:
    """At first with uniform weights, then with the class means of the step before."""
    objective = methods.ikl(T, alpha=4, beta=20, temperature=4, gamma=gamma, refresh=1, attack=fixture.attack)
    z, adv = fixture.net.logits.detach()[:2], fixture.net.logits.detach()[2:4]
    means = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    for _ in range(2):
        w = means[fixture.y].pow(gamma)
        pairs = w[:, :, None] * w[:, None, :]
        d = (z[:, :, None] - z[:, None, :]) - (adv[:, :, None] - adv[:, None, :])
        gap = 0.25 * (d.square() * pairs).sum() / pairs.sum()
        soft = -(z.softmax(1) * adv.log_softmax(1)).sum(1).mean()
        expected = 0.54393782 + 4 * soft + 20 * gap
        assert fixture.step(objective)[0] == approx(expected.item())
        means[:2] = (z / 4).softmax(1)


def test_alp_as_in_its_authors_code(double_batch: Any) -> None:
    """One forward for both halves, smoothed labels, and the mean squared error of the logits."""
    x, y = double_batch
    layers = [nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]
    net, attack = nn.Sequential(*layers).double(), rr.FGSM(T)
    by_hand = copy.deepcopy(net)
    objective = methods.alp(T, 0.5, smoothing=0.1, average=True, joint=True, attack=attack)
    loss = objective(net, x, y, step=0)
    assert net[2].num_batches_tracked == 1
    logits = by_hand(torch.cat([x, attack(by_hand, x, y)]))
    entropy = nn.functional.cross_entropy(logits, torch.cat([y, y]), label_smoothing=0.1)
    expected = entropy + 0.5 * nn.functional.mse_loss(*logits.chunk(2))
    torch.testing.assert_close(loss, expected)
    found, wanted = (
        torch.autograd.grad(v, list(n.parameters())) for v, n in ((loss, net), (expected, by_hand))
    )
    torch.testing.assert_close(found, wanted)


# -- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "total"), [("arow", 0.69393782), ("cow", 0.69393782), ("arow_ce", 0.54393782)]
)
def test_where_nothing_moves_only_the_classification_loss_is_left(
    form: str, total: float, fixture: Any
) -> None:
    assert fixture.step(methods.arow(T, form=form, attack=rr.Clean()))[0] == approx(total)


@pytest.mark.parametrize("name", ["trades", "alp", "gat", "nuat"])
def test_regularisers_vanish_where_nothing_moves(name: str, fixture: Any) -> None:
    options = {"gat": {"boost": 1}, "nuat": {"ramp": 0}}.get(name, {})
    total, clean, *_ = fixture.step(made(name, attack=rr.Clean(), **options))
    plain = fixture.step(rr.Objective.of(rr.CrossEntropy()))
    assert total == pytest.approx(plain[0], abs=1e-15)
    torch.testing.assert_close(clean, plain[1], rtol=0, atol=1e-15)


def test_mart_keeps_its_boosted_loss_where_nothing_moves(fixture: Any) -> None:
    total = fixture.step(methods.mart(T, attack=rr.Clean()))[0]
    boosted = fixture.step(rr.Objective.of(rr.penalties.BoostedCrossEntropy()))[0]
    assert total == pytest.approx(boosted, abs=1e-15)
    assert total > fixture.step(rr.Objective.of(rr.CrossEntropy()))[0] + 0.1


def test_weights_of_one_give_trades(fixture: Any) -> None:
    at = fixture.attack
    term = rr.weighted(Consistency(at), by=weight_one)
    trades = fixture.step(methods.trades(T, 7.0, attack=at))
    ours = fixture.step(rr.CrossEntropy() + 7.0 * term)
    assert ours[0] == trades[0]
    smoothed = fixture.step(methods.trades(T, 7.0, 0.2, attack=at))
    assert fixture.step(rr.CrossEntropy(smoothing=0.2) + 7.0 * term)[0] == smoothed[0]


def test_arow_without_smoothing_is_arow_ce(fixture: Any) -> None:
    one = methods.arow(T, 7.0, 0.0, attack=fixture.attack)
    assert one.entries == methods.arow(T, 7.0, form="arow_ce", attack=fixture.attack).entries


def test_complementary_weights_add_up_to_trades(fixture: Any) -> None:
    at = fixture.attack

    def values(by: rr.Term) -> Tensor:
        (value,) = fixture.step(rr.Objective.of(rr.weighted(Consistency(at), by=by)))[3].values()
        return value

    trades = fixture.step(rr.Objective.of(Consistency(at)))[3]["consistency"]
    arow, against = values(rr.Vulnerability(at)), values(Confidence(at))
    mart, cow = values(rr.Vulnerability()), values(Confidence())
    torch.testing.assert_close(arow + against, trades, rtol=0, atol=1e-15)
    torch.testing.assert_close(mart + cow, trades, rtol=0, atol=1e-15)
    assert (arow <= trades).all()


def test_label_smoothing_adds_the_mean_margin() -> None:
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(5, 4, generator=g, dtype=torch.float64), torch.arange(5) % 4
    gap = rr.numerics.cross_entropy(z, y, 0.3) - rr.numerics.cross_entropy(z, y)
    own = z.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(gap, 0.3 * (own - z.mean(1)), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("a", "classes", "gap"), [(0.2, 10, 3.71357207), (0.3, 2, math.log(0.85 / 0.15))])
def test_the_smoothed_loss_is_least_at_a_finite_gap(a: float, classes: int, gap: float) -> None:
    z = torch.zeros(1, classes, dtype=torch.float64)
    z[0, 0] = gap
    z.requires_grad_()
    rr.numerics.cross_entropy(z, torch.tensor([0]), a).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-8


# -- whole steps ------------------------------------------------------------------------------------------------------


def test_what_the_attacks_are() -> None:
    def attack(objective: rr.Objective) -> Any:
        return next(t.adversary for _, t in objective.entries if isinstance(t, Consistency))

    noisy = rr.PGD(T, 10, 0.025, start=rr.Gaussian(0.001))
    assert attack(methods.trades(T)) == dataclasses.replace(noisy, loss="kl")
    assert attack(methods.hat(T, LINEAR)) == dataclasses.replace(noisy, loss="kl")
    assert attack(methods.ikl(T)) == dataclasses.replace(noisy, loss="kl")
    assert methods.mart(T).entries[0][1].at == noisy  # type: ignore[attr-defined]
    assert methods.arow(T).entries[1][1].term.adversary == rr.PGD(T, 10, 0.025, loss="kl")  # type: ignore[attr-defined]
    assert methods.pgd_at(T).entries[0][1].at == rr.PGD(T, 10, 0.025)  # type: ignore[attr-defined]
    assert attack(methods.gat(T)).loss == Guided("squared_probabilities", 10.0, odd=True)
    assert attack(methods.nuat(T)).loss == Guided("nuclear", rr.Ramp(0.0, 4.5, 0.9), odd=True)
    assert attack(methods.nuat(T)).step_size == T.eps


COUNTS = {  # forwards, input backwards, parameter backwards, double backwards
    "pgd_at": (11, 10, 1, 0),
    "trades": (13, 10, 2, 0),
    "mart": (12, 10, 2, 0),
    "alp": (12, 10, 2, 0),
    "hat": (14, 10, 3, 0),
    "arow": (13, 10, 2, 0),
    "gat": (3, 1, 2, 0),
    "nuat": (3, 1, 2, 0),
    "ikl": (13, 10, 2, 0),
}


@pytest.mark.parametrize("name", ALL)
def test_a_step_makes_the_passes_of_its_plan(name: str, restless_net: nn.Module, batch: Any) -> None:
    objective = made(name)
    plan = objective.plan()
    assert (
        plan.forwards,
        plan.input_backwards,
        plan.parameter_backwards,
        plan.double_backwards,
    ) == COUNTS[name]
    runs: list[bool] = []
    restless_net.register_forward_hook(lambda net, *_: runs.append(net.training))
    for step in range(3):
        runs.clear()
        objective(restless_net, *batch, step=step, progress=0.5)
        assert len(runs) == plan.forwards, step
        assert sum(runs) == plan.parameter_backwards  # one training forward for each prediction in the loss


@pytest.mark.parametrize("name", ALL)
def test_a_step_leaves_everything_else_alone(
    name: str, restless_net: nn.Module, batch: Any, snapshot: Callable[..., dict[str, Any]]
) -> None:
    before = snapshot(restless_net, buffers=False)
    made(name)(restless_net, *batch, step=1, progress=0.5)
    assert snapshot(restless_net, buffers=False) == before


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("nuat", "ikl")])
def test_samples_do_not_see_each_other(name: str, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch

    def values(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        objective = made(name, attack=rr.PGD(T, 3, start=rr.Clean()))
        return objective.detailed(smooth_net, x, y, step=0, progress=0.5).per_sample

    whole, parts = values(x, y), [values(x[:2], y[:2]), values(x[2:], y[2:])]
    for term, value in whole.items():
        torch.testing.assert_close(value, torch.cat([p[term] for p in parts]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_finite_where_the_network_is_certain(name: str, smooth_net: nn.Module, batch: Any) -> None:
    x, y = batch
    net = smooth_net.float()
    with torch.no_grad():
        net[-1].weight.mul_(1e5)  # type: ignore[index,union-attr]
    loss = made(name)(net, x, y, step=1, progress=0.5)
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ALL)
def test_bf16(name: str, relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    with torch.autocast("cpu", torch.bfloat16):
        loss = made(name)(relu_net, x, y, step=1, progress=0.5)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in relu_net.parameters())


@pytest.mark.parametrize("name", ["trades", "arow"])
def test_unlabelled_samples(name: str, smooth_net: nn.Module, double_batch: Any) -> None:
    """TRADES' divergence needs no labels and is averaged over everyone; ARoW's weight does."""
    x, y = double_batch
    some = y.clone()
    some[3:] = -1
    at = rr.FGSM(T, loss="ce", start=rr.Clean())
    found = made(name, attack=rr.Uniform(T, clip="none")).detailed(smooth_net, x, some, step=0)
    full = made(name, attack=rr.Uniform(T, clip="none")).detailed(smooth_net, x, y, step=0)
    reg = "consistency" if name == "trades" else "consistency_by_vulnerability"
    expected = full.per_sample[reg].mean() if name == "trades" else full.per_sample[reg][:3].mean()
    torch.testing.assert_close(found.values[reg], expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(found.values["cross_entropy"], full.per_sample["cross_entropy"][:3].mean())
    assert "labels" in Consistency(at).needs
    assert "labels" not in Consistency(rr.Uniform(T)).needs


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_any_norm(name: str, norm: float, relu_net: nn.Module, batch: Any) -> None:
    loss = made(name, rr.Threat(norm, 0.5))(relu_net, *batch, step=1, progress=0.5)
    assert loss.isfinite()


@pytest.mark.parametrize("name", ALL)
def test_no_radius_is_no_adversary(name: str, smooth_net: nn.Module, double_batch: Any) -> None:
    objective = made(name, rr.Threat("linf", 0.0))
    assert objective(smooth_net, *double_batch, step=1, progress=0.5).isfinite()


# -- schedules --------------------------------------------------------------------------------------------------------


def test_gats_weight_is_raised_late() -> None:
    weights = [methods.gat(T).weights_at(p)["consistency"] for p in (0.0, 0.85, 0.86, 1.0)]
    assert weights == [10, 10, 40, 40]
    assert methods.gat(T, 15, boost=1).weights_at(None)["consistency"] == 15


def test_nuats_weight_ramps() -> None:
    weights = [methods.nuat(T).weights_at(p)["consistency"] for p in (0.0, 0.45, 0.9, 1.0)]
    assert weights == [0, pytest.approx(2.25), 4.5, 4.5]
    assert methods.nuat(T, ramp=0).weights_at(None)["consistency"] == 4.5


# -- what is refused --------------------------------------------------------------------------------------------------


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="give lam or lam_paper"):
        methods.arow(T, 7.0, lam_paper=3.5)
    with pytest.raises(ValueError, match="'arow_ce' has no label smoothing"):
        methods.arow(T, smoothing=0.2, form="arow_ce")
    with pytest.raises(ValueError, match="form must be 'arow', 'arow_ce' or 'cow', got 'coww'"):
        methods.arow(T, form="coww")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form must be 'nuat' or 'nuat2'"):
        methods.nuat(T, form="nuat3")  # type: ignore[arg-type]


def test_hat_without_a_helper_is_refused_before_anything_is_learnt(relu_net: nn.Module, batch: Any) -> None:
    objective = methods.hat(T)
    assert objective.plan().forwards == 14  # it can be looked at
    with pytest.raises(ValueError, match="needs its teacher: pass a trained network"):
        objective(relu_net, *batch)
    with pytest.raises(ValueError, match=r"must be a network \(torch.nn.Module\), got 'runs/plain'"):
        methods.hat(T, "runs/plain")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the teacher must have the network's 3 classes"):
        methods.hat(T, nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))(relu_net, *batch)


def test_a_missing_adversary_is_a_sentence(relu_net: nn.Module, batch: Any) -> None:
    with pytest.raises(ValueError, match="the term consistency needs an adversary"):
        rr.Objective.of(Consistency())(relu_net, *batch)


# -- cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_method_has_a_card_on_one_page(name: str) -> None:
    card = card_of(getattr(methods, name))
    assert card.name == name
    assert card.equations
    assert card.settings
    assert card.changes
    for heading in (card.citation, "Equations", "Hyperparameters", "What is ours, and why"):
        assert heading in str(card)


def test_the_teacher_term_is_shown_without_its_network() -> None:
    assert "Linear" not in repr(TeacherCrossEntropy(LINEAR))
