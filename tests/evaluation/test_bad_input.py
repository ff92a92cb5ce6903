"""Models, data, threats and attacks that make no sense: one sentence each, and nothing is lost."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from robustreg.attacks import PGD
from robustreg.evaluation import evaluate
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
