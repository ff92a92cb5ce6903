"""Models, data, threats and attacks that make no sense: one sentence each, and nothing is lost."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from robustreg.attacks import PGD
from robustreg.evaluation import evaluate, verify
from robustreg.points import FGSM
from robustreg.threat import Threat

THREAT = Threat("linf", 0.1)
X = 0.9 * torch.rand(20, 6, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """A linear model whose logits something is done to."""

    def __init__(self, change=lambda z, x: z):
        super().__init__()
        self.body, self.change = nn.Linear(6, 4, bias=False), change
        with torch.no_grad():
            self.body.weight.copy_(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        return self.change(self.body(x), x)


@pytest.fixture
def y():
    return Odd()(X).argmax(1)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda z, x: (z, x), TypeError, r"must return its logits as one tensor .*got tuple of 2"),
        (lambda z, x: {"logits": z}, TypeError, "got dict of 1"),
        (lambda z, x: z * float("nan"), ValueError, "gives NaN logits for the clean sample 0"),
        (lambda z, x: z * float("inf"), ValueError, "gives infinite logits for the clean sample 0"),
        (lambda z, x: z.argmax(1), TypeError, "class numbers"),
        (lambda z, x: z[:, :1], ValueError, "C >= 2"),
        (lambda z, x: z @ x, RuntimeError, r"the model fails on inputs of \[20, 6\] float32: "),
    ],
)
def test_models(y, change, error, sentence):
    with pytest.raises(error, match=sentence):
        evaluate(Odd(change), (X, y), PGD(THREAT), THREAT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision(y, dtype):
    named = str(dtype).replace("torch.", "")
    with pytest.raises(
        RuntimeError, match=rf"float32: its weights are {named}; take model\.float\(\), or a forward"
    ):
        evaluate(Odd().to(dtype), (X, y), PGD(THREAT), THREAT)


def test_a_model_that_changes_its_inputs_in_place(y):
    """What it did to them would be the data of everything after it."""
    x = X.clone()
    model = Odd()
    model.forward = lambda x: model.body(x.sub_(0.5))
    with pytest.raises(
        ValueError, match=r"the model changes its inputs in place, but an attack goes on from them"
    ):
        evaluate(model, (x, y), FGSM(THREAT), THREAT)
    assert torch.equal(x, X)


def test_in_inference_mode(y):
    model, attack = Odd(), FGSM(THREAT)
    expected = evaluate(model, (X, y), attack, THREAT)
    with torch.inference_mode():
        found = evaluate(model, (X.clone(), y), attack, THREAT)
    assert torch.equal(found.worst_case.outcomes, expected.worst_case.outcomes)


def test_a_model_that_breaks_on_the_way_is_not_fooled(y, tmp_path):
    model = Odd()
    calls = []
    model.register_forward_hook(lambda module, given, z: z * float("nan") if calls else None)

    def slow(model, x, y):
        calls.append(1)
        return x

    with pytest.warns(
        UserWarning, match=r"'slow' is not counted: .*the model gives NaN logits by now for clean samples"
    ):
        evaluation = evaluate(
            model, (X, y), {"fgsm": FGSM(THREAT), "slow": slow}, THREAT, evidence_dir=tmp_path
        )
    assert [result.status for result in evaluation.attacks] == ["counted", "invalid"]
    assert torch.equal(evaluation.worst_case.outcomes, evaluation["fgsm"].score.outcomes)
    calls.clear()
    assert verify(tmp_path, model, (X, y)).ok


def test_masked_classes_are_no_error(y):
    """Minus infinity is how a class is ruled out."""
    ruled_out = torch.tensor([0.0, 0.0, 0.0, -float("inf")])
    evaluation = evaluate(Odd(lambda z, x: z + ruled_out), (X, y.clamp(max=2)), FGSM(THREAT), THREAT)
    assert evaluation.clean.correct > 0


def test_probabilities_are_told(y):
    with pytest.warns(UserWarning, match="look like probabilities"):
        evaluate(Odd(lambda z, x: z.softmax(1)), (X, y), FGSM(THREAT), THREAT)


def test_gradients_that_are_not_finite_are_told(y):
    """The logits are fine, but 0 * NaN in the backward of `where` is not."""

    def change(z, x):
        return torch.where(x[:, :1] > 0.97, z * float("nan"), z)

    with pytest.warns(UserWarning, match="input gradient is NaN or infinite for 20 of 20 samples"):
        evaluate(Odd(change), (X, y), FGSM(THREAT), THREAT)


def test_a_model_without_gradients_is_no_error(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(Odd(lambda z, x: z.detach()), (X, y), lambda model, x, y: x, THREAT)


@pytest.mark.parametrize("eps", [1.0, 2.0])
def test_a_threat_as_wide_as_the_box_is_told(y, eps):
    threat = Threat("linf", eps)
    with pytest.warns(UserWarning, match=r"as wide as the box: within linf eps = .*the box is 1 across"):
        evaluate(Odd(), (X, y), FGSM(threat), threat)


@pytest.mark.parametrize(
    "threat",
    [
        Threat("linf", 0.99),
        Threat("l2", 2.4),
        Threat("linf", 8, bounds=None),
        Threat("linf", 8, bounds=(0, float("inf"))),
        Threat("linf", 8, bounds=(torch.zeros(6), torch.full((6,), 255.0))),
    ],
)
def test_other_threats_are_not(y, threat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(Odd(), (X, y), FGSM(threat), threat)


def test_where_every_attack_fails_the_error_is_raised(y):
    def fails(model, x, y):
        raise KeyError("out of luck")

    with (
        pytest.warns(UserWarning, match="stopped with KeyError"),
        pytest.raises(KeyError, match="out of luck"),
    ):
        evaluate(Odd(), (X, y), {"one": fails, "two": fails}, THREAT)


def test_an_attack_that_fails_fooled_nobody_it_did_not_reach(y):
    calls = []

    def fails_later(model, x, y):
        calls.append(len(x))
        if len(calls) > 1:
            raise RuntimeError
        return (x + THREAT.eps * 0.5).clamp(0, 1)

    attacks = {"fails": fails_later, "pgd": PGD(THREAT)}
    with pytest.warns(UserWarning, match="stopped with RuntimeError: no message"):
        evaluation = evaluate(Odd(), (X, y), attacks, THREAT, batch_size=5)
    failed = evaluation["fails"]
    assert failed.status == "invalid"
    assert failed.score.outcomes[5:].all()
    assert evaluation.worst_case.correct == evaluation["pgd"].score.correct


def test_no_sample_right(y):
    with pytest.warns(UserWarning, match="classifies none of 20 samples right"):
        evaluation = evaluate(Odd(), (X, (y + 1) % 4), PGD(THREAT), THREAT, curve=[0.1, 0.2])
    assert evaluation.worst_case.accuracy == 0.0
    assert [point.accuracy for point in evaluation.curve] == [0.0, 0.0]
    assert "nothing to attack" in evaluation.table()


def test_a_model_that_rules_out_every_class_is_refused(y):
    with pytest.raises(ValueError, match="gives infinite logits for the clean sample 0"):
        evaluate(Odd(lambda z, x: z - float("inf")), (X, y), FGSM(THREAT), THREAT)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": None}, TypeError, "batch_size must be a whole number, got None"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"seed": None}, TypeError, "the seed must be an integer, got None"),
        (
            {"curve": 0.1},
            TypeError,
            r"the curve must be a sequence of numbers, such as \[0.05, 0.1\], got 0.1",
        ),
        ({"curve": ["a"]}, TypeError, "the curve must be a sequence of numbers"),
        ({"curve": [0.1], "curve_samples": 2.5}, TypeError, "curve_samples must be a whole number, got 2.5"),
        ({"distances": "fab"}, TypeError, "a sequence of them or a mapping from names, got 'fab'"),
        ({"distance_samples": 1.5}, TypeError, "distance_samples must be a whole number, got 1.5"),
    ],
)
def test_options(y, options, error, sentence):
    """All are refused before work starts: some would matter only hours later."""
    with pytest.raises(error, match=sentence):
        evaluate(Odd(), (X, y), PGD(THREAT), THREAT, progress=lambda _: pytest.fail("it began"), **options)


@pytest.mark.parametrize("attacks", ["pgd", None, 3])
def test_what_is_no_attack(y, attacks):
    with pytest.raises(TypeError, match=f"the attacks must be one attack, .* got {attacks!r}"):
        evaluate(Odd(), (X, y), attacks, THREAT)


@pytest.mark.parametrize("below", ["file", "file/evidence"])
def test_evidence_where_a_file_is(y, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"evidence_dir must be a folder, but .* a file"):
        evaluate(Odd(), (X, y), lambda *_: pytest.fail("it began"), THREAT, evidence_dir=tmp_path / below)
    assert (tmp_path / "file").read_text() == "mine"


class OneRadius:
    """An attack for one radius only, which it does not even keep to."""

    threat = THREAT

    def __call__(self, model, x, y):
        return -x

    def with_threat(self, threat):
        if threat.eps != THREAT.eps:
            raise ValueError("only 0.1 will do")
        return self


def test_an_attack_that_refuses_an_eps_of_the_curve_does_so_at_once(y):
    with pytest.raises(ValueError, match=r"only 0\.1 will do"):
        evaluate(
            Odd(), (X, y), OneRadius(), THREAT, curve=[0.1, 0.2], progress=lambda _: pytest.fail("it began")
        )


def test_the_curve_is_not_that_of_an_attack_which_left_the_ball(y):
    with pytest.warns(UserWarning, match="is not counted"):
        evaluation = evaluate(Odd(), (X, y), {"far": OneRadius(), "fgsm": FGSM(THREAT)}, THREAT, curve=[0.1])
    assert evaluation["far"].score.correct < evaluation["fgsm"].score.correct
    assert [point.attack for point in evaluation.curve] == ["fgsm"]
    with pytest.warns(UserWarning, match="is not counted"):
        alone = evaluate(Odd(), (X, y), OneRadius(), THREAT, curve=[0.1])
    assert "outside eps" in alone.curve[0].problem


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (lambda x, y: (x, y.float()), TypeError, "integers, class numbers from 0, got torch.float32"),
        (
            lambda x, y: (x, torch.nn.functional.one_hot(y).float()),
            ValueError,
            r"got \[20, 4\]: of one-hot labels take y.argmax\(1\)",
        ),
        (lambda x, y: ((255 * x).to(torch.uint8), y), TypeError, "got torch.uint8: divide by 255"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "there are no samples"),
        (lambda x, y: (x[:, 0], y), ValueError, r"\[N, 1\] where a sample is a single number, got \[20\]"),
        (lambda x, y: (x[0, 0], y[0]), ValueError, r"must have shape \[N, ...\].* got \[\]"),
        (
            lambda x, y: [(x[:5], y[:5]), (x[5:, :4], y[5:])],
            ValueError,
            r"batch 0 has \[5, 6\] and batch 1 \[15, 4\]",
        ),
    ],
)
def test_data(y, data, error, sentence):
    with pytest.raises(error, match=sentence):
        evaluate(Odd(), data(X, y), PGD(THREAT), THREAT)


def test_data_that_can_be_read_once_only(y):
    batches = ((X[i : i + 5], y[i : i + 5]) for i in range(0, 20, 5))
    evaluation = evaluate(Odd(), batches, FGSM(THREAT), THREAT)
    assert (
        evaluation["fgsm"].score.correct
        == evaluate(Odd(), (X, y), FGSM(THREAT), THREAT)["fgsm"].score.correct
    )
    with pytest.raises(ValueError, match="the iterable of batches is empty"):
        evaluate(Odd(), batches, FGSM(THREAT), THREAT)


def fails_at_three(z, x):
    if len(x) == 3:
        raise IndexError("three are too few\nhere")
    return z


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (fails_at_three, RuntimeError, r"the model fails on inputs of \[3, 6\] float32: three are too few$"),
        (
            lambda z, x: z if len(x) == 17 else z[:, :3],
            ValueError,
            "4 logits for sample 0 but 3 for sample 17: the number of classes must not depend on the batch",
        ),
    ],
)
def test_a_model_that_minds_the_last_batch(y, change, error, sentence):
    with pytest.raises(error, match=sentence):
        evaluate(Odd(change), (X, y), FGSM(THREAT), THREAT, batch_size=17)


def test_nan_at_adversarial_points_only_is_told(y):
    """They count as misclassified, which a reader must know."""

    def change(z, x):
        return torch.where(torch.isin(x[:, :1], X[:, :1]), z, z.detach() * float("nan"))

    def shifted(model, x, y):
        return (x + 0.05).clamp(0, 1)

    with pytest.warns(UserWarning, match="gives NaN logits at points of 'shifted': such a sample counts as"):
        evaluation = evaluate(Odd(change), (X, y), shifted, THREAT)
    assert evaluation.clean.correct == 20
    assert evaluation["shifted"].score.correct == 0


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("cudaa", "device should be one such as 'cpu' or 'cuda', got 'cudaa'"),
        (f"cuda:{torch.cuda.device_count()}", r"device 'cuda:\d' was asked for, but torch finds"),
        ("meta", "device 'meta' was asked for, but torch cannot use it here"),
    ],
)
def test_devices_that_are_not_there(y, device, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        evaluate(
            Odd(), (X, y), PGD(THREAT), THREAT, device=device, progress=lambda _: pytest.fail("it began")
        )
    with pytest.raises(ValueError, match=sentence):
        verify(tmp_path, Odd(), (X, y), device=device)


def test_a_model_without_weights_is_told(y):
    with pytest.raises(ValueError, match="on the device 'meta', where tensors have no values"):
        evaluate(Odd().to("meta"), (X, y), PGD(THREAT), THREAT)


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "half a pair \ud800", 3])
def test_names_that_are_none(y, name):
    with pytest.raises(ValueError, match=r"needs a name|must be printable text on one line"):
        evaluate(Odd(), (X, y), {name: FGSM(THREAT)}, THREAT)
