"""Terms: weighted ones, terms with a state, and the thirty lines in which a user writes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.probe import Probe

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


# -- the ready ones ------------------------------------------------------------------------------------------


def test_cross_entropy_is_pytorchs(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    for smoothing in (0.0, 0.2):
        loss = rr.Objective.of(rr.CrossEntropy(smoothing=smoothing))(smooth_net, x, y)
        expected = F.cross_entropy(smooth_net(x), y, label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-15)
        torch.testing.assert_close(
            gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-15
        )


def test_adversarial_training_is_the_loss_at_the_attack(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    attack = rr.PGD(T, 3, start=rr.Clean(), early_exit=False)
    loss = rr.Objective.of(rr.CrossEntropy(at=attack))(smooth_net, x, y)
    torch.testing.assert_close(
        loss, F.cross_entropy(smooth_net(attack(smooth_net, x, y)), y), rtol=0, atol=1e-14
    )


def test_vulnerability_is_the_missing_belief_in_the_label(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    point = rr.FGSM(T)
    term = rr.Vulnerability(point, mode="eval")
    values = rr.Objective.of(term).detailed(smooth_net, x, y).per_sample["vulnerability"]
    p = smooth_net(point(smooth_net, x, y)).softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(values, 1 - p.detach(), rtol=0, atol=1e-15)


def test_vulnerability_keeps_its_gradient_where_the_belief_is_complete() -> None:
    z = torch.tensor([[40.0, 0.0], [1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    value = rr.Objective.of(rr.Vulnerability())(
        lambda x: z, torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)
    )
    assert 0 < value < 1
    assert torch.autograd.grad(value, z)[0].isfinite().all()


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_weighted_is_what_one_would_write_by_hand(
    detach: bool, normalise: bool, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    attack = rr.PGD(T, 2, start=rr.Clean())
    term = rr.weighted(rr.LossAt(attack, "kl"), rr.Vulnerability(attack), detach=detach, normalise=normalise)
    loss = rr.Objective.of(term)(smooth_net, x, y)

    z, z_adv = smooth_net(x), smooth_net(rr.PGD(T, 2, start=rr.Clean(), early_exit=False)(smooth_net, x, y))
    weight = 1 - z_adv.softmax(1).gather(1, y[:, None])[:, 0]
    weight = weight.detach() if detach else weight
    weight = weight / weight.mean().detach() if normalise else weight
    expected = (weight * numerics.kl(z.detach(), z_adv)).mean()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-14
    )


def test_a_weight_may_be_any_function_of_the_probe(smooth_net: nn.Module, double_batch: Any) -> None:
    def doubled(probe: Probe) -> Tensor:
        return torch.full_like(probe.loss(), 2.0)

    term = rr.weighted(rr.CrossEntropy(), by=doubled)
    out = (rr.CrossEntropy() + term).detailed(smooth_net, *double_batch)
    assert term.name == "cross_entropy_by_doubled"
    torch.testing.assert_close(out.values[term.name], 2 * out.values["cross_entropy"])


def test_weighting_shares_what_the_term_and_the_weight_both_need() -> None:
    attack = rr.PGD(T, 2)
    plain = rr.Objective.of(rr.CrossEntropy(at=attack)).plan()
    weighted = rr.Objective.of(rr.weighted(rr.CrossEntropy(at=attack), by=rr.Vulnerability(attack))).plan()
    assert weighted.forwards == plain.forwards
    assert weighted.input_backwards == plain.input_backwards


def test_weighted_wants_values_per_sample(smooth_net: nn.Module, double_batch: Any) -> None:
    with pytest.raises(
        ValueError, match=r"needs values and weights per sample \[B\], but .* gave \[6\] and .* \[\]"
    ):
        rr.Objective.of(rr.weighted(rr.CrossEntropy(), by=lambda p: p.loss().mean()))(
            smooth_net, *double_batch
        )


# -- a user's own --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogitSqueeze(rr.Term):
    """Squared distance of the logits at two points: what a user has to write for a new penalty."""

    threat: rr.Threat | None = None
    loss: str = "margin"

    def __call__(self, probe: Probe) -> Tensor:
        point = rr.FGSM(self.threat or probe.required_threat(), loss=self.loss)
        return (probe.logits(point) - probe.logits()).square().mean(1)


def test_a_users_term_is_a_term_like_any_other(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    objective = (rr.CrossEntropy() + rr.Ramp(0, 1) * LogitSqueeze()).with_threat(T)
    out = objective.detailed(smooth_net, x, y, progress=0.5)
    point = rr.FGSM(T, loss="margin")(smooth_net, x, y)
    expected = (smooth_net(point) - smooth_net(x)).square().mean(1)
    torch.testing.assert_close(out.per_sample["logit_squeeze"], expected.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(out.loss, F.cross_entropy(smooth_net(x), y) + 0.5 * expected.mean())
    assert LogitSqueeze().needs == {"threat", "labels"}
    assert objective.plan().forwards == 3
    assert rr.weighted(LogitSqueeze(), by=rr.Vulnerability()).with_threat(T).needs == {"labels"}


class Spread(rr.Term):
    """A term whose maths is not per sample."""

    def __call__(self, probe: Probe) -> Tensor:
        return probe.logits().std(0).mean()


def test_a_scalar_term_is_taken_as_it_is(smooth_net: nn.Module, double_batch: Any) -> None:
    out = (rr.CrossEntropy() + 0.5 * Spread()).detailed(smooth_net, *double_batch)
    assert out.per_sample["spread"].ndim == 0
    torch.testing.assert_close(out.values["spread"], smooth_net(double_batch[0]).std(0).mean().detach())


def test_values_of_another_shape_are_refused(smooth_net: nn.Module, double_batch: Any) -> None:
    class Wrong(rr.Term):
        def __call__(self, probe: Probe) -> Tensor:
            return probe.logits()

    with pytest.raises(
        ValueError, match=r"the term wrong must give values per sample \[B\] = \[6\] or a scalar, but"
    ):
        rr.Objective.of(Wrong())(smooth_net, *double_batch)


def test_a_term_that_looks_into_the_network_works_without_rehearsal(batch: Any) -> None:
    class Decay(rr.Term):
        def __call__(self, probe: Probe) -> Tensor:
            return probe.model[1].weight.square().sum()  # type: ignore[index]

    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    out = (rr.CrossEntropy() + Decay() + rr.GradientNorm(T)).detailed(net, *batch)
    assert out.values["decay"] == net[1].weight.square().sum()
    assert out.loss.isfinite()


# -- states --------------------------------------------------------------------------------------------------


@dataclass
class Surprise(rr.Term):
    """The loss beside its running mean: a term with a state, updated after each step."""

    decay: float = 0.5
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    updates: int = 0

    needs = frozenset({"labels"})

    def __call__(self, probe: Probe) -> Tensor:
        loss = probe.loss()

        def update() -> None:
            self.mean = self.decay * self.mean + (1 - self.decay) * loss.detach().mean()
            self.updates += 1

        probe.defer(update)
        return loss - self.mean

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean, self.updates = state["mean"], state["updates"]


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: rr.weighted(t, by=rr.Vulnerability())], ids=["alone", "in"]
)
def test_a_state_is_updated_once_a_step_and_never_in_rehearsals(
    wrap: Callable[[rr.Term], rr.Term], smooth_net: nn.Module, double_batch: Any
) -> None:
    term = Surprise()
    objective = rr.CrossEntropy() + wrap(term)
    objective.plan()
    assert term.updates == 0
    for step in range(3):
        objective(smooth_net, *double_batch)
        assert term.updates == step + 1


def test_a_step_that_breaks_off_updates_no_state(smooth_net: nn.Module, double_batch: Any) -> None:
    class Broken(rr.Term):
        def __call__(self, probe: Probe) -> Tensor:
            raise KeyError

    term = Surprise()
    with pytest.raises(KeyError):
        (rr.Objective.of(term) + Broken())(smooth_net, *double_batch)
    assert term.updates == 0


def test_states_are_saved_and_come_back(smooth_net: nn.Module, double_batch: Any) -> None:
    def build() -> rr.Objective:
        return (
            rr.Objective.of(Surprise(0.9))
            + 0.5 * rr.weighted(Surprise(), by=rr.Vulnerability())
            + rr.weighted(rr.CrossEntropy(), by=Surprise())
            + rr.CrossEntropy(at=rr.Uniform(T))
        )

    first, second = build(), build()
    for _ in range(3):
        first(smooth_net, *double_batch)
    state = first.state_dict()
    assert set(state["terms"]) == {"surprise", "surprise_by_vulnerability", "cross_entropy_by_surprise"}
    second.load_state_dict(state)
    again, expected = (o.detailed(smooth_net, *double_batch) for o in (second, first))
    assert again.values == expected.values
    assert again.loss == expected.loss


def test_a_state_of_another_objective_is_refused() -> None:
    state = rr.Objective.of(Surprise()).state_dict()
    with pytest.raises(ValueError, match="the state is of another objective: it has no term surprise"):
        rr.Objective.of(rr.CrossEntropy()).load_state_dict(state)
    with pytest.raises(
        ValueError, match="the state of cross_entropy is empty, but the checkpoint holds mean"
    ):
        rr.CrossEntropy().load_state_dict({"mean": 1})


# -- bad rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: rr.CrossEntropy(smoothing=2), r"smoothing must lie in \[0, 1\], got 2"),
        (lambda: rr.CrossEntropy(mode="test"), "mode must be one of train, batch, eval, got 'test'"),
        (lambda: rr.LossAt(loss="hinge"), "loss must be one of ce, margin, dlr, kl or a function"),
        (lambda: rr.LossAt(mode="test"), "mode must be one of"),
        (lambda: rr.Vulnerability(mode="test"), "mode must be one of"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Callable[[], rr.Term], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
