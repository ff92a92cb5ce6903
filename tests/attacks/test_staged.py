"""Attacks that change with the progress of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.attacks import Grown, Rademacher, Staged
from robustreg.probe import Probe
from robustreg.schedules import Steps
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


def found(point: rr.Point, net: nn.Module, batch: Any, progress: float | None) -> Tensor:
    return Probe(net, *batch, stream=Stream(3), progress=progress).at(point)


def test_each_stage_has_its_point(smooth_net: nn.Module, double_batch: Any) -> None:
    stages = (rr.Clean(), rr.FGSM(T), rr.PGD(T, 3))
    staged = Staged(stages, (0.25, 0.5))
    for progress, stage in ((0.0, 0), (0.24, 0), (0.25, 1), (0.49, 1), (0.5, 2), (1.0, 2)):
        here = found(staged, smooth_net, double_batch, progress)
        assert torch.equal(here, found(stages[stage], smooth_net, double_batch, progress)), progress


def test_a_grown_attack_is_the_same_attack_in_a_smaller_ball(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    for attack, smaller in (
        (rr.PGD(T, 3, 0.04, loss="kl"), rr.PGD(T.with_eps(0.05), 3, 0.02, loss="kl")),
        (rr.PGD(T, 3, start=Rademacher(T, scale=0.5)), None),
        (rr.PGD(T, 2, start=rr.Gaussian(0.001)), rr.PGD(T.with_eps(0.05), 2, start=rr.Gaussian(0.001))),
        (Staged((rr.FGSM(T), rr.PGD(T, 2, 0.1)), (0.5,)), rr.PGD(T.with_eps(0.05), 2, 0.05)),
    ):
        grown = Grown(attack, rr.Ramp(0.0, 1.0))
        if smaller is not None:
            here = found(grown, smooth_net, double_batch, 0.5)
            assert torch.equal(here, found(smaller, smooth_net, double_batch, 0.5))
        assert torch.equal(
            found(grown, smooth_net, double_batch, 1.0), found(attack, smooth_net, double_batch, 1.0)
        )
    assert torch.equal(found(Grown(rr.PGD(T, 3, 0.04), 0.0), smooth_net, double_batch, None), double_batch[0])


def test_training_reaches_its_whole_radius_at_the_end(smooth_net: nn.Module, double_batch: Any) -> None:
    attack = Grown(Staged((rr.PGD(T, 2, 0.1), rr.PGD(T, 3, 0.05)), (0.5,)), rr.Ramp(0.0, 1.0))
    objective = rr.Objective.of(rr.CrossEntropy(at=attack))
    runs: list[Tensor] = []
    smooth_net.register_forward_pre_hook(lambda _, inputs: runs.append(inputs[0].detach()))
    for progress, passes in ((0.0, 3), (0.25, 3), (0.75, 4), (1.0, 4)):
        runs.clear()
        objective(smooth_net, *double_batch, step=0, progress=progress)
        assert len(runs) == passes
        assert (runs[-1] - double_batch[0]).abs().max().item() == pytest.approx(0.1 * progress, abs=1e-12)
    assert objective.plan((1, 4, 4), 3).forwards == 4  # at half of training


def test_they_know_their_parts(smooth_net: nn.Module, double_batch: Any) -> None:
    staged = Staged((rr.Uniform(T), rr.PGD(T, loss="kl")), (0.5,))
    grown = Grown(staged, 0.5)
    other = rr.Threat("l2", 1.0)
    assert not grown.reads_labels
    assert Grown(rr.PGD(T), 0.5).reads_labels
    assert {t.eps for t in grown.threats()} == {0.1}
    assert {t.norm for t in grown.with_threat(other).threats()} == {2.0}
    assert rr.Uniform(T) in list(grown.sources())
    with pytest.raises(ValueError, match="pass progress="):
        Grown(rr.PGD(T), rr.Ramp(0, 1))(smooth_net, *double_batch)
    module = rr.ObjectiveModule(smooth_net, rr.CrossEntropy(at=staged))
    module.compile(backend="eager")
    with pytest.raises(RuntimeError, match="changes with the progress of training"):
        module(*double_batch, progress=0.5)


def test_values_step_by_step() -> None:
    steps = Steps((0.0, 1.0, 3.0), (0.5, 0.75))
    assert [steps(p) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == [0, 0, 1, 1, 3, 3]
    assert Steps([1, 2], [0.5]) == Steps((1, 2), (0.5,))  # type: ignore[arg-type]


def test_stages_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="2 values change at 1 places, got"):
        Steps((0.0, 1.0), ())
    with pytest.raises(ValueError, match="2 points change at 1 places, got"):
        Staged((rr.Clean(), rr.FGSM(T)), (0.2, 0.4))
    for until in ((0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0.5, 1.5)):
        with pytest.raises(ValueError, match="stages end at increasing places of the progress"):
            Steps((0.0, 1.0, 2.0), until)
    with pytest.raises(
        ValueError, match=r"share is a fraction of the full size and must lie in \[0, 1\], got 2"
    ):
        Grown(rr.FGSM(T), 2.0)


def test_a_start_that_is_not_projected(smooth_net: nn.Module) -> None:
    """The first gradient is taken where the noise is, outside the box too; an attack projects all the same."""
    x = torch.zeros(4, 1, 4, 4, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    seen: list[Tensor] = []
    handle = smooth_net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for project, low in ((True, 0.0), (False, None)):
        attack = rr.PGD(T, 2, start=rr.Gaussian(0.01), project_start=project, early_exit=False)
        seen.clear()
        here = found(attack, smooth_net, (x, y), None)
        assert (seen[0].min() >= 0) == (low == 0.0)
        assert seen[0].abs().max() > 0
        assert (here >= 0).all()
        seen.clear()
        attack(smooth_net, x, y)
        assert seen[0].min() >= 0
    handle.remove()
