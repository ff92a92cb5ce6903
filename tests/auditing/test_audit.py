"""Planted defences are caught, sound models are not accused, and a verdict survives a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import auditing
from robustreg.auditing import CHECKS, Audit, Case, Finding, Measured
from robustreg.auditing import check as register
from robustreg.auditing.case import Outcome
from robustreg.auditing.statistics import Estimate
from robustreg.testing.planted import PLANTED, planted

THREAT = rr.Threat("linf", 0.15)
Trained = Callable[[str], nn.Module]
Samples = tuple[Tensor, Tensor]

DIRECT = {  # the checks that must see a defence by what it is, whatever else is found
    "input_quantisation": "true_gradient",
    "jpeg_rounding": "zero_gradients",
    "thermometer": "zero_gradients",
    "random_dropout": "repeated_calls",
    "random_noise": "repeated_calls",
    "random_resizing": "repeated_calls",
    "exploding": "true_gradient",
    "nan_gradients": "zero_gradients",
    "tiny_gradients": "true_gradient",
    "flipped_gradients": "true_gradient",
    "detached": "zero_gradients",
    "saturated": "loss_scale",
    "hard_decision": "output_levels",
    "batch_dependent": "batch_mates",
    "clipped": "clipped_outputs",
    "probabilities": "logits",
    "sharp_probabilities": "repaired_outputs",
    "vanishing": "square",
}


# what finds nothing to measure on a network that is neither random nor blocked nor dependent on its batch
NOTHING_TO_DRAW = {
    "training_layers", "averaged_attack", "straight_through", "attacked_alone", "repaired_outputs",
}  # fmt: skip


def test_every_planted_defence_has_its_check() -> None:
    assert set(DIRECT) == set(PLANTED)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defence_is_seen(name: str, trained: Trained, test_samples: Samples) -> None:
    found = rr.audit(planted(name, trained("plain")), test_samples, THREAT, checks=[DIRECT[name]])
    assert found.verdict != "sound", found.table()
    assert [finding.check for finding in found.reasons] == [DIRECT[name]]


def test_square_sees_what_rounding_hides(trained: Trained, test_samples: Samples) -> None:
    """The attack's comparison alone, without a look at gradients."""
    net = planted("input_quantisation", trained("plain"))
    found = rr.audit(net, test_samples, THREAT, checks=["square", "straight_through"])
    assert found.verdict == "masked"
    assert found["square"].low is not None
    assert found["square"].low > 0.3
    assert found["straight_through"].low is not None
    assert found["straight_through"].low > 0.3


@pytest.mark.parametrize("method", ["plain", "pgd", "trades", "gradient"])
def test_a_sound_model_is_not_accused(method: str, trained: Trained, test_samples: Samples) -> None:
    found = rr.audit(trained(method), test_samples, THREAT)
    assert found.verdict == "sound", found.table()
    assert {finding.check for finding in found.findings} == set(CHECKS)
    assert not [finding for finding in found.findings if finding.failed]
    undrawn = {finding.check for finding in found.findings if finding.plot is None}
    assert undrawn == NOTHING_TO_DRAW, "a check measured something and drew nothing"
    assert found["worst_case"].measured.count("%") >= 3
    for finding in found.findings:
        assert finding.source, finding.check
        assert finding.meaning, finding.check
        unmeasured = NOTHING_TO_DRAW | {"surface"}  # a picture to be looked at, without a number
        assert (finding.value is None) == (finding.check in unmeasured), finding.check


def test_the_gradients_of_a_linear_model_are_exact() -> None:
    """Closed form: the curvature of a margin of a linear map is 0, its gradient is the same everywhere."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x = 0.3 + 0.4 * torch.rand(40, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    found = rr.audit(net, (x, y), rr.Threat("l2", 0.1), checks=["true_gradient", "alignment"])
    assert found["true_gradient"].value == 0.0
    assert found["alignment"].value == pytest.approx(1.0)


def test_the_model_and_the_random_state_are_left_alone(
    restless_net: nn.Module, batch: Samples, snapshot: Callable[..., dict[str, Any]]
) -> None:
    before = snapshot(restless_net)
    found = rr.audit(restless_net, batch, THREAT, checks=["training_layers", "zero_gradients", "batch_mates"])
    assert snapshot(restless_net) == before
    assert found["training_layers"].concern == "notice"
    assert found["batch_mates"].concern == "none"  # in evaluation mode


def test_a_check_that_fails_is_a_finding(
    trained: Trained, test_samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing.checking, "CHECKS", CHECKS)

    @register("broken", "Broken", fine="", bad="", advice="none", source="", weight=1)
    def broken(case: Case) -> Measured:
        raise OSError("no such luck")

    try:
        found = rr.audit(trained("plain"), test_samples, THREAT, checks=["broken", "logits"])
    finally:
        del CHECKS["broken"]
    assert found["broken"].failed
    assert "no such luck" in found["broken"].measured
    assert found["logits"].concern == "none"
    assert found.verdict == "sound"


def test_the_same_seed_gives_the_same_audit(trained: Trained, test_samples: Samples) -> None:
    checks = ["random_search", "transfer", "alignment"]
    first, second = (rr.audit(trained("plain"), test_samples, THREAT, checks=checks) for _ in range(2))
    assert [f.to_dict() for f in first.findings] == [f.to_dict() for f in second.findings]


def test_an_audit_survives_its_file(tmp_path: Path, trained: Trained, test_samples: Samples) -> None:
    found = rr.audit(planted("detached", trained("plain")), test_samples, THREAT, checks=["zero_gradients"])
    found.save(tmp_path)
    again = Audit.load(tmp_path)
    assert again.to_dict() == found.to_dict()
    assert again.verdict == "masked"
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["verdict"] == "masked"
    assert content["reasons"] == ["zero_gradients"]


def test_reasons_come_in_order_of_weight() -> None:
    def finding(check: str, concern: Any, weight: int) -> Finding:
        return Finding(check, check, "", None, None, None, None, "", "", "", concern, weight)

    rows = finding("a", "masked", 1), finding("b", "suspicious", 9), finding("c", "none", 99)
    found = Audit(rows, THREAT, 1, 1, 0, False, 0.0)
    assert found.verdict == "masked"
    assert [f.check for f in found.reasons] == ["a", "b"]
    assert Audit(rows[1:], THREAT, 1, 1, 0, False, 0.0).verdict == "suspicious"
    assert Audit(rows[2:], THREAT, 1, 1, 0, False, 0.0).verdict == "sound"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (lambda x: (x.flatten(1), None), "must return its logits"),
        (lambda x: x.flatten(1).argmax(1), "floating-point"),
        (lambda x: x, "C >= 2"),
    ],
)
def test_what_is_no_logits_is_refused(output: Any, sentence: str, test_samples: Samples) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        rr.audit(output, test_samples, THREAT)


def test_unknown_checks_and_labels_out_of_range_are_refused(trained: Trained, test_samples: Samples) -> None:
    with pytest.raises(ValueError, match="no check 'nothing'"):
        rr.audit(trained("plain"), test_samples, THREAT, checks=["nothing"])
    with pytest.raises(ValueError, match="out of range"):
        rr.audit(trained("plain"), (test_samples[0], test_samples[1] + 10), THREAT)


def test_a_model_that_is_never_right_has_no_robustness_to_look_at(test_samples: Samples) -> None:
    """No attack fools it, no check can fail: without this it would pass for sound."""
    x, y = test_samples
    wrong = torch.nn.functional.one_hot((y + 1) % 10, 10).float()

    def model(inputs: Tensor) -> Tensor:
        rows = torch.cdist(inputs.flatten(1), x.flatten(1)).argmin(1)
        return wrong[rows] + 0 * inputs.flatten(1).sum(1, keepdim=True)

    with pytest.raises(ValueError, match="classifies none of 20 samples right"):
        rr.audit(model, test_samples, THREAT, samples=20, checks=["single_step"])


def test_samples_that_disturb_each_other_are_attacked_alone(trained: Trained, test_samples: Samples) -> None:
    """Batches hide what single inputs show: masked, and not only suspicious."""
    net = planted("batch_dependent", trained("plain"))
    found = rr.audit(net, test_samples, THREAT, checks=["batch_mates", "attacked_alone"])
    assert found["batch_mates"].concern == "suspicious"
    assert found["attacked_alone"].concern == "masked"


def test_a_sharp_softmax_hides_what_its_logarithm_shows(trained: Trained, test_samples: Samples) -> None:
    """An ordinary softmax hides next to nothing, so it is only suspicious; a sharp one rounds gradients away."""
    checks = ["logits", "repaired_outputs"]
    soft, sharp = (
        rr.audit(planted(name, trained("plain")), test_samples, THREAT, checks=checks)
        for name in ("probabilities", "sharp_probabilities")
    )
    assert [soft.verdict, soft["repaired_outputs"].concern] == ["suspicious", "none"]
    assert [sharp.verdict, sharp["repaired_outputs"].concern] == ["masked", "masked"]
    plain = rr.audit(trained("plain"), test_samples, THREAT, checks=checks)
    assert plain["repaired_outputs"].measured == "The outputs are no probabilities."


def test_too_few_samples_are_no_evidence(trained: Trained, test_samples: Samples) -> None:
    checks = ["square", "evidence"]
    few = rr.audit(trained("plain"), test_samples, THREAT, checks=checks, samples=10)
    assert few.verdict == "suspicious"
    assert few.reasons[0].check == "evidence"
    assert rr.audit(trained("plain"), test_samples, THREAT, checks=checks).verdict == "sound"


def test_a_threat_as_wide_as_the_box_is_warned_of(trained: Trained, test_samples: Samples) -> None:
    with pytest.warns(UserWarning, match="as wide as the box"):
        rr.audit(trained("plain"), test_samples, rr.Threat("linf", 8.0), checks=["logits"])


def test_outputs_that_are_nan_are_masked(trained: Trained, test_samples: Samples) -> None:
    found = rr.audit(lambda x: trained("plain")(x) * torch.nan, test_samples, THREAT)
    assert found.verdict == "masked"
    assert found.reasons[0].check == "finite_outputs"


def test_a_constant_model_is_not_called_masked(test_samples: Samples) -> None:
    """Nothing fools it, whatever the radius, and nothing is hidden: it has learnt nothing."""

    def constant(x: Tensor) -> Tensor:
        return torch.eye(10)[3] + 0 * x.flatten(1)[:, :1]

    x, y = test_samples
    found = rr.audit(constant, (x, torch.where(torch.arange(64) < 30, 3, y)), THREAT)
    assert found.verdict == "suspicious"
    assert [finding.check for finding in found.findings] == ["learnt"]


def test_l1_is_climbed_by_an_attack_that_can(trained: Trained, test_samples: Samples) -> None:
    """PGD's steps of one pixel miss most of what Square finds in l1; a sound model must not pay for that."""
    checks = ["square", "large_radius", "worst_case"]
    found = rr.audit(trained("pgd"), test_samples, rr.Threat("l1", 2.0), checks=checks)
    assert found.verdict == "sound", found.table()


def test_a_radius_of_zero_is_refused(trained: Trained, test_samples: Samples) -> None:
    with pytest.raises(ValueError, match="eps is 0"):
        rr.audit(trained("plain"), test_samples, rr.Threat("linf", 0.0))


def test_a_model_that_refuses_most_batches_is_not_called_sound(
    trained: Trained, test_samples: Samples
) -> None:
    """Checks that could not be carried out are no good news."""

    def whole_batches(x: Tensor) -> Tensor:
        if len(x) != len(test_samples[0]):
            raise RuntimeError("only whole batches")
        logits: Tensor = trained("plain")(x)
        return logits

    found = rr.audit(whole_batches, test_samples, THREAT)
    assert found.verdict == "suspicious"
    assert "single_step" in found["evidence"].measured
    assert [finding.check for finding in found.reasons] == ["evidence"]


def test_a_network_that_withstands_one_step_only_is_not_sound(
    trained: Trained, test_samples: Samples
) -> None:
    """As after catastrophic overfitting: where the whole step ends in a corner of the ball, the right class returns."""
    x, y = test_samples
    net = trained("plain")

    def bent(u: Tensor) -> Tensor:
        distance, nearest = (u.flatten(1)[:, None] - x.flatten(1)).abs().amax(2).min(1)
        moved = (u - x[nearest]).abs().flatten(1)
        corner = (moved > 0.99 * distance[:, None]).double().mean(
            1
        ) > 0.45  # steps inside the box change half
        corner &= distance > 0.1
        return net(u) + 1e3 * corner[:, None] * nn.functional.one_hot(y[nearest], 10)

    found = rr.audit(bent, test_samples, THREAT, checks=["single_step"])
    assert found.verdict != "sound", found.table()
    assert rr.audit(net, test_samples, THREAT, checks=["single_step"]).verdict == "sound"


@pytest.mark.parametrize("defence", [None, "input_quantisation"])
def test_no_call_sees_more_rows_than_a_batch_and_nothing_depends_on_it(
    defence: str | None, trained: Trained, test_samples: Samples
) -> None:
    net = trained("pgd") if defence is None else planted(defence, trained("pgd"))
    seen: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            logits: Tensor = self.net(x)
            return logits

    whole = rr.audit(Counted(), test_samples, THREAT, samples=24)
    assert max(seen) > 7
    seen.clear()
    parts = rr.audit(Counted(), test_samples, THREAT, samples=24, batch_size=7)
    assert max(seen) == 7
    assert parts.verdict == whole.verdict
    for finding in whole.findings:
        same = parts[finding.check]
        assert same.concern == finding.concern, finding.check
        if finding.value is None:
            assert same.value is None
        else:
            assert same.value == pytest.approx(finding.value, rel=1e-3), finding.check


def test_a_batch_needs_room_for_a_neighbour(trained: Trained, test_samples: Samples) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        rr.audit(trained("plain"), test_samples, THREAT, batch_size=1)
    net = planted("batch_dependent", trained("plain"))
    found = rr.audit(net, test_samples, THREAT, batch_size=2, checks=["batch_mates"])
    assert found["batch_mates"].concern == "suspicious"


class _Lent(nn.Module):
    """The outputs of one network with the gradients of another."""

    def __init__(self, net: nn.Module, lender: nn.Module) -> None:
        super().__init__()
        self.net, self.lender = net, lender

    def forward(self, x: Tensor) -> Tensor:
        lent: Tensor = self.lender(x)
        return self.net(x).detach() + lent - lent.detach()


@pytest.mark.parametrize("as_function", [False, True])
def test_the_gradient_of_another_network_is_not_taken_for_the_model_s(
    as_function: bool, trained: Trained, test_samples: Samples
) -> None:
    """It predicts about what a step along it does, and an attack by it succeeds now and then."""
    model = _Lent(trained("plain"), trained("trades"))
    checks = ["true_gradient"]
    found = rr.audit((lambda x: model(x)) if as_function else model, test_samples, THREAT, checks=checks)
    assert found.verdict == "masked", found.table()
    honest = rr.audit(lambda x: trained("plain")(x), test_samples, THREAT, checks=checks)
    assert honest.verdict == "sound", honest.table()


def test_kinks_at_the_samples_are_no_wrong_gradient(trained: Trained, test_samples: Samples) -> None:
    """Neighbouring pixels of the same value tie for a maximum; nearby they do not."""
    pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), trained("pgd"))
    found = rr.audit(pooled, test_samples, THREAT, checks=["true_gradient"])
    assert found.verdict == "sound", found.table()


def test_a_network_that_cannot_run_in_float64_is_looked_at_as_it_is(
    trained: Trained, test_samples: Samples
) -> None:
    """bfloat16 rounds away what small differences could show, and is not accused of it."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(trained("plain")).bfloat16()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x.bfloat16()).float()
            return logits

    found = rr.audit(Half(), test_samples, THREAT, checks=["true_gradient", "zero_gradients"])
    assert not [finding for finding in found.findings if finding.failed]
    assert found.verdict == "sound", found.table()


def test_small_logits_are_told_of_and_not_accused(trained: Trained, test_samples: Samples) -> None:
    """Cross-entropy of nearly equal probabilities is a poor guide to the next class; the gradients are honest."""
    net = trained("plain")
    checks = ["loss_scale", "worst_case"]
    found = rr.audit(lambda x: 1e-3 * net(x), test_samples, THREAT, checks=checks)
    assert found.verdict == "sound", found.table()
    assert found["loss_scale"].concern == "notice"
    assert found["worst_case"].concern == "notice"
    assert rr.audit(lambda x: 1e4 * net(x), test_samples, THREAT, checks=checks).verdict == "masked"
    squashed = rr.audit(lambda x: 4 * torch.tanh(net(x)), test_samples, THREAT, checks=checks)
    assert squashed.verdict == "suspicious"  # PGD misses far more than the choice of a loss explains


@pytest.mark.parametrize(
    ("by_one", "by_many", "concern"), [(0.56, 1.0, "notice"), (0.1, 0.6, "suspicious"), (0.1, 0.9, "masked")]
)
def test_one_step_that_is_only_weaker_is_no_collapse(
    by_one: float,
    by_many: float,
    concern: str,
    trained: Trained,
    test_samples: Samples,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that withstands no single step has not learnt to hide from one."""

    def attacked(case: Case, name: str) -> Outcome:
        share = by_one if name == "fgsm" else by_many
        fooled = torch.arange(len(case.x)) < share * len(case.x)
        return Outcome(case.x, fooled, torch.zeros(len(case.x)), None)

    monkeypatch.setattr(Case, "attacked", attacked)
    found = rr.audit(trained("plain"), test_samples, THREAT, checks=["single_step"])
    assert found["single_step"].concern == concern


def fooling(monkeypatch: pytest.MonkeyPatch, **shares: float) -> None:
    """Attacks that fool the first so many of the samples."""

    def attacked(case: Case, name: str) -> Outcome:
        fooled = torch.arange(len(case.x)) < shares.get(name, 0.0) * len(case.x)
        return Outcome(case.x, fooled, torch.zeros(len(case.x)), None)

    monkeypatch.setattr(Case, "attacked", attacked)


@pytest.mark.parametrize(
    ("margin", "adaptive", "more", "concern"),
    [
        (0.5, 0.5, 0.5, "none"),
        (0.2, 0.5, 0.5, "suspicious"),
        (0.2, 0.9, 0.5, "masked"),
        (0.5, 0.5, 0.8, "suspicious"),
    ],
)
def test_an_attack_that_chooses_its_steps_finds_no_more(
    margin: float,
    adaptive: float,
    more: float,
    concern: str,
    trained: Trained,
    test_samples: Samples,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where fixed steps get stuck, in a steep layer say, more of them and other starts get stuck, too."""
    fooling(monkeypatch, pgd=0.5, more=more, margin=margin, adaptive=adaptive)
    found = rr.audit(trained("plain"), test_samples, THREAT, checks=["more_effort"])
    assert found["more_effort"].concern == concern


@pytest.mark.parametrize(("scale", "concern"), [(0.1, "notice"), (10.0, "suspicious")])
def test_what_small_logits_hide_from_pgd_is_held_against_nobody(
    scale: float, concern: str, trained: Trained, test_samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = trained("plain")
    fooling(monkeypatch, pgd=0.2, more=0.2, scaled=0.9, margin=0.9, adaptive=0.9)
    found = rr.audit(lambda x: scale * net(x), test_samples, THREAT, checks=["worst_case"])
    assert found["worst_case"].concern == concern


def test_jumps_up_and_down_do_not_cancel(trained: Trained, test_samples: Samples) -> None:
    """Which of four networks answers is decided by a checksum of the input: each gradient is honest where it is."""
    nets = [trained(name) for name in ("plain", "pgd", "trades", "gradient")]

    def chosen(x: Tensor) -> Tensor:
        which = (x.detach().flatten(1) * 1e4).long().sum(1) % len(nets)
        return torch.stack([net(x) for net in nets], 1)[torch.arange(len(x)), which]

    found = rr.audit(chosen, test_samples, THREAT, checks=["path_of_gradients", "true_gradient"])
    assert found["path_of_gradients"].concern == "masked", found.table()
    assert found["true_gradient"].concern != "none", found.table()


def test_jumps_are_seen_by_gradients_that_do_not_add_up(trained: Trained, test_samples: Samples) -> None:
    """Votes with a trace of what the voters say: small steps seldom meet a jump, and the gradient is there."""
    nets = [trained(name) for name in ("plain", "pgd", "trades")]

    def votes(x: Tensor) -> Tensor:
        said = torch.stack([net(x) for net in nets])
        return nn.functional.one_hot(said.argmax(2), 10).to(x).mean(0) + 1e-4 * said.mean(0)

    found = rr.audit(votes, test_samples, THREAT, checks=["path_of_gradients"])
    assert found.verdict == "masked", found.table()


@pytest.mark.parametrize("threat", [THREAT, rr.Threat("l2", 0.8)])
def test_gradients_of_a_continuous_model_add_up(
    threat: rr.Threat, trained: Trained, test_samples: Samples
) -> None:
    net = trained("gradient")
    pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), trained("plain"))
    found = rr.audit(pooled, test_samples, threat, checks=["path_of_gradients"])
    assert found["path_of_gradients"].value == 0.0
    offset = rr.audit(lambda x: 1e4 + net(x), test_samples, threat, checks=["path_of_gradients"])
    assert offset["path_of_gradients"].value == 0.0, "rounding is no jump"


def test_bent_outputs_are_told_from_small_ones(trained: Trained, test_samples: Samples) -> None:
    net, checks = trained("plain"), ["bent_outputs"]
    capped = rr.audit(
        lambda x: 5 * torch.tanh(0.5 * (net(x) - net(x).mean(1, keepdim=True))),
        test_samples,
        THREAT,
        checks=checks,
    )
    assert capped.verdict == "masked", capped.table()
    for scale in (1e-3, 1.0, 1e4):
        small = rr.audit(lambda x, scale=scale: scale * net(x), test_samples, THREAT, checks=checks)
        assert small.verdict == "sound", small.table()


class _Remembers(nn.Module):
    """Gives the answer to an earlier input that was close, and a trace of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        if not self.seen:
            self.seen.append((x.detach().flatten(1), z.detach()))
        known, said = self.seen[0]
        distance, nearest = torch.cdist(x.detach().flatten(1), known, p=torch.inf).min(1)
        return torch.where((distance < 0.2)[:, None], said[nearest] + 1e-3 * z, z)


def test_a_memory_of_earlier_calls_is_seen_by_a_copy_without_it(
    trained: Trained, test_samples: Samples
) -> None:
    model = _Remembers(trained("plain"))
    found = rr.audit(model, test_samples, THREAT, checks=["earlier_calls"])
    assert found.verdict == "masked", found.table()
    assert rr.audit(trained("plain"), test_samples, THREAT, checks=["earlier_calls"]).verdict == "sound"

    class NotCopied(_Remembers):
        def __deepcopy__(self, memo: dict[int, Any]) -> NotCopied:
            raise RuntimeError("no copies")

    unknown = rr.audit(NotCopied(trained("plain")), test_samples, THREAT, checks=["earlier_calls"])
    assert "cannot be copied" in unknown["earlier_calls"].measured


def test_a_random_model_is_attacked_through_a_copy(trained: Trained, test_samples: Samples) -> None:
    """Averaging does not help where the gradient is wrong as well; what fools a copy does."""
    net = planted("random_noise", planted("flipped_gradients", trained("plain")))
    found = rr.audit(net, test_samples, THREAT, checks=["averaged_attack", "transfer"])
    assert found["averaged_attack"].concern == "none"
    assert found["transfer"].concern == "masked"
    honest = rr.audit(planted("random_noise", trained("plain")), test_samples, THREAT, checks=["transfer"])
    assert honest["transfer"].concern == "none"


def test_an_input_that_is_defended_only_alone_is_attacked_in_company(
    trained: Trained, test_samples: Samples
) -> None:
    net, rounded = trained("plain"), planted("input_quantisation", trained("plain"))
    found = rr.audit(
        lambda x: rounded(x) if len(x) == 1 else net(x),
        test_samples,
        THREAT,
        checks=["attacked_alone"],
        samples=16,
    )
    assert found.verdict == "masked", found.table()


def test_numbers_beyond_all_measure_are_not_spelt_out() -> None:
    assert Estimate(0.934, 0.91, 0.951).number() == "0.934 (0.91 to 0.951)"
    assert Estimate(3e11, 9.0, 6e11).number() == "over 10,000 (9 to over 10,000)"
    assert Estimate(3e11, 1e11, 6e11).number() == "over 10,000"
