"""ADR, ReBAT, SRST-AWR and its baselines, GAIRAT, the growing attack of IKL: numbers, limits, identities, passes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import methods
from robustreg.attacks import Grown, Staged
from robustreg.methods import card_of
from robustreg.penalties import Distillation, Rectified, WeightAverage

T = rr.Threat("linf", 0.1)
HIDDEN = torch.tensor([0, 1, 2, -1, -1, -1])

NAMES = ["adr", "gair", "rebat", "rst", "srst_awr", "uat"]
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "adr": ("adr", {}),
    "adr trades": ("adr", {"base": "trades"}),
    "gair": ("gair", {}),
    "rebat": ("rebat", {}),
    "rebat++": ("rebat", {"form": "rebat++"}),
    "rst": ("rst", {}),
    "srst_awr": ("srst_awr", {}),
    "srst_awr ce": ("srst_awr", {"loss": "ce"}),
    "semi_trades": ("srst_awr", {"form": "semi_trades"}),
    "awr": ("srst_awr", {"form": "awr"}),
    "uat_ft": ("uat", {"form": "uat_ft"}),
    "uat++": ("uat", {}),
    "ikl growing": ("ikl", {"growing": True}),
}


def made(form: str, threat: rr.Threat = T, **options: Any) -> rr.Objective:
    name, own = FORMS[form]
    if name in ("rst", "srst_awr", "uat"):
        own = {"teacher": WeightAverage(), **own}
    objective: rr.Objective = getattr(methods, name)(threat, **{**own, **options})
    return objective


def approx(number: float) -> Any:
    return pytest.approx(number, abs=1e-6)


class Seen(nn.Module):
    """A teacher for the fixture, whose samples are numbers: its logits by number."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits[x.flatten().round().long()]  # type: ignore[index]
        return logits


TEACHER = Seen([[0.0, 1.0, 0.5], [0.2, 0.9, -0.3], [1.0, 0.0, 0.5], [0.1, 0.1, 1.5]])
P = TEACHER.logits.softmax(1)  # type: ignore[operator,union-attr]
CLEAN = torch.tensor([[2, 1, 0], [0, 1, 0.5]], dtype=torch.float64).softmax(1)
ATTACKED = torch.tensor([[1, 1.5, 0], [-0.5, 0.25, 1]], dtype=torch.float64).softmax(1)
KL = (CLEAN * (CLEAN / ATTACKED).log()).sum(1)


# -- numbers on paper --------------------------------------------------------------------------------------------------


def test_srst_awr_on_paper(fixture: Any) -> None:
    """The second sample has no label; teacher and student are asked at both."""
    w = 0.3 * (P[:2] * CLEAN).sum(1) + 0.7 * (1 - (P[:2] * ATTACKED).sum(1))
    soft_t = (TEACHER.logits[:2] / 1.2).softmax(1)  # type: ignore[index,operator]
    soft_p = (CLEAN.log() / 1.2).softmax(1)
    distilled = (soft_t * (soft_t / soft_p).log()).sum(1).mean()
    smoothed = 0.60760596
    objective = methods.srst_awr(T, TEACHER, 20.0, 4.0, 0.3, attack=fixture.attack)
    out = objective.detailed(fixture.net, fixture.x, torch.tensor([0, -1]), step=0)
    assert out.loss.item() == approx(smoothed + 4 * distilled.item() + 20 * (w * KL).mean().item())
    plain = methods.srst_awr(T, TEACHER, 20.0, 4.0, form="semi_trades", attack=fixture.attack)
    out = plain.detailed(fixture.net, fixture.x, torch.tensor([0, -1]), step=0)
    assert out.loss.item() == approx(0.40760596 + 4 * distilled.item() + 20 * KL.mean().item())


def test_its_baselines_on_paper(fixture: Any) -> None:
    """The label of the first sample is 0; the teacher sees class 1 at the second."""
    y, at = torch.tensor([0, -1]), fixture.attack
    ce, ce_attacked = (-p[[0, 1], [0, 1]].log().mean().item() for p in (CLEAN, ATTACKED))

    def total(objective: rr.Objective) -> float:
        return objective(fixture.net, fixture.x, y, step=0).item()

    assert total(methods.rst(T, TEACHER, 6.0, attack=at)) == approx(ce + 6 * KL.mean().item())
    assert total(methods.uat(T, TEACHER, form="uat_ft", attack=at)) == approx(ce_attacked)
    assert total(methods.uat(T, TEACHER, 5.0, attack=at)) == approx(ce_attacked + 5 * KL.mean().item())
    w = 0.3 * (P[:2] * CLEAN).sum(1) + 0.7 * (1 - (P[2:] * ATTACKED).sum(1))
    awr = methods.srst_awr(T, TEACHER, 20.0, beta=0.3, form="awr", attack=at)
    assert total(awr) == approx((0.60760596 + 0.78026967) / 2 + 20 * (w * KL).mean().item())


def test_only_uat_holds_the_clean_side(fixture: Any) -> None:
    for objective, moves in (
        (methods.uat(T, TEACHER, 5.0, attack=fixture.attack), False),
        (methods.rst(T, TEACHER, 5.0, attack=fixture.attack), True),
    ):
        assert bool(fixture.step(objective)[1].any()) == moves


def test_adr_on_paper(fixture: Any) -> None:
    """At first the average is the network itself: at T = 2, the first sample's target is near its label."""
    soft = (CLEAN.log() / 2.0).softmax(1)
    y = torch.tensor([0, 0])  # the second label is not what the average sees
    m = torch.tensor([0.8, 0.8 - float(soft[1].max() - soft[1, 0])], dtype=torch.float64).unsqueeze(1)
    target = m * soft + (1 - m) * torch.tensor([[1.0, 0, 0], [1, 0, 0]]).double()
    for base, q, beta in (("pgd_at", ATTACKED, 0.0), ("trades", CLEAN, 6.0)):
        objective = methods.adr(T, base, 2.0, 0.8, attack=fixture.attack)  # type: ignore[arg-type]
        found = objective(fixture.net, fixture.x, y, step=0).item()
        assert found == approx((-(target * q.log()).sum(1).mean() + beta * KL.mean()).item())


def test_rebat_on_paper(fixture: Any) -> None:
    """Until ``since`` it is PGD training; after it, near the average, which is the last step's network at first."""
    objective = methods.rebat(T, 2.0, decay=0.5, attack=fixture.attack)
    plain = (1.10413061 + 1.27797574) / 2
    assert objective(fixture.net, fixture.x, fixture.y, progress=0.5).item() == approx(plain)
    with torch.no_grad():
        fixture.net.logits[2:4].mul_(2.0)
    q = (2 * ATTACKED.log()).softmax(1)
    expected = -q[[0, 1], [0, 1]].log().mean() + 2 * (ATTACKED * (ATTACKED / q).log()).sum(1).mean()
    assert objective(fixture.net, fixture.x, fixture.y, progress=0.6).item() == approx(expected.item())


# -- limits and identities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "form"), [(0.0, "arow"), (1.0, "cow")])
def test_with_all_labels_and_a_certain_teacher_srst_awr_is_arow_and_cow(
    beta: float, form: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch

    class Knowing(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            return -1e4 * (1 - nn.functional.one_hot(y, 3).double())

    options: dict[str, Any] = {"attack": rr.PGD(T, 2, start=rr.FGSM(T), loss="kl")}
    ours = methods.srst_awr(T, Knowing(), 7.0, 0.0, beta, smoothing=0.2, **options)
    theirs = methods.arow(T, 7.0, 0.2, form, **options)
    losses = [objective(smooth_net, x, y, step=0) for objective in (ours, theirs)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-14)
    for a, b in zip(
        *(torch.autograd.grad(loss, list(smooth_net.parameters())) for loss in losses), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_with_all_labels_rst_is_trades_and_uat_is_pgd_training(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    teacher = copy.deepcopy(smooth_net)
    pairs = (
        (methods.rst(T, teacher, 6.0), methods.trades(T, 6.0)),
        (methods.uat(T, teacher, form="uat_ft"), methods.pgd_at(T)),
        (
            methods.srst_awr(T, teacher, 6.0, 0.0, form="semi_trades", attack=rr.FGSM(T)),
            methods.trades(T, attack=rr.FGSM(T)),
        ),
    )
    for ours, theirs in pairs:
        assert ours(smooth_net, *double_batch, step=3) == theirs(smooth_net, *double_batch, step=3)


def test_without_the_average_adr_is_its_base(smooth_net: nn.Module, double_batch: Any) -> None:
    for base, plain in (("pgd_at", methods.pgd_at(T)), ("trades", methods.trades(T))):
        ours = methods.adr(T, base, 1.0, 0.0)(smooth_net, *double_batch, step=3)  # type: ignore[arg-type]
        torch.testing.assert_close(ours, plain(smooth_net, *double_batch, step=3), rtol=0, atol=1e-14)


def test_gair_is_pgd_training_until_its_burn_in_ends(smooth_net: nn.Module, double_batch: Any) -> None:
    torch.manual_seed(0)  # whether samples flip at different steps depends on where they start
    attack = rr.PGD(rr.Threat("linf", 0.5), 10, 0.05)
    plain = methods.pgd_at(T, attack=attack)(smooth_net, *double_batch, step=1).item()
    objective = methods.gair(T, attack=attack)
    assert objective(smooth_net, *double_batch, step=1, progress=0.49).item() == pytest.approx(
        plain, abs=1e-14
    )
    assert abs(objective(smooth_net, *double_batch, step=1, progress=0.5).item() - plain) > 1e-6
    equal = methods.gair(T, math.inf, 0.0, attack=attack)
    assert equal(smooth_net, *double_batch, step=1).item() == pytest.approx(plain, abs=1e-14)


def test_the_grown_ikl_ends_where_the_constant_one_is(smooth_net: nn.Module, double_batch: Any) -> None:
    grown = methods.ikl(T, growing=True)
    constant = methods.ikl(T, steps=5, step_size=0.05)
    assert grown(smooth_net, *double_batch, step=2, progress=1.0) == constant(
        smooth_net, *double_batch, step=2
    )
    half = methods.ikl(T.with_eps(0.05), steps=4, step_size=0.025)
    assert grown(smooth_net, *double_batch, step=2, progress=0.5) == half(smooth_net, *double_batch, step=2)
    assert [grown.plan().forwards, methods.ikl(T).plan().forwards] == [7, 13]


# -- whole steps -------------------------------------------------------------------------------------------------------


def test_what_the_attacks_are() -> None:
    adr = methods.adr(T).entries[0][1]
    assert adr.at.loss == adr.loss  # type: ignore[attr-defined]
    assert isinstance(adr.loss, Rectified)  # type: ignore[attr-defined]
    rebat = methods.rebat(T).entries[0][1].at  # type: ignore[attr-defined]
    assert rebat == rr.PGD(T, 10, 0.025)
    strong = rr.PGD(T.with_eps(0.125), 12, 0.025)
    assert methods.rebat(T, form="rebat++").entries[0][1].at == Staged((rebat, strong), (0.5,))  # type: ignore[attr-defined]
    assert methods.srst_awr(T).entries[2][1].term.adversary == rr.PGD(T, 10, 0.025, loss="kl")  # type: ignore[attr-defined]
    climbed = methods.srst_awr(T, TEACHER, loss="ce").entries[2][1].term.adversary.loss  # type: ignore[attr-defined]
    assert (climbed.loss, climbed.keep) == ("ce", False)
    assert methods.gair(T).entries[0][1].by.adversary == rr.PGD(T, 10, 0.025)  # type: ignore[attr-defined]
    ikl = methods.ikl(T, growing=True).entries[1][1].adversary  # type: ignore[attr-defined]
    assert isinstance(ikl, Grown)
    sizes = [(p.steps, pytest.approx(p.step_size)) for p in ikl.full.points]  # type: ignore[attr-defined]
    assert sizes == [(2, 0.1), (3, 0.2 / 3), (4, 0.05), (5, 0.05)]


COUNTS = {  # forwards, teacher forwards, input backwards, parameter backwards
    "adr": (11, 1, 10, 1),
    "adr trades": (13, 1, 10, 2),
    "gair": (11, 0, 10, 1),
    "rebat": (11, 1, 10, 1),
    "rebat++": (13, 1, 12, 1),
    "rst": (13, 1, 10, 2),
    "srst_awr": (13, 1, 10, 2),
    "srst_awr ce": (12, 1, 10, 2),
    "semi_trades": (13, 1, 10, 2),
    "awr": (13, 2, 10, 2),
    "uat_ft": (11, 1, 10, 1),
    "uat++": (12, 1, 10, 1),
    "ikl growing": (7, 0, 4, 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_step_makes_the_passes_of_its_plan(form: str, restless_net: nn.Module, batch: Any) -> None:
    """At half of training. The average of the weights keeps the hook that counts."""
    objective, (x, y) = made(form), batch
    plan = objective.plan()
    found = (plan.forwards, plan.teacher_forwards, plan.input_backwards, plan.parameter_backwards)
    assert found == COUNTS[form]
    assert plan.double_backwards == 0
    runs: list[bool] = []
    restless_net.register_forward_hook(lambda net, *_: runs.append(net.training))
    for step in range(3):
        runs.clear()
        objective(restless_net, x, y, step=step, progress=0.5)
        assert len(runs) == plan.forwards + plan.teacher_forwards, step
        constant = form == "uat++"  # its clean prediction is run in training mode, and held
        assert sum(runs) == plan.parameter_backwards + constant


@pytest.mark.parametrize("form", FORMS)
def test_a_step_leaves_everything_else_alone(
    form: str, restless_net: nn.Module, batch: Any, snapshot: Callable[..., dict[str, Any]]
) -> None:
    before = snapshot(restless_net, buffers=False)
    objective = made(form)
    for step in range(2):
        objective(restless_net, *batch, step=step, progress=0.6)
    assert snapshot(restless_net, buffers=False) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_any_norm_and_no_radius(form: str, norm: float, relu_net: nn.Module, batch: Any) -> None:
    assert made(form, rr.Threat(norm, 0.5))(relu_net, *batch, step=1, progress=0.6).isfinite()
    assert made(form, rr.Threat("linf", 0.0))(relu_net, *batch, step=1, progress=0.0).isfinite()


@pytest.mark.parametrize("form", FORMS)
def test_bf16_and_a_certain_network(form: str, relu_net: nn.Module, batch: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = made(form)(relu_net, *batch, step=1, progress=0.6)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in relu_net.parameters())
    with torch.no_grad():
        relu_net[-1].weight.mul_(1e5)  # type: ignore[index,operator,union-attr]
    made(form)(relu_net, *batch, step=1, progress=0.6).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in relu_net.parameters())


@pytest.mark.parametrize("form", ["rst", "srst_awr", "srst_awr ce", "semi_trades", "awr", "uat_ft", "uat++"])
def test_labels_that_are_not_there(form: str, smooth_net: nn.Module, double_batch: Any) -> None:
    """Every sample counts in what needs no label; those without one do not in the labelled loss."""
    x, y = double_batch
    attack = rr.Uniform(T, clip="none")
    teacher = copy.deepcopy(smooth_net)
    objective = made(form, teacher=teacher, attack=attack)
    some, full = (objective.detailed(smooth_net, x, labels, step=0) for labels in (HIDDEN, y))
    for name, values in some.per_sample.items():
        labelled = name == "cross_entropy"
        expected = full.per_sample[name][:3] if labelled else values
        torch.testing.assert_close(some.values[name], expected.mean(), rtol=0, atol=1e-14)
    unlabelled = objective(smooth_net, x, torch.full_like(y, -1), step=0)
    assert unlabelled.isfinite()


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_is_resumed_has_the_same_bits(form: str, smooth_net: nn.Module, double_batch: Any) -> None:
    def run(net: nn.Module, objective: rr.Objective, steps: range) -> None:
        for step in steps:
            net.zero_grad()
            objective(net, *double_batch, step=step, progress=step / 6).backward()
            with torch.no_grad():
                for p in net.parameters():
                    p.sub_(0.5 * p.grad)  # type: ignore[arg-type]

    whole, first = copy.deepcopy(smooth_net), copy.deepcopy(smooth_net)
    run(whole, made(form), range(6))
    objective, resumed = made(form), made(form)
    run(first, objective, range(4))
    resumed.load_state_dict(objective.state_dict())
    run(first, resumed, range(4, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), first.parameters(), strict=True))


# -- learning ----------------------------------------------------------------------------------------------------------


def dots(n: int = 60) -> tuple[Tensor, Tensor]:
    """Two classes in the plane, apart by more than the threat is wide."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = (
        0.5
        + torch.where(y[:, None] == 0, -0.2, 0.2) * torch.ones(n, 2)
        + 0.05 * torch.randn(n, 2, generator=g)
    )
    return x.clamp(0, 1), y


@pytest.mark.parametrize("form", FORMS)
def test_it_learns_to_be_robust(form: str) -> None:
    """Those that take a teacher from ten labels, with one that was trained on them alone."""
    x, y = dots()
    some = torch.where(torch.arange(60) < 10, y, -1)
    if FORMS[form][0] in ("rst", "srst_awr", "uat"):
        net = learnt(made(form, teacher=learnt(rr.Objective.of(rr.CrossEntropy()), x, some)), x, some)
    else:
        net = learnt(made(form, decay=0.9) if "adr" in form else made(form), x, y)  # sixty steps are few
    attacked = rr.PGD(T, 10)(net, x, y)
    assert (net(attacked).argmax(1) == y).float().mean() >= 0.95


def learnt(objective: rr.Objective, x: Tensor, y: Tensor) -> nn.Module:
    """A small network after sixty steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    module = rr.ObjectiveModule(net, objective, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for step in range(60):
        optimizer.zero_grad()
        module(x, y, step=step, progress=step / 60).backward()
        optimizer.step()
    return net


def test_a_term_with_an_average_is_there_for_any_objective(smooth_net: nn.Module, double_batch: Any) -> None:
    """ADR's labels under ARoW's regulariser."""
    from robustreg.penalties import Consistency

    attack = rr.PGD(T, 2, loss="kl")
    mine = rr.LossAt(loss=Rectified()) + 7.0 * rr.weighted(Consistency(attack), by=rr.Vulnerability(attack))
    for step in range(2):
        assert mine(smooth_net, *double_batch, step=step, progress=0.5).isfinite()


# -- what is refused, and cards ----------------------------------------------------------------------------------------


def test_forms_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="base must be 'pgd_at' or 'trades', got 'mart'"):
        methods.adr(T, "mart")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"form must be 'rebat' or 'rebat\+\+'"):
        methods.rebat(T, form="rebat+")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form must be 'srst_awr', 'semi_trades' or 'awr'"):
        methods.srst_awr(T, form="rst")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the form 'semi_trades' has no label smoothing"):
        methods.srst_awr(T, smoothing=0.1, form="semi_trades")
    with pytest.raises(ValueError, match=r"form must be 'uat_ft' or 'uat\+\+'"):
        methods.uat(T, form="uat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a network \(torch.nn.Module\), got 'runs/plain'"):
        methods.srst_awr(T, "runs/plain")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_card(name: str) -> None:
    card = card_of(getattr(methods, name))
    assert card.name == name
    assert card.equations
    assert card.published
    assert card.changes
    assert "What is ours, and why" in str(card)


def test_gairs_card_warns_of_masking() -> None:
    assert "mask gradients" in card_of(methods.gair).changes[0]


def test_an_average_belongs_to_one_objective() -> None:
    one, other = methods.adr(T).entries[0][1], methods.adr(T).entries[0][1]
    assert one != other
    assert repr(one) == repr(other)
    assert "WeightAverage" not in repr(Distillation(TEACHER))
