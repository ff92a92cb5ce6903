"""Models that are no function of a sample: said at once, seeded, and no work of an attack."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustreg.attacks import PGD
from robustreg.evaluation import EvaluationInterrupted, evaluate, verify
from robustreg.points import FGSM
from robustreg.threat import Threat

THREAT = Threat("linf", 0.05)
X = torch.rand(24, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)
        with torch.no_grad():
            self.body.weight.copy_(4 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        return self.norm(self.body(x))


class Dropout(Net):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.2, training=True))


class Noise(Net):
    """Of NumPy, which no seed of torch reaches."""

    def forward(self, x):
        return super().forward(x + torch.tensor(np.random.normal(0, 0.1, x.shape), dtype=x.dtype))


class OfTheBatch(Net):
    def forward(self, x):
        return F.batch_norm(self.body(x), None, None, training=True)


class Updates(Net):
    """Normalises by running statistics, and updates them nevertheless."""

    def forward(self, x):
        z = self.body(x)
        if not torch.is_grad_enabled():
            self.norm.num_batches_tracked.add_(1)
        return self.norm(z)


Y = Net().eval()(X).argmax(1)
RUN, BATCH, BUFFERS = "differ from run to run", "what else is in its batch", "changes its own buffers"


def warned(model: nn.Module, **options: object) -> tuple[object, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = evaluate(model.eval(), (X, Y), {"fgsm": FGSM(THREAT)}, THREAT, **options)  # type: ignore[arg-type]
    return found, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("model", "said"), [(Net, None), (Dropout, RUN), (Noise, RUN), (OfTheBatch, BATCH), (Updates, BUFFERS)]
)
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_it_is_said(model: type[Net], said: str | None, batch_size: int) -> None:
    if batch_size == 1 and model is OfTheBatch:
        return  # such a model fails on one sample
    _, messages = warned(model(), batch_size=batch_size)
    assert [said in message for message in messages] == ([] if said is None else [True])


def test_what_the_model_does_by_itself_is_laid_on_no_attack() -> None:
    model = Updates().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluation, _ = warned(model)
    assert [result.status for result in evaluation.attacks] == ["counted"]  # type: ignore[attr-defined]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def trains(model, x, y):
        model.body.weight.data.add_(1.0)
        return x

    with pytest.warns(UserWarning, match="'trains' is not counted: it changed the model's weights"):
        both = evaluate(model, (X, Y), {"fgsm": FGSM(THREAT), "trains": trains}, THREAT)
    assert [result.status for result in both.attacks] == ["counted", "invalid"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_layers_are_seeded_and_leave_no_trace() -> None:
    model = Dropout()
    first, _ = warned(model)
    torch.rand(3)
    state = torch.get_rng_state()
    second, _ = warned(model)
    other, _ = warned(model, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for part in ("clean", "worst_case"):
        one, two, three = (getattr(found, part).outcomes for found in (first, second, other))
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


@pytest.mark.filterwarnings("ignore:the model's logits")
def test_an_interrupted_evaluation_of_a_random_model_goes_on(tmp_path: Path) -> None:
    stopped = []

    def stop(model, x, y):
        stopped.append(1)
        if len(stopped) == 1:
            raise KeyboardInterrupt
        return x

    model = Dropout().eval()
    attacks = {"pgd": PGD(THREAT, steps=5), "stop": stop}
    with pytest.raises(EvaluationInterrupted) as interrupted:
        evaluate(model, (X, Y), attacks, THREAT, evidence_dir=tmp_path)
    kept = interrupted.value.evaluation["pgd"]
    model.calls = 0
    model.register_forward_hook(lambda *_: setattr(model, "calls", model.calls + 1))
    again = evaluate(model, (X, Y), attacks, THREAT, evidence_dir=tmp_path)
    assert model.calls == 4, "clean, gradients, steadiness, and the verdict on what `stop` gave"
    assert torch.equal(again["pgd"].score.outcomes, kept.score.outcomes)


@pytest.mark.filterwarnings("ignore:the model's logits")
@pytest.mark.parametrize(("model", "said"), [(Net, None), (Dropout, RUN), (OfTheBatch, BATCH)])
def test_verify_says_why_it_may_find_otherwise(model: type[Net], said: str | None, tmp_path: Path) -> None:
    evaluate(model().eval(), (X, Y), FGSM(THREAT), THREAT, evidence_dir=tmp_path, batch_size=8)
    verification = verify(tmp_path, model().eval(), (X, Y))
    assert any("Here the model's logits for" in note for note in verification.notes) == (said is not None)
    assert (said or "upper bound") in str(verification)


@pytest.mark.filterwarnings("ignore:the model changes its own buffers")
@pytest.mark.parametrize("fails", [False, True])
def test_verify_leaves_the_buffers_of_a_model_as_they_were(fails: bool, tmp_path: Path) -> None:
    model = Updates().eval()
    evaluate(model, (X, Y), FGSM(THREAT), THREAT, evidence_dir=tmp_path, batch_size=8)
    before = model.norm.num_batches_tracked.clone()

    def break_off(net: Updates, *_: object) -> None:
        if fails and net.norm.num_batches_tracked > before + 2:
            raise RuntimeError("out of memory")

    model.register_forward_hook(break_off)
    with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext():
        verify(tmp_path, model, (X, Y), batch_size=8)
    assert torch.equal(model.norm.num_batches_tracked, before)
