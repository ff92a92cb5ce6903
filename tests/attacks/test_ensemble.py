"""The standard ensemble: who is in it, and that it is its members one after the other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.attacks import FAB, Square, ensemble
from robustreg.attacks.apgd import APGD, APGDT
from robustreg.attacks.ensemble import StandardEnsemble, members
from robustreg.evaluation import evaluate
from robustreg.points import draw_per_sample

T = rr.Threat("linf", 0.1)


@pytest.fixture
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that is right on most samples, some of them close to the boundary."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(48, 1, 4, 4, generator=g, dtype=torch.float64)
    y = (3 * x[:, 0, :2].mean((1, 2)) + torch.arange(48) % 3).round().long() % 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, x, y


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> dict[str, rr.Point]:
    """Weak members, so that every one of them has something left to do."""
    return replaced(monkeypatch, {"fgsm": rr.FGSM(T), "square": Square(T, queries=30), "pgd": rr.PGD(T, 20)})


def replaced(monkeypatch: pytest.MonkeyPatch, attacks: dict[str, rr.Point]) -> dict[str, rr.Point]:
    monkeypatch.setattr(ensemble, "members", lambda threat, version="standard": attacks)
    return attacks


def test_the_published_settings() -> None:
    standard = members(T)
    assert list(standard) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert standard["apgd_ce"] == APGD(T, steps=100, restarts=1, loss="ce")
    assert standard["apgd_t"] == APGDT(T, steps=100, targets=9, loss="dlr")
    assert standard["fab_t"] == FAB(T, steps=100, restarts=1, targets=9)
    assert standard["square"] == Square(T, queries=5000, rescale=False)
    sparse = members(rr.Threat("l1", 12.0))
    assert (sparse["apgd_ce"].restarts, sparse["apgd_t"].targets) == (5, 5)  # type: ignore[attr-defined]
    assert [a.eot_iter for a in members(T, "rand").values()] == [20, 20]  # type: ignore[attr-defined]
    assert len(members(T, "plus")) == 6
    with pytest.raises(ValueError, match="version must be 'standard', 'plus' or 'rand', got 'fast'"):
        StandardEnsemble(T, "fast")  # type: ignore[arg-type]


def test_it_is_its_members_on_the_samples_still_standing(trained: Any, monkeypatch: Any) -> None:
    """Members without random numbers, which an evaluation would draw by the attacks' names."""
    net, x, y = trained
    short = replaced(
        monkeypatch, {"fgsm": rr.FGSM(T), "pgd": rr.PGD(T, 20, start=rr.Clean()), "fab": FAB(T, 5)}
    )
    together = evaluate(net, (x, y), {"ensemble": StandardEnsemble(T)}, T, batch_size=16)
    one_by_one = evaluate(net, (x, y), short, T, sequential=True, batch_size=16)
    assert torch.equal(together.worst_case.outcomes, one_by_one.worst_case.outcomes)
    strongest = min(evaluate(net, (x, y), attack, T).worst_case.accuracy for attack in short.values())
    assert together.worst_case.accuracy <= strongest < together.clean.accuracy


def test_points_are_within_the_threat_and_fool_or_are_the_sample(trained: Any, short: Any) -> None:
    net, x, y = trained
    found = StandardEnsemble(T)(net, x, y, generator=torch.Generator().manual_seed(0))
    fooled = net(found).argmax(1) != y
    right = net(x).argmax(1) == y
    moved = (found != x).flatten(1).any(1)
    assert T.contains(found, x).all()
    assert torch.equal(moved, fooled & right)
    assert moved.any()
    assert not moved.all()
    nobody = StandardEnsemble(T)(net, x, torch.full_like(y, -1))
    assert torch.equal(nobody, x)


def test_a_sample_has_its_own_random_numbers_whatever_its_batch(trained: Any, short: Any) -> None:
    net, x, y = trained
    attack = StandardEnsemble(T)
    whole = attack(net, x, y, noise=draw_per_sample(attack, x, list(range(48))))
    parts = [
        attack(net, x[rows], y[rows], noise=draw_per_sample(attack, x[rows], rows))
        for rows in (list(range(i, min(i + 7, 48))) for i in range(0, 48, 7))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


def test_a_fooled_sample_costs_the_next_member_nothing(trained: Any, short: Any) -> None:
    net, x, y = trained
    rows: list[int] = []
    handle = net.register_forward_pre_hook(lambda m, inputs: rows.append(len(inputs[0])))
    StandardEnsemble(T)(net, x, y)
    handle.remove()
    assert rows[-1] < rows[0]


@pytest.fixture
def shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The members of the ensemble with fewer steps and queries."""

    def of(threat: rr.Threat, version: str = "standard") -> dict[str, rr.Point]:
        return {
            "apgd_ce": APGD(threat, steps=20),
            "apgd_t": APGDT(threat, steps=20, targets=3),
            "fab_t": FAB(threat, steps=10, targets=3),
            "square": Square(threat, queries=100, rescale=False),
        }

    monkeypatch.setattr(ensemble, "members", of)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 1e4)])
def test_the_scale_of_the_logits_plays_no_part(
    norm: str, scale: float, shift: float, trained: Any, shortened: Any
) -> None:
    net, x, y = trained
    threat = rr.Threat(norm, {"linf": 0.06, "l2": 0.2, "l1": 0.35}[norm])
    plain = evaluate(net, (x, y), StandardEnsemble(threat), threat).worst_case
    scaled = evaluate(Scaled(net, scale, shift), (x, y), StandardEnsemble(threat), threat).worst_case
    assert 0.1 < plain.accuracy < 0.9
    # What the cross-entropy climbs does depend on the scale, so a sample at the edge may go either way.
    assert int((scaled.outcomes != plain.outcomes).sum()) <= 1


class Scaled(nn.Module):
    """A network's logits times a factor plus a constant."""

    def __init__(self, net: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x) + self.shift


@pytest.mark.filterwarnings("ignore:the DLR loss needs at least 4 classes")
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("shape", [(16,), (2, 8), (1, 4, 4), (3, 2, 3, 3)])
def test_any_number_of_classes_and_any_shape(
    norm: str, classes: int, shape: tuple[int, ...], shortened: Any
) -> None:
    """On a linear network of two classes the verdict is known: right where the margin exceeds eps |w|_q."""
    g = torch.Generator().manual_seed(1)
    n = math.prod(shape)
    w = torch.randn(classes, n, generator=g, dtype=torch.float64)
    w[2:] = -1.0  # beyond two there is no way to the other classes
    x = 0.3 + 0.4 * torch.rand(12, *shape, generator=g, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(n, classes)).double()
    with torch.no_grad():
        net[1].weight.copy_(w)
        net[1].bias.copy_(torch.full((classes,), -50.0))
        net[1].bias[:2] = -0.5 * w[:2].sum(1)
    threat = rr.Threat(norm, {"linf": 0.02, "l2": 0.08, "l1": 0.2}[norm])
    y = net(x).argmax(1)
    margin = (net(x)[:, 0] - net(x)[:, 1]).abs()
    steepness = threat.dual_norm((w[0] - w[1]).reshape(1, *shape))
    found = evaluate(net, (x, y), StandardEnsemble(threat), threat).worst_case.outcomes
    clear = (margin / (threat.eps * steepness) - 1).abs() > 0.02
    assert torch.equal(found[clear], (margin > threat.eps * steepness)[clear])
    assert 0 < int(found.sum()) < 12


def test_a_recipe_may_name_it() -> None:
    from robustreg.config import build, load_recipe

    recipe = load_recipe("plain", ["evaluation.attacks=[fgsm, standard_ensemble]", "data.train_size=64"])
    assert build(recipe).attacks["standard_ensemble"] == StandardEnsemble(rr.Threat("linf", 0.15))
