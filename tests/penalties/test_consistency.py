"""The consistency term on networks, and those beside it: confidence, boosted loss, teacher, class-weighted gap."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

import robustreg as rr
from robustreg import discrepancies, numerics
from robustreg.penalties import (
    BoostedCrossEntropy,
    ClassWeightedGap,
    Confidence,
    Consistency,
    TeacherCrossEntropy,
)
from robustreg.penalties.boosted import Boosted

T = rr.Threat("linf", 0.1)
AWAY = rr.Uniform(T)


def of(term: rr.Term, net: Any, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
    out = rr.Objective.of(term).detailed(net, x, y, step=0, **options)
    return out.per_sample[term.name]


def away(x: Tensor, net: nn.Module) -> Tensor:
    """The uniform point that step 0 draws."""
    seen: list[Tensor] = []
    handle = net.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
    rr.Objective.of(rr.LossAt(AWAY, lambda z, y: z.sum(1)))(
        net, x, torch.zeros(len(x), dtype=torch.long), step=0
    )
    handle.remove()
    return seen[-1]


# -- consistency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(discrepancies.NAMED))
def test_it_is_the_discrepancy_of_two_predictions(
    name: str, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, _ = double_batch
    expected = discrepancies.NAMED[name](smooth_net(x), smooth_net(away(x, smooth_net)))
    torch.testing.assert_close(
        of(Consistency(AWAY, name), smooth_net, x), expected.detach(), rtol=0, atol=1e-14
    )


def test_the_reference_may_be_elsewhere(smooth_net: nn.Module, double_batch: Any) -> None:
    x, _ = double_batch
    there = of(Consistency(AWAY, reference=rr.Along(rr.Clean(), AWAY, 0.5)), smooth_net, x)
    z = away(x, smooth_net)
    torch.testing.assert_close(
        there, numerics.kl(smooth_net((x + z) / 2), smooth_net(z)).detach(), rtol=0, atol=1e-14
    )


def test_a_joint_forward_has_the_statistics_of_both_points(double_batch: Any) -> None:
    x, _ = double_batch
    layers = [nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]
    net = nn.Sequential(*layers).double()
    one, two, three, by_hand = (copy.deepcopy(net) for _ in range(4))
    near = away(x, net)
    clean, other = by_hand(torch.cat([x, near])).detach().chunk(2)
    joint = of(Consistency(AWAY, "squared_logits", joint=True), one, x)
    torch.testing.assert_close(joint, (clean - other).square().sum(1))
    assert one[2].num_batches_tracked == 1
    assert not torch.allclose(joint, of(Consistency(AWAY, "squared_logits"), two, x))
    # the reference is the first argument, wherever it is
    reverse = Consistency(rr.Clean(), discrepancies.reverse_kl, reference=AWAY, joint=True)
    torch.testing.assert_close(of(reverse, three, x), numerics.kl(clean, other))


def test_any_function_is_a_discrepancy(smooth_net: nn.Module, double_batch: Any) -> None:
    x, _ = double_batch
    largest = of(Consistency(AWAY, lambda a, b: (a - b).abs().amax(1)), smooth_net, x)
    torch.testing.assert_close(
        largest, (smooth_net(x) - smooth_net(away(x, smooth_net))).abs().amax(1).detach()
    )


def test_modes(restless_net: nn.Module, batch: Any) -> None:
    """Training mode updates the statistics once for each point; a reference in evaluation mode does not."""
    norm = next(m for m in restless_net.modules() if isinstance(m, nn.BatchNorm2d))
    for options, updates in (
        ({}, 2),
        ({"reference_mode": "eval"}, 1),
        ({"mode": "batch"}, 0),
        ({"mode": "eval"}, 0),
    ):
        before = int(norm.num_batches_tracked)  # type: ignore[arg-type]
        of(Consistency(AWAY, **options), restless_net, batch[0])
        assert int(norm.num_batches_tracked) - before == updates, options  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["kl", "squared_logits", "nuclear", "js"])
def test_gradcheck(name: str, smooth_net: nn.Module, double_batch: Any) -> None:
    x, _ = double_batch
    names = [n for n, _ in smooth_net.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in smooth_net.parameters()]
    objective = rr.Objective.of(Consistency(AWAY, name))

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return objective(lambda u: functional_call(smooth_net, state, (u,)), x, step=0)

    assert gradcheck(loss, parameters, fast_mode=True)


def test_an_adversary_is_constant_for_the_loss(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    attack = rr.PGD(T, 3, start=rr.Clean(), early_exit=False)
    term = Consistency(attack)
    found = torch.autograd.grad(
        rr.Objective.of(term)(smooth_net, x, y, step=0), list(smooth_net.parameters())
    )
    by_hand = numerics.kl(smooth_net(x), smooth_net(attack(smooth_net, x, y))).mean()
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, list(smooth_net.parameters())))


def test_no_labels_are_needed_where_the_attack_needs_none(smooth_net: nn.Module, double_batch: Any) -> None:
    x, _ = double_batch
    assert rr.Objective.of(Consistency(rr.PGD(T, 2, loss="kl")))(smooth_net, x).isfinite()
    with pytest.raises(ValueError, match="the term consistency needs labels"):
        rr.Objective.of(Consistency(rr.PGD(T, 2)))(smooth_net, x)


def test_weighting_by_vulnerability_is_for_any_term(smooth_net: nn.Module, double_batch: Any) -> None:
    """ARoW's idea beyond ARoW: the gradient penalty, the perturbed loss, logit pairing."""
    x, y = double_batch
    attack = rr.FGSM(T)
    weight = of(rr.Vulnerability(attack), smooth_net, x, y)
    for term in rr.GradientNorm(T), rr.Perturbed(T), Consistency(attack, "squared_logits"):
        by = rr.weighted(term, by=rr.Vulnerability(attack))
        torch.testing.assert_close(
            of(by, smooth_net, x, y), weight * of(term, smooth_net, x, y), rtol=0, atol=1e-14
        )


def test_a_batch_quantity_has_no_samples_to_weight(smooth_net: nn.Module, double_batch: Any) -> None:
    term = rr.weighted(Consistency(AWAY, "nuclear"), by=Confidence())
    with pytest.raises(ValueError, match=r"values and weights per sample \[B\]"):
        of(term, smooth_net, *double_batch)


def test_options_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="joint=True and reference_mode exclude each other"):
        Consistency(AWAY, joint=True, reference_mode="eval")
    with pytest.raises(ValueError, match="discrepancy must be one of"):
        Consistency(AWAY, "klx")
    with pytest.raises(ValueError, match="mode must be one of"):
        Consistency(AWAY, mode="training")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode must be one of"):
        Consistency(AWAY, reference_mode="training")  # type: ignore[arg-type]


# -- confidence -------------------------------------------------------------------------------------------------------


def test_confidence_and_vulnerability_add_up_to_one(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    some = torch.where(torch.arange(6) < 4, y, -1)
    sure, unsure = of(Confidence(), smooth_net, x, some), of(rr.Vulnerability(), smooth_net, x, some)
    torch.testing.assert_close(sure + unsure, (some >= 0).double(), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        sure[:4], smooth_net(x).softmax(1)[range(4), y[:4]].detach(), rtol=0, atol=1e-15
    )


# -- boosted cross-entropy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slack", [1e-4, 0.0])
def test_the_boosted_loss_against_probabilities(slack: float) -> None:
    g = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(20, 4, generator=g, dtype=torch.float64)
    y = torch.arange(20) % 4
    z.requires_grad_()
    p = z.softmax(1)
    wrong = p.masked_fill(nn.functional.one_hot(y).bool(), 0).amax(1)
    expected = -p[range(20), y].log() - (1 + slack - wrong).log()
    torch.testing.assert_close(Boosted(slack)(z, y), expected, rtol=0, atol=1e-13)
    found = torch.autograd.grad(Boosted(slack)(z, y).sum(), z)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), z)[0], rtol=0, atol=1e-12)
    assert gradcheck(Boosted(slack), (z, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slack", [1e-4, 0.0])
def test_the_boosted_loss_stays_finite(slack: float, dtype: torch.dtype) -> None:
    z = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0], [0, 0, 0]], dtype=dtype, requires_grad=True)
    values = Boosted(slack)(z, torch.tensor([0, 0, 0]))
    assert values.isfinite().all()
    assert values[0].item() == pytest.approx(
        -math.log1p(slack), abs=1e-6
    )  # right and certain: nothing to gain
    values.sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_the_boosted_loss_can_be_climbed_and_ignores_unlabelled_samples(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    some = torch.where(torch.arange(6) < 4, y, -1)
    assert of(BoostedCrossEntropy(), smooth_net, x, some)[4:].tolist() == [0, 0]
    higher = rr.PGD(T, 5, loss=Boosted(), early_exit=False)(smooth_net, x, y)
    assert (Boosted()(smooth_net(higher), y) > Boosted()(smooth_net(x), y)).all()
    with pytest.raises(ValueError, match="slack must be >= 0"):
        BoostedCrossEntropy(slack=-1)
    with pytest.raises(ValueError, match="C >= 2"):
        Boosted()(torch.zeros(2, 1), torch.tensor([0, 0]))


# -- teacher ----------------------------------------------------------------------------------------------------------


def test_the_teacher_is_asked_where_it_should_be_and_left_alone(restless_net: nn.Module, batch: Any) -> None:
    x, y = batch
    teacher = copy.deepcopy(restless_net).double()
    before = copy.deepcopy(teacher.state_dict())
    term = TeacherCrossEntropy(teacher, at=AWAY, teacher_at=rr.Clean(), mode="eval")
    found = of(term, restless_net, x)
    assert teacher.training
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    labels = teacher.eval()(x.double()).argmax(1)
    z = away(x, restless_net.eval())
    torch.testing.assert_close(found, numerics.cross_entropy(restless_net(z), labels).detach())
    rr.Objective.of(term)(restless_net, x, y).backward()
    assert all(p.grad is None for p in teacher.parameters())


# -- class-weighted gap -----------------------------------------------------------------------------------------------


def test_the_gap_is_the_logit_variance_under_class_means(smooth_net: nn.Module, double_batch: Any) -> None:
    """Of the clean predictions of the last two steps, at a temperature."""
    x, y = double_batch
    y = y.clamp(max=1)  # class 2 is never seen and keeps uniform weights
    term = ClassWeightedGap(AWAY, temperature=2.0, refresh=2)
    objective = rr.Objective.of(term)
    z, other = smooth_net(x).detach(), smooth_net(away(x, smooth_net)).detach()
    uniform = discrepancies.logit_variance(z, other, torch.full((6, 3), 1 / 3, dtype=torch.float64))
    for _ in range(2):
        found = objective.detailed(smooth_net, x, y, step=0).per_sample[term.name]
        torch.testing.assert_close(found, uniform, rtol=0, atol=1e-14)
    means = torch.stack([(z / 2).softmax(1)[y == k].mean(0) for k in (0, 1)])
    found = objective.detailed(smooth_net, x, y, step=0).per_sample[term.name]
    torch.testing.assert_close(found, discrepancies.logit_variance(z, other, means[y]), rtol=0, atol=1e-14)
    assert term.memory.means is not None
    assert term.memory.means[2].tolist() == [pytest.approx(1 / 3)] * 3


def test_unlabelled_samples_have_no_class(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    some = torch.where(torch.arange(6) < 4, y, -1)
    term = ClassWeightedGap(AWAY, gamma=0.5, refresh=1)
    objective = rr.Objective.of(term)
    out = [objective.detailed(smooth_net, x, some, step=0) for _ in range(2)][-1]
    assert out.per_sample[term.name][4:].tolist() == [0, 0]
    term2 = ClassWeightedGap(AWAY, gamma=0.5, refresh=1)
    objective2 = rr.Objective.of(term2)
    g = [objective2.detailed(smooth_net, x[:4], y[:4], step=0) for _ in range(2)][-1]
    assert term2.memory.means is not None
    torch.testing.assert_close(term.memory.means, term2.memory.means)
    assert g.loss.isfinite()


def test_its_state_survives_a_checkpoint(smooth_net: nn.Module, double_batch: Any) -> None:
    def fresh() -> rr.Objective:
        return rr.CrossEntropy() + ClassWeightedGap(AWAY, refresh=2)

    whole, first, second = fresh(), fresh(), fresh()
    losses = [whole(smooth_net, *double_batch, step=s).item() for s in range(5)]
    for s in range(3):
        first(smooth_net, *double_batch, step=s)
    second.load_state_dict(first.state_dict())
    assert [second(smooth_net, *double_batch, step=s).item() for s in (3, 4)] == losses[3:]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"temperature": 0}, "temperature must be positive"), ({"refresh": 0}, "refresh is a number of steps")],
)
def test_options_of_the_gap(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ClassWeightedGap(AWAY, **options)
