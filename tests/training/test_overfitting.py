"""The guard against catastrophic overfitting: what it measures, and what it does about it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import robustreg as rr
from robustreg.training import (
    CatastrophicOverfittingGuard,
    Handler,
    Trainer,
    TrainingStopped,
    checkpoint,
    tree,
)
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.overfitting import Symptoms, symptoms

THREAT = rr.Threat("linf", 0.1)


def _samples(n=64):
    g = torch.Generator().manual_seed(0)
    x = 0.2 + 0.6 * torch.rand(n, 1, 4, 4, generator=g)
    return x, (x.mean((1, 2, 3)) > 0.5).long()


def _trainer(guard, steps=6, *more, objective=None, indexed=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x, y = _samples()
    chosen = rr.CrossEntropy(at=rr.FGSM(THREAT)) if objective is None else objective
    module = rr.ObjectiveModule(net, chosen, seed=0)
    index = [torch.arange(64)] if indexed else []
    batches = [tuple(t[i : i + 16] for t in (x, y, *index)) for i in range(0, 64, 16)]
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    return Trainer(module, optimizer, batches, steps=steps, handlers=[guard, *more])


def _guard(action, **options):
    return CatastrophicOverfittingGuard(*_samples(), THREAT, action, every=2, rescue=2, steps=3, **options)


def test_a_linear_network_shows_no_symptom():
    """Its gradient is the same everywhere up to its length: one step is as good as many."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x, y = _samples()
    found = symptoms(net, x.double(), y, THREAT)
    assert found.alignment == pytest.approx(1.0)
    assert found.fgsm == found.pgd
    assert found.abnormal == 0.0


def test_collapse_is_a_gap_or_a_fall_with_a_symptom():
    guard = _guard("warn", gap=0.3, fall=0.5)
    assert guard.collapsed(Symptoms(0.9, 0.1, 1.0, 0.0))
    assert not guard.collapsed(Symptoms(0.5, 0.3, -1.0, 1.0))  # nothing was better before
    guard.best = 0.8
    assert guard.collapsed(Symptoms(0.3, 0.2, 0.1, 0.0))
    assert guard.collapsed(Symptoms(0.3, 0.2, 0.9, 0.5))
    assert not guard.collapsed(Symptoms(0.3, 0.2, 0.9, 0.0))
    guard.best = 0.13  # a constant output's, by guessing
    assert not guard.collapsed(Symptoms(0.1, 0.0, 0.0, 0.3))


def _collapse_at(guard, step, monkeypatch):
    monkeypatch.setattr(
        "robustreg.training.overfitting.symptoms",
        lambda *_, seed, **__: Symptoms(0.9, 0.0 if seed == step else 0.8, 0.9, 0.0),
    )


def test_stop_says_when_and_why(monkeypatch):
    guard = _guard("stop")
    _collapse_at(guard, 4, monkeypatch)
    with pytest.raises(
        TrainingStopped, match=r"catastrophic overfitting at step 4: FGSM 90.0 %, PGD 0.0 %"
    ) as stop:
        _trainer(guard).fit()
    assert stop.value.step == 4


def test_warn_warns_once(monkeypatch):
    guard = _guard("warn")
    monkeypatch.setattr(
        "robustreg.training.overfitting.symptoms", lambda *_, **__: Symptoms(0.9, 0.0, 0.0, 0.0)
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = _trainer(guard).fit()
    assert len([w for w in said if "catastrophic" in str(w.message)]) == 1
    assert trainer.status == "finished"
    assert guard.acted == [2, 4, 6]


@pytest.mark.parametrize("action", ["roll_back", "switch"])
def test_the_rescue_trains_multi_step_for_a_while(action, monkeypatch):
    guard = _guard(action)
    _collapse_at(guard, 4, monkeypatch)
    trainer, at = _trainer(guard, steps=8), []
    usual, weights = trainer.module.objective, {}
    found = trainer.find_gradients

    def spy():
        at.append(trainer.module.objective is guard.rescue_objective)
        weights[trainer.step] = trainer.module.net[1].weight.detach().clone()
        found()

    trainer.find_gradients = spy
    with pytest.warns(UserWarning, match="catastrophic overfitting"):
        trainer.fit()
    assert at == [False] * 4 + [True] * 2 + [False] * 2
    assert trainer.module.objective is usual
    assert torch.equal(weights[4], weights[2]) == (action == "roll_back")


def test_going_back_takes_the_optimizer_along(monkeypatch):
    guard = _guard("roll_back")
    _collapse_at(guard, 4, monkeypatch)
    trainer = _trainer(guard, steps=4)
    with pytest.warns(UserWarning, match="back to the last sound weights"):
        trainer.fit()
    state = next(iter(trainer.optimizer.state.values()))
    assert int(state["step"]) == 2


def _remembering(threat):
    """An objective with a memory: the perturbations of the last epoch, by sample."""
    return rr.methods.fgsm_pgi(threat, lam=1.0)


class _StopAt(Handler):
    def __init__(self, step):
        self.step = step

    def step_end(self, trainer):
        if trainer.step == self.step:
            trainer.stop()


@pytest.mark.parametrize("stop", [4, 5, 6])
@pytest.mark.parametrize("action", ["roll_back", "switch"])
def test_a_resume_in_a_rescue_goes_on_exactly(action, stop, monkeypatch, tmp_path):
    """Steps 4 to 6 are the rescue; both objectives remember something, and neither takes the other's memory."""

    def build(folder, *more):
        guard = _guard(action, objective=_remembering(THREAT))
        _collapse_at(guard, 4, monkeypatch)
        saves = Checkpoint(tmp_path / folder)
        return _trainer(guard, 10, saves, *more, objective=_remembering(THREAT), indexed=True), guard

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "catastrophic overfitting")
        whole, _ = build("whole")
        whole.fit()
        first, _ = build("parts", _StopAt(stop))
        assert first.fit().status == "interrupted"
        second, guard = build("parts")
        checkpoint.resume(second, tmp_path / "parts" / "last")
        second.fit()
    assert guard.acted == [4]
    mine, theirs = whole.state_dict(), second.state_dict()
    for key in mine:
        assert tree.same(mine[key], theirs[key]), key


def test_an_error_in_a_rescue_leaves_the_usual_objective(monkeypatch):
    guard = _guard("switch")
    _collapse_at(guard, 4, monkeypatch)
    trainer = _trainer(guard, steps=8)
    usual, found = trainer.module.objective, trainer.find_gradients

    def fail_at_five():
        if trainer.step == 5:
            raise ArithmeticError
        found()

    trainer.find_gradients = fail_at_five
    with pytest.warns(UserWarning, match="catastrophic"), pytest.raises(ArithmeticError):
        trainer.fit()
    assert trainer.module.objective is usual


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="action must be one of"):
        _guard("pray")
    with pytest.raises(ValueError, match="every must be at least 1"):
        CatastrophicOverfittingGuard(*_samples(), THREAT, every=0)
    with pytest.raises(ValueError, match="64 held-out samples but 63 labels"):
        CatastrophicOverfittingGuard(_samples()[0], _samples()[1][:-1], THREAT)
