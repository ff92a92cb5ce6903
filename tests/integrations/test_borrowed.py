"""Attacks of other libraries in evaluations of this one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.evaluation import verify
from robustreg.integrations import Borrowed, from_art, from_foolbox, from_torchattacks
from robustreg.threat import Threat

LIBRARIES = ("foolbox", "torchattacks", "art")


@pytest.fixture(params=LIBRARIES)
def attack(request: pytest.FixtureRequest, stand_ins: SimpleNamespace, threat: Threat) -> Borrowed:
    if request.param == "foolbox":
        return from_foolbox(stand_ins.foolbox(steps=5), threat)
    if request.param == "torchattacks":
        return from_torchattacks(stand_ins.torchattacks, threat, steps=5)
    return from_art(stand_ins.art, threat, max_iter=5)


def traces(model: nn.Module) -> tuple[Any, ...]:
    """All that an attack might leave behind."""
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
        random.getstate(),
        {name: value.tolist() for name, value in model.state_dict().items()},
    )


def test_it_counts_in_the_worst_case(attack: Borrowed, net: nn.Module, batch: Any, threat: Threat) -> None:
    evaluation = rr.evaluate(net, batch, {"ours": rr.FGSM(threat), "theirs": attack}, threat, batch_size=7)
    assert evaluation["theirs"].status == "counted"
    assert evaluation["theirs"].score.correct < evaluation.clean.correct
    both = evaluation.outcomes["ours"] & evaluation.outcomes["theirs"]
    assert evaluation.worst_case is not None
    assert evaluation.worst_case.correct == int(both.sum())


def test_it_finds_what_the_same_attack_of_ours_finds(
    attack: Borrowed, net: nn.Module, batch: Any, threat: Threat
) -> None:
    strong = rr.PGD(threat, steps=30, restarts=3)
    found = rr.evaluate(net, batch, {"ours": strong, "theirs": attack}, threat).outcomes
    assert (found["ours"] == found["theirs"]).float().mean() > 0.9


def test_nothing_is_left_behind(attack: Borrowed, net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    before = traces(net)
    points = attack(net, *batch, generator=torch.Generator().manual_seed(0))
    assert traces(net) == before
    assert not points.requires_grad


def test_nothing_is_left_behind_when_it_fails(
    attack: Borrowed, net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    handle = net.register_forward_hook(fail)  # type: ignore[arg-type]
    before = traces(net)
    with pytest.raises(RuntimeError, match="out of luck"):
        attack(net, *batch)
    handle.remove()
    assert traces(net) == before


def test_the_generator_decides_all_that_is_random(
    attack: Borrowed, net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    def points(seed: int) -> Tensor:
        _ = torch.rand(1), np.random.rand(), random.random()  # the global states move on
        return attack(net, *batch, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(points(3), points(3))
    assert not torch.equal(points(3), points(4))


def test_inputs_a_rounding_outside_the_box_do_no_harm(
    attack: Borrowed, net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    x[0, 0, 0, 0] = -1e-9
    assert attack(net, x, y).min() >= 0


def test_interrupted_work_is_taken_up_again(attack: Borrowed) -> None:
    from robustreg.evaluation.crafting import content, describe

    assert content(attack) == attack.content_key()
    assert describe(attack) == attack.content_key()
    assert "eps=0.1" in attack.content_key()


def test_its_evidence_is_verified(
    attack: Borrowed, net: nn.Module, batch: Any, threat: Threat, tmp_path: Path
) -> None:
    rr.evaluate(net, batch, attack, threat, evidence_dir=tmp_path / "evidence")
    assert verify(tmp_path / "evidence", net, batch).ok


def test_it_joins_a_sequence(stand_ins: SimpleNamespace, net: nn.Module, batch: Any, threat: Threat) -> None:
    attacks = [
        from_foolbox(stand_ins.foolbox(), threat),
        from_torchattacks(stand_ins.torchattacks, threat),
        from_art(stand_ins.art, threat, max_iter=3),
        rr.PGD(threat),
    ]
    evaluation = rr.evaluate(net, batch, attacks, threat, sequential=True)
    assert list(evaluation.outcomes) == [
        "foolbox.FoolboxPGD",
        "torchattacks.TorchattacksPGD",
        "art.ArtPGD",
        "pgd",
    ]
    assert all(result.status == "counted" for result in evaluation.attacks)


def test_points_that_leave_the_ball_make_it_invalid(
    stand_ins: SimpleNamespace, net: nn.Module, batch: Any, threat: Threat
) -> None:
    with pytest.warns(UserWarning, match="outside eps = 0.1"):
        evaluation = rr.evaluate(net, batch, from_foolbox(stand_ins.foolbox(too_far=0.1), threat), threat)
    assert evaluation.attacks[0].status == "invalid"


def test_foolbox_gives_a_curve(
    stand_ins: SimpleNamespace, net: nn.Module, batch: Any, threat: Threat
) -> None:
    attack = from_foolbox(stand_ins.foolbox(steps=10), threat)
    curve = rr.evaluate(net, batch, attack, threat, curve=[0.0, 0.05, 0.4]).curve
    assert curve[0].correct > curve[1].correct > curve[2].correct
    assert not any(point.problem for point in curve)


def test_options_reach_torchattacks(stand_ins: SimpleNamespace, threat: Threat) -> None:
    assert from_torchattacks(stand_ins.torchattacks, threat).options == {"eps": 0.1}
    assert from_torchattacks(stand_ins.torchattacks, threat, eps=0.05, steps=3).options == {
        "eps": 0.05,
        "steps": 3,
    }


def test_two_classes(stand_ins: SimpleNamespace, threat: Threat) -> None:
    """For two classes ART takes one-hot labels for what they are, and numbers for probabilities."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(9, 1, 4, 4)
    points = from_art(stand_ins.art, threat, max_iter=2)(model, x, model(x).argmax(1))
    assert points.shape == x.shape


Make = Callable[[SimpleNamespace], object]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda s: from_foolbox(s.foolbox(), Threat("l2", 1.0)),
            "keeps to an linf ball, but the threat is l2",
        ),
        (lambda s: from_foolbox(s.foolbox, Threat("linf", 1.0)), "takes an attack such as"),
        (lambda s: from_foolbox(s.foolbox(), Threat("linf", 0.1, None)), "needs a box of two numbers"),
        (lambda s: from_foolbox(s.foolbox(), 0.1), r"needs a Threat\(norm, eps\), got float"),
        (
            lambda s: from_torchattacks(s.torchattacks, Threat("linf", 1, (-1, 1))),
            r"works in the box \[0, 1\]",
        ),
        (lambda s: from_torchattacks(s.torchattacks(None), Threat("linf", 1)), "already holds one model"),
        (
            lambda s: from_torchattacks(s.torchattacks, Threat("linf", 1), step=3),
            "'step' is not an option of torchattacks.TorchattacksPGD; did you mean 'steps'",
        ),
        (lambda s: from_art(s.art, Threat("linf", 1), maxiter=3), "did you mean 'max_iter'"),
        (lambda s: from_art(s.art, Threat("linf", 1), targeted=True), "here they are the truth"),
        (lambda s: from_art(s.art(None, verbose=False), Threat("linf", 1)), "takes the class"),
    ],
)
def test_what_cannot_work_is_refused_at_once(make: Make, sentence: str, stand_ins: SimpleNamespace) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        make(stand_ins)


def test_art_says_that_it_computes_in_float32(
    stand_ins: SimpleNamespace, net: nn.Module, batch: tuple[Tensor, Tensor], threat: Threat
) -> None:
    x, y = batch
    with pytest.raises(TypeError, match="computes in float32"):
        from_art(stand_ins.art, threat)(net.double(), x.double(), y)


@pytest.mark.parametrize("name", ["foolbox", "art"])
def test_a_missing_library_is_named(
    name: str,
    stand_ins: SimpleNamespace,
    net: nn.Module,
    batch: tuple[Tensor, Tensor],
    threat: Threat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    attack = (
        from_foolbox(stand_ins.foolbox(), threat)
        if name == "foolbox"
        else from_art(stand_ins.art, threat, max_iter=2)
    )
    with pytest.raises(ImportError, match=f"{name}.* cannot be imported.*pip install"):
        attack(net, *batch)


def test_a_plain_function_is_no_model(stand_ins: SimpleNamespace, batch: Any, threat: Threat) -> None:
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module, got function"):
        from_foolbox(stand_ins.foolbox(), threat)(lambda x: x, *batch)  # type: ignore[arg-type]


# The libraries themselves, where they are installed.


def test_with_foolbox(net: nn.Module, batch: Any, threat: Threat) -> None:
    foolbox = pytest.importorskip("foolbox")
    attacks = {
        "ours": rr.PGD(threat, steps=30, restarts=3),
        "pgd": from_foolbox(foolbox.attacks.LinfPGD(steps=30, rel_stepsize=0.1), threat),
        "deepfool": from_foolbox(foolbox.attacks.L2DeepFoolAttack(), Threat("l2", 0.1)),
    }
    agree(rr.evaluate(net, batch, attacks, threat))


def test_with_art(net: nn.Module, batch: Any, threat: Threat) -> None:
    evasion = pytest.importorskip("art.attacks.evasion")
    attacks = {
        "ours": rr.PGD(threat, steps=30, restarts=3),
        "pgd": from_art(evasion.ProjectedGradientDescent, threat, max_iter=30, eps_step=0.01),
        "fgsm": from_art(evasion.FastGradientMethod, threat),
    }
    agree(rr.evaluate(net, batch, attacks, threat))


def test_with_torchattacks(net: nn.Module, batch: Any, threat: Threat) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    attacks = {
        "ours": rr.PGD(threat, steps=30, restarts=3),
        "pgd": from_torchattacks(torchattacks.PGD, threat, steps=30, alpha=0.01),
        "fgsm": from_torchattacks(torchattacks.FGSM, threat),
    }
    agree(rr.evaluate(net, batch, attacks, threat))


def agree(evaluation: Any) -> None:
    assert all(result.status == "counted" for result in evaluation.attacks)
    assert (evaluation.outcomes["ours"] == evaluation.outcomes["pgd"]).float().mean() > 0.9
