from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from robustreg.attacks import APGD, APGDT, FAB, PGD, Square
from robustreg.evaluation import Progress, attack_run, evaluate, wilson
from robustreg.evaluation.crafting import Crafter, describe, lies_within, named
from robustreg.points import FGSM, Clean, Gaussian, Steepest, Uniform
from robustreg.threat import Threat


def shift(amount):
    """A function attack that moves every value by `amount`, within the box."""

    def attack(model, x, y):
        return (x + amount).clamp(0, 1)

    return attack


class Foreign:
    """Another library's attack, which may call anything its threat."""

    def __init__(self, threat):
        self.threat = threat

    def __call__(self, model, x, y):
        return x


def test_linear_model_has_its_closed_form_robust_accuracy(linear, data, threat):
    x, y = data
    result = evaluate(linear, data, [FGSM(threat), PGD(threat, steps=5)], threat)
    clean = linear.margin(x, y) > 0
    robust = linear.robust(x, y, 0.1)
    assert 20 < robust.sum() < clean.sum() < 120, "the case must not be trivial"
    assert torch.equal(result.clean.outcomes, clean)
    assert torch.equal(result.outcomes["fgsm"], robust)
    assert torch.equal(result.outcomes["pgd"], robust)
    assert torch.equal(result.worst_case.outcomes, robust)
    assert result.worst_case.accuracy == pytest.approx(robust.float().mean().item())
    assert (result.worst_case.low, result.worst_case.high) == wilson(int(robust.sum()), 120)


def test_worst_case_is_pointwise(linear, data, threat):
    # Up fools only samples of one class, down only those of the other: no single attack is the worst case.
    attacks = {"up": shift(0.1 * linear.w.detach().sign()), "down": shift(-0.1 * linear.w.detach().sign())}
    result = evaluate(linear, data, attacks, threat)
    up, down = result.outcomes["up"], result.outcomes["down"]
    assert torch.equal(result.worst_case.outcomes, up & down)
    assert result.worst_case.correct < min(up.sum(), down.sum())
    assert torch.equal(result.worst_case.outcomes, linear.robust(*data, 0.1))


def test_attacks_get_only_samples_that_are_right_when_clean(linear, data, threat):
    seen = []

    def attack(model, x, y):
        seen.append((model(x).argmax(1) == y, len(x), model.training))
        return x

    result = evaluate(linear, data, {"spy": attack}, threat, batch_size=50)
    assert all(right.all() for right, _, _ in seen)
    assert sum(n for _, n, _ in seen) == result.clean.correct
    assert max(n for _, n, _ in seen) == 50
    assert not any(training for _, _, training in seen)
    assert torch.equal(result.outcomes["spy"], result.clean.outcomes)
    assert torch.equal(result["spy"].attacked, result.clean.outcomes)


def test_sequential_work_gives_the_same_worst_case_for_fewer_calls(linear, data, threat):
    weak, strong = FGSM(threat.with_eps(0.05)), FGSM(threat)
    all_at_once = evaluate(linear, data, {"weak": weak, "strong": strong}, threat)
    one_by_one = evaluate(linear, data, {"weak": weak, "strong": strong}, threat, sequential=True)
    assert torch.equal(one_by_one.worst_case.outcomes, all_at_once.worst_case.outcomes)
    assert torch.equal(one_by_one["strong"].attacked, all_at_once.outcomes["weak"])
    assert one_by_one["strong"].attacked.sum() < all_at_once["strong"].attacked.sum()
    assert torch.equal(one_by_one.outcomes["strong"], all_at_once.worst_case.outcomes)


def test_noise_and_other_threats_are_reported_but_not_counted(linear, data, threat):
    attacks = {
        "gaussian": Gaussian(0.5),
        "clean": Clean(),
        "big": FGSM(threat.with_eps(0.3)),
        "object": Foreign(None),
        "foreign": Foreign("linf"),
        "l2 inside": FGSM(Threat("l2", 0.1)),
        "l2 outside": FGSM(Threat("l2", 0.2)),
        "fgsm": FGSM(threat),
    }
    result = evaluate(linear, data, attacks, threat)
    assert {r.name: r.status for r in result.attacks} == {
        "gaussian": "no threat",
        "clean": "no threat",
        "big": "other threat",
        "object": "no threat",
        "foreign": "counted",
        "l2 inside": "counted",
        "l2 outside": "other threat",
        "fgsm": "counted",
    }
    assert result["gaussian"].threat is None
    assert result["big"].threat.eps == 0.3
    assert result["big"].score.correct < result["fgsm"].score.correct, "the bigger ball fools more"
    assert torch.equal(result.worst_case.outcomes, linear.robust(*data, 0.1))


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (("l2", 0.1), ("linf", 0.1), True),
        (("l2", 0.11), ("linf", 0.1), False),
        (("linf", 0.1), ("l2", 0.1 * 3), True),
        (("linf", 0.1), ("l2", 0.1 * 2.99), False),
        (("l1", 0.1), ("l2", 0.1), True),
        (("l2", 0.1), ("l1", 0.3), True),
        (("linf", 0.1), ("l1", 0.89), False),
        (("l1.5", 0.1), ("l1.5", 0.1), True),
    ],
)
def test_which_ball_lies_in_which(inner, outer, expected):
    assert lies_within(Threat(*inner), Threat(*outer), features=9) is expected


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (
            lambda model, x, y: x + 0.15 * (torch.arange(len(x)) == 2)[:, None],
            r"point for sample \d+ lies at linf distance 0\.15 from its input, outside eps = 0\.1",
        ),
        (lambda model, x, y: x / 0, r"point for sample 0 has NaN or infinite values"),
        (lambda model, x, y: torch.full_like(x, math.nan), r"point for sample 0 has NaN or infinite values"),
    ],
    ids=["ball", "inf", "nan"],
)
def test_an_attack_that_breaks_the_threat_is_reported_and_not_counted(linear, data, attack, words, threat):
    data = (data[0], (linear(data[0])[:, 1] > 0).long())
    with pytest.warns(UserWarning, match=f"attack 'bad' is not counted: its {words}"):
        result = evaluate(linear, data, {"bad": attack, "fgsm": FGSM(threat)}, threat)
    assert result["bad"].status == "invalid"
    assert f"bad is not counted: {result['bad'].problem}" in result.table()
    assert torch.equal(result.worst_case.outcomes, result.outcomes["fgsm"])


def test_a_break_names_the_first_sample_by_its_number_in_the_data(linear, data, threat):
    def attack(model, x, y):
        return torch.where((x == data[0][77]).all(1, keepdim=True), x + 0.125, x)

    data = (data[0], (linear(data[0])[:, 1] > 0).long())
    with pytest.warns(UserWarning, match="point for sample 77 lies at linf distance 0.125 "):
        evaluate(linear, data, {"bad": attack}, threat, batch_size=50)


def test_a_point_outside_the_box_says_by_how_much(linear, data):
    x = data[0]
    threat = Threat("linf", 0.1, bounds=(0.0, float(x.max())))
    y = (linear(x)[:, 1] > 0).long()
    with pytest.warns(UserWarning, match="not counted"):
        result = evaluate(linear, (x, y), {"up": lambda m, x, y: x + 0.0625}, threat)
    assert "leaves the box of allowed values by 0.0" in result["up"].problem


def test_unclipped_steepest_point_is_no_attack_in_a_box(linear, data):
    x, y = data
    threat = Threat("linf", 0.1, bounds=(float(x.min()), float(x.max())))
    with pytest.warns(UserWarning, match="leaves the box"):
        result = evaluate(linear, (x, y), [Steepest(threat), FGSM(threat)], threat)
    assert [r.status for r in result.attacks] == ["invalid", "counted"]


@pytest.mark.parametrize(
    ("attack", "error", "words"),
    [
        (lambda model, x, y: x.tolist(), TypeError, "attack 'a' must return a tensor, got list"),
        (lambda model, x, y: x[:-1], ValueError, r"attack 'a' returned shape \[\d+, 6\] for inputs"),
        (
            lambda model, x, y: x.double(),
            TypeError,
            "attack 'a' returned torch.float64 for inputs of torch.float32",
        ),
    ],
)
def test_an_attack_that_returns_no_such_tensor_is_an_error(linear, data, threat, attack, error, words):
    with pytest.warns(UserWarning, match="it stopped with"), pytest.raises(error, match=words):
        evaluate(linear, data, {"a": attack}, threat)


def test_points_do_not_depend_on_batch_size_or_global_seed(net, images):
    threat = Threat("l2", 0.4)
    attacks = {"pgd": PGD(threat, steps=3, restarts=2), "uniform": Uniform(threat), "gaussian": Gaussian(0.2)}
    results = []
    for batch_size, global_seed in [(40, 0), (7, 1), (1, 2)]:
        torch.manual_seed(global_seed)
        results.append(evaluate(net, images, attacks, threat, batch_size=batch_size, seed=5))
    for name in attacks:
        assert torch.equal(results[0].outcomes[name], results[1].outcomes[name])
        assert torch.equal(results[0].outcomes[name], results[2].outcomes[name])
    # The seed does matter: the noise moves other samples.
    other = evaluate(net, images, attacks, threat, seed=6)
    assert not all(torch.equal(other.outcomes[n], results[0].outcomes[n]) for n in attacks)


@pytest.mark.parametrize(
    ("precision", "limit"), [("full", {"_MOST_BATCHES": 1}), ("bf16", {"_MOST_VALUES": 5 * 25 + 1})]
)
def test_batches_are_filled_again_while_an_attack_goes_on(net, images, monkeypatch, precision, limit):
    """Where samples leave, others take their places; no call sees more than a batch, and the verdicts are the same."""
    threat = Threat("linf", 0.8)
    attacks = {"apgd": APGD(threat, steps=40), "pgd": PGD(threat, steps=40)}
    rows = []
    handle = net.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    options = {"batch_size": 5, "precision": precision}
    refilled = evaluate(net, images, attacks, threat, **options)
    calls, most = len(rows), max(rows)
    rows.clear()
    for name, value in limit.items():
        monkeypatch.setattr(attack_run, name, value)
    alone = evaluate(net, images, attacks, threat, **options)
    handle.remove()
    assert all(torch.equal(refilled.outcomes[name], alone.outcomes[name]) for name in attacks)
    assert 0 < refilled.worst_case.correct < 10 < 30 < refilled.clean.correct
    assert most == 5
    assert calls < 0.8 * len(rows)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_call_of_the_model_sees_more_rows_than_a_batch(net, images, norm):
    """Neither where samples have several targets or queries: whoever asks for small batches has a small memory."""
    threat = Threat(norm, {"linf": 0.15, "l2": 0.4, "l1": 1.0}[norm])
    attacks = [APGDT(threat, steps=3), FAB(threat, steps=3), Square(threat, queries=30)]
    rows = []
    handle = net.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    evaluation = evaluate(net, images, attacks, threat, batch_size=5)
    handle.remove()
    assert 0 < evaluation.worst_case.correct < evaluation.clean.correct
    assert max(rows) == 5


def test_every_sample_has_its_own_noise(net):
    """Equal images in one batch get different noise, and a sample the same noise in any batch and under any attack's
    neighbours; another attack's name or another seed gives other noise."""
    x, y = torch.full((6, 1, 5, 5), 0.5), torch.zeros(6, dtype=torch.int64)
    point = Uniform(Threat("linf", 0.1))
    together = Crafter("a", point, seed=0)(net, x, y, torch.arange(6))
    assert len(torch.unique(together.flatten(1), dim=0)) == 6
    alone = Crafter("a", point, seed=0)(net, x[:1], y[:1], torch.tensor([4]))
    assert torch.equal(alone[0], together[4])
    for other in (Crafter("b", point, seed=0), Crafter("a", point, seed=1)):
        assert not torch.equal(other(net, x, y, torch.arange(6)), together)


def test_function_attacks_are_seeded_and_leave_the_global_state(linear, data, threat):
    def with_generator(model, x, y, generator=None):
        return (x + 0.1 * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)

    def with_global(model, x, y):
        return (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    attacks = {"generator": with_generator, "global": with_global}
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = evaluate(linear, data, attacks, threat)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    two = evaluate(linear, data, attacks, threat)
    for name in attacks:
        assert torch.equal(one.outcomes[name], two.outcomes[name])
        assert one[name].score.correct < one.clean.correct


def fingerprint(model):
    return (
        [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        copy.deepcopy(model.state_dict()),
    )


def same(one, other):
    grads = all((a is None and b is None) or torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    state = all(torch.equal(one[3][k], other[3][k]) for k in one[3])
    return one[0] == other[0] and one[1] == other[1] and grads and state


def rude(model, x, y):
    """An attack with no manners: train mode, gradients on the weights, frozen weights."""
    x = x.clone().requires_grad_()
    model.eval()
    nn.functional.cross_entropy(model(x), y).backward()
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return (x + 0.05 * x.grad.sign()).clamp(0, 1).detach()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(net, images, fails):
    threat = Threat("linf", 0.1)
    net.body[5].bias.requires_grad_(False)
    net.body[0].bias.grad = torch.ones(4)
    before = fingerprint(net)
    rng = torch.get_rng_state()

    def raises(model, x, y):
        rude(model, x, y)
        raise RuntimeError("no more")

    attacks = {"pgd": PGD(threat, steps=2), "rude": raises if fails else lambda m, x, y: rude(m, x, y)}
    if fails:
        with pytest.warns(UserWarning, match="it stopped with RuntimeError: no more"):
            evaluate(net, images, attacks, threat)
    else:
        result = evaluate(net, images, attacks, threat)
        assert result["rude"].status == "counted"
    assert same(before, fingerprint(net))
    assert torch.equal(torch.get_rng_state(), rng)


def test_an_attack_that_changes_the_model_is_invalid_and_undone(net, images):
    threat = Threat("linf", 0.1)

    def updates_statistics(model, x, y):
        model.train()
        with torch.no_grad():
            model.body[1].train()
            model(x)
        return x

    before = fingerprint(net)
    alone = evaluate(net, images, {"pgd": PGD(threat, steps=2)}, threat)
    with pytest.warns(UserWarning, match="changed the model's weights or buffers"):
        result = evaluate(net, images, {"bad": updates_statistics, "pgd": PGD(threat, steps=2)}, threat)
    assert result["bad"].status == "invalid"
    assert torch.equal(result.outcomes["pgd"], alone.outcomes["pgd"]), "later attacks see the model as it was"
    assert same(before, fingerprint(net))


def test_works_under_no_grad(linear, data, threat):
    with torch.no_grad():
        result = evaluate(linear, data, [FGSM(threat)], threat)
    assert torch.equal(result.outcomes["fgsm"], linear.robust(*data, 0.1))


def test_float64_arrays_and_half_models(linear, data, threat):
    x, y = data
    reference = evaluate(linear, data, [FGSM(threat)], threat)
    arrays = evaluate(linear, (x.double().numpy(), y.numpy()), [FGSM(threat)], threat)
    assert torch.equal(arrays.worst_case.outcomes, reference.worst_case.outcomes)
    half = evaluate(copy.deepcopy(linear).bfloat16(), (x.bfloat16(), y), [FGSM(threat)], threat)
    assert half["fgsm"].status == "counted"
    assert abs(half.worst_case.accuracy - reference.worst_case.accuracy) < 0.1


class Curve:
    def test_is_measured_at_every_eps(self, linear, data, threat):
        result = evaluate(
            linear,
            data,
            {"weak": FGSM(threat.with_eps(0.05)), "fgsm": FGSM(threat)},
            threat,
            curve=[0.0, 0.05, 0.1, 0.2],
        )
        assert [p.eps for p in result.curve] == [0.0, 0.05, 0.1, 0.2]
        assert {p.attack for p in result.curve} == {"fgsm"}, "the strongest by default"
        for point in result.curve:
            expected = linear.robust(*data, point.eps) if point.eps else result.clean.outcomes
            assert (point.correct, point.n) == (int(expected.sum()), 120)

    def test_subset_is_drawn_by_seed(self, linear, data, threat):
        def curves(seed):
            result = evaluate(
                linear, data, [FGSM(threat)], threat, curve=[0.02, 0.05, 0.1], curve_samples=30, seed=seed
            )
            return [(p.correct, p.n) for p in result.curve]

        assert curves(0) == curves(0)
        assert {n for _, n in curves(0)} == {30}
        assert len({tuple(curves(seed)) for seed in range(5)}) > 1

    def test_nothing_makes_it_fall(self, linear, data, threat):
        """An attack that fails at large eps shows: the curve is what was measured."""

        class Shy(FGSM_TYPE):  # type: ignore[valid-type, misc]
            def locate(self, probe):
                return probe.x if self.threat.eps > 0.07 else super().locate(probe)

        shy = Shy(threat.with_eps(0.06), clip="threat")
        result = evaluate(linear, data, {"shy": shy}, threat, curve=[0.06, 0.09])
        assert result.curve[0].correct < result.curve[1].correct

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"curve": [-0.1]}, "not negative, got -0.1"),
            ({"curve": [math.nan]}, "finite"),
            ({"curve": [0.1], "curve_attack": "apgd"}, "'apgd' is not among the attacks: f, noise"),
            ({"curve": [0.1], "curve_attack": "noise"}, "'noise' has no threat"),
            ({"curve": [0.1], "curve_samples": 0}, "curve_samples must be at least 1"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
        ],
    )
    def test_bad_options(self, linear, data, threat, options, words):
        calls = []
        linear.register_forward_hook(lambda *_: calls.append(1))
        with pytest.raises(ValueError, match=words):
            evaluate(linear, data, {"f": FGSM(threat), "noise": Gaussian(0.1)}, threat, **options)
        assert not calls, "refused before any work"

    def test_needs_an_attack_with_a_threat(self, linear, data, threat):
        with pytest.raises(ValueError, match="a curve over eps needs an attack with a threat"):
            evaluate(linear, data, {"f": shift(0.1)}, threat, curve=[0.1])


FGSM_TYPE = Steepest
TestCurve = Curve


class Outputs(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(1)[:, :3] * 4)


class TestBadModels:
    X = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    Y = torch.arange(20) % 3

    def run(self, function, y=None, x=None, attacks=()):
        threat = Threat("linf", 0.1)
        return evaluate(
            Outputs(function), (self.X if x is None else x, self.Y if y is None else y), attacks, threat
        )

    @pytest.mark.parametrize(
        ("function", "error", "words"),
        [
            (lambda z: (z, z), TypeError, r"one tensor \[B, C\], got tuple of 2"),
            (lambda z: {"logits": z}, TypeError, "got dict of 1"),
            (lambda z: z.argmax(1), TypeError, "floating-point logits, got torch.int64"),
            (lambda z: z[:, :1], ValueError, r"C >= 2 for 20 samples, got \[20, 1\]"),
            (lambda z: z.mean(), ValueError, r"got \[\]"),
            (
                lambda z: torch.where(z.sum(1, keepdim=True) > 8, math.nan, z),
                ValueError,
                "NaN logits for the clean sample",
            ),
        ],
    )
    def test_refused_in_one_sentence(self, function, error, words):
        with pytest.raises(error, match=words):
            self.run(function)

    def test_probabilities_warn_once(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.run(lambda z: z.softmax(1), attacks=[FGSM(Threat("linf", 0.1))])
        assert [("look like probabilities" in str(w.message)) for w in caught] == [True]

    def test_log_probabilities_are_logits(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.run(lambda z: z.log_softmax(1))

    @pytest.mark.parametrize(
        ("y", "error", "words"),
        [
            (torch.arange(20) % 4, ValueError, "label 3 of sample 3 is out of range"),
            (torch.full((20,), -1), ValueError, "label -1"),
            (torch.zeros(20), TypeError, "labels must be integers"),
        ],
    )
    def test_labels(self, y, error, words):
        with pytest.raises(error, match=words):
            self.run(lambda z: z, y=y)

    @pytest.mark.parametrize(
        ("x", "words"),
        [
            (255 * torch.rand(20, 6), "divide by 255"),
            (torch.full((20, 6), math.nan), "NaN"),
            (torch.rand(20, 6) - 0.5, "bounds"),
        ],
    )
    def test_inputs(self, x, words):
        with pytest.raises(ValueError, match=words):
            self.run(lambda z: z, x=x)

    def test_no_sample_right(self):
        y = (Outputs(lambda z: z)(self.X).argmax(1) + 1) % 3
        with pytest.warns(UserWarning, match="none of 20 samples right"):
            result = self.run(lambda z: z, y=y, attacks=[FGSM(Threat("linf", 0.1)), PGD(Threat("linf", 0.1))])
        assert result.clean.accuracy == result.worst_case.accuracy == 0.0
        assert result.worst_case.low == 0.0
        assert "nothing to attack" in result.table()

    def test_nan_at_an_adversarial_point_is_a_wrong_answer(self):
        clean = self.X.clone()

        def breaks(z):
            return z if torch.isclose(z, clean[:, :3] * 4).all() else z * math.nan

        y = (self.X[:, :3] * 4).argmax(1)
        result = self.run(breaks, y=y, attacks={"up": lambda m, x, y: (x - 0.05).clamp(0, 1)})
        assert result.clean.accuracy == 1.0
        assert result.worst_case.accuracy == 0.0

    def test_not_a_module_or_threat(self):
        with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function"):
            evaluate(lambda x: x, (self.X, self.Y), [], Threat("linf", 0.1))
        with pytest.raises(TypeError, match="Threat"):
            evaluate(Outputs(lambda z: z), (self.X, self.Y), [], 0.1)


class TestNames:
    def test_from_a_sequence(self):
        threat = Threat("linf", 0.1)
        given = [
            FGSM(threat),
            PGD(threat),
            PGD(threat, steps=50),
            Gaussian(0.1),
            shift(0.1),
            lambda m, x, y: x,
        ]
        assert list(named(given)) == ["fgsm", "pgd", "pgd-2", "gaussian", "attack", "attack-2"]
        assert list(named(FGSM(threat))) == ["fgsm"]

    def test_description_holds_no_address(self):
        assert "0x" not in describe(shift(0.1))
        assert describe(PGD(Threat("linf", 0.1), steps=7)) == repr(PGD(Threat("linf", 0.1), steps=7))

    @pytest.mark.parametrize("attacks", [["pgd"], {"pgd": "pgd"}, {"pgd": PGD}, [PGD]])
    def test_not_callable_as_an_attack(self, attacks):
        with pytest.raises(TypeError, match="must be callable"):
            named(attacks)

    def test_empty_name(self):
        with pytest.raises(ValueError, match="needs a name"):
            named({" ": shift(0.1)})


def test_no_attacks_means_no_worst_case(linear, data, threat):
    result = evaluate(linear, data, [], threat)
    assert result.worst_case is None
    assert result.to_dict()["worst_case"] is None
    assert "No attack in the threat was run" in result.table()


def test_progress_is_told_and_drawn(linear, data, threat, capsys):
    heard: list[Progress] = []
    result = evaluate(linear, data, [FGSM(threat)], threat, batch_size=50, progress=heard.append)
    attacked = result.clean.correct
    assert [p.done for p in heard if p.stage == "clean"] == [50, 100, 120]
    assert [p.done for p in heard if p.stage == "fgsm"] == [0, 50, 100, attacked]
    assert heard[-1] == Progress("fgsm", attacked, attacked, result.worst_case.correct)
    evaluate(linear, data, [FGSM(threat)], threat, progress=True)
    assert "fgsm" in capsys.readouterr().out
    with pytest.raises(TypeError, match="progress"):
        evaluate(linear, data, [], threat, progress="bars")
