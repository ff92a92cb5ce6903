"""LIET's start and its random targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import ClassStart
from robustreg.attacks.class_start import ClassDirections, RandomTargets
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


def normals(shape: tuple[int, ...], *key: object, step: int = 0) -> Tensor:
    """What ``probe.normal`` gives in a probe of seed 0."""
    g = Stream(0, step).generator("cpu", "normal", shape, *key)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def drawn(point: rr.Point, x: Tensor, step: int = 0) -> Tensor:
    return point.draw(x, Stream(0, step).generator(x.device, "draw", point.key))


def probe_of(net: nn.Module, x: Tensor, y: Tensor, step: int = 0) -> rr.Probe:
    return rr.Probe(net, x, y, stream=Stream(0, step))


# -- random targets ---------------------------------------------------------------------------------------------------


def test_the_target_keeps_its_share_and_spreads_the_rest() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, generator=g, dtype=torch.float64)
    normal = torch.randn(4, 5, generator=g, dtype=torch.float64)
    y = torch.tensor([0, 3, 4, 2])
    found = RandomTargets(0.6).values(logits, y, normal)
    for i in range(4):
        shares = [0.0 if k == y[i] else 0.5 * (1 + torch.erf(normal[i, k] / 2**0.5)) for k in range(5)]
        target = torch.tensor([0.6 * s / sum(shares) if s else 0.4 for s in shares], dtype=torch.float64)
        assert target.sum().item() == pytest.approx(1.0)
        assert found[i].item() == pytest.approx(-(target @ logits[i].log_softmax(0)).item(), rel=1e-12)


def test_without_smoothing_it_is_the_cross_entropy(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    found = rr.LossAt(loss=RandomTargets(0.0))(probe_of(smooth_net, x, y))
    torch.testing.assert_close(found, F.cross_entropy(smooth_net(x), y, reduction="none"))


def test_draws_are_shared_by_number_and_new_at_every_step(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch

    def loss(number: int, step: int) -> Tensor:
        return rr.LossAt(loss=RandomTargets(0.6, number))(probe_of(smooth_net, x, y, step))

    assert torch.equal(loss(0, 0), loss(0, 0))
    assert not torch.equal(loss(0, 0), loss(1, 0))
    assert not torch.equal(loss(0, 0), loss(0, 1))
    function = probe_of(smooth_net, x, y).loss_function(RandomTargets(0.6), "train")
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(function(smooth_net(x)[rows], rows), function(smooth_net(x), None)[rows])


def test_no_label_no_loss(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    y = torch.where(torch.arange(6) % 2 == 0, -1, y)
    values = rr.LossAt(loss=RandomTargets(0.6))(probe_of(smooth_net, x, y))
    assert (values == 0).tolist() == [True, False] * 3
    with pytest.raises(ValueError, match="smoothing must lie"):
        RandomTargets(1.1)


# -- the start --------------------------------------------------------------------------------------------------------


def directions_of(net: nn.Module, x: Tensor, grey: float = 0.5) -> Tensor:
    """The sign of the gradient of each class's loss at a grey image."""
    u = torch.full((3, *x.shape[1:]), grey, dtype=x.dtype).requires_grad_()
    net.eval()
    (g,) = torch.autograd.grad(F.cross_entropy(net(u), torch.arange(3), reduction="sum"), u)
    net.train()
    return g.sign()


@pytest.mark.parametrize("step", range(4))
def test_the_start_by_hand(step: int, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    point = ClassStart(T, noise=2.0)
    share, side = normals((2,), "class start", 0, step=step).tolist()
    level = 0.1 + 0.4 * 0.5 * (1 + torch.erf(torch.tensor(share, dtype=torch.float64) / 2**0.5))
    noisy = drawn(point, x, step) < level
    noise = drawn(rr.Uniform(T, scale=2.0, clip="none"), x, step)
    delta = torch.where(noisy, noise, 0.1 * directions_of(smooth_net, x)[y])
    expected = (x + delta * (1.0 if side >= 0 else -1.0)).clamp(0, 1)
    found = probe_of(smooth_net, x, y, step).at(point)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    assert 0 < noisy.double().mean() < 1


def test_the_batch_has_one_sign_and_both_occur(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    signs = set()
    pure = ClassStart(T, least=0.0, most=0.0)
    for step in range(8):
        moved = probe_of(smooth_net, x, y, step).at(pure) - x
        whole = (moved / (0.1 * directions_of(smooth_net, x)[y])).round()
        assert whole.unique().numel() == 1
        signs.add(whole.flatten()[0].item())
    assert signs == {1.0, -1.0}


def test_the_share_of_noise_is_uniform_between_its_ends(smooth_net: nn.Module) -> None:
    x, y = 0.5 * torch.ones(64, 1, 4, 4, dtype=torch.float64), torch.arange(64) % 3
    point = ClassStart(T)
    point.memory.directions = torch.full((3, 1, 4, 4), 2.0, dtype=torch.float64)  # further than any noise
    shares = torch.tensor(
        [
            ((probe_of(smooth_net, x, y, step).at(point) - x).abs() < 0.15).double().mean()
            for step in range(200)
        ]
    )
    assert 0.08 < shares.min() < 0.15
    assert 0.45 < shares.max() < 0.53
    assert abs(shares.mean() - 0.3) < 0.03


def test_other_norms_step_along_their_steepest_direction(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    threat = rr.Threat("l2", 0.3, None)
    moved = probe_of(smooth_net, x, y).at(ClassStart(threat, least=0.0, most=0.0)) - x
    torch.testing.assert_close(threat.length(moved), torch.full((6,), 0.3, dtype=x.dtype))


def test_a_sample_without_a_label_has_only_noise(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    y = torch.where(torch.arange(6) < 2, -1, y)
    moved = (probe_of(smooth_net, x, y).at(ClassStart(T, least=0.0, most=0.0)) - x).abs()
    assert (moved[:2] < 0.0999).any()
    torch.testing.assert_close(moved[2:], torch.full_like(moved[2:], 0.1))


def test_directions_are_kept_for_so_many_steps(smooth_net: nn.Module, double_batch: Any) -> None:
    point = ClassStart(T, every=3)
    objective = rr.Objective.of(rr.CrossEntropy(at=point))
    forwards: list[int] = []
    smooth_net.register_forward_hook(lambda m, args, out: forwards.append(len(out)))
    counts, kept = [], []
    for step in range(7):
        forwards.clear()
        objective(smooth_net, *double_batch, step=step).backward()
        with torch.no_grad():
            for p in smooth_net.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(p))
        counts.append(list(forwards))
        kept.append(point.memory.directions)
    # one image to learn how many classes there are, one for each class, and the batch
    assert counts == [[1, 3, 6], [6], [6], [1, 3, 6], [6], [6], [1, 3, 6]]
    assert kept[0] is kept[2]
    assert not torch.equal(kept[2], kept[3])
    assert point.memory.steps == 1


def test_the_memory_is_saved_and_shapes_that_do_not_fit_are_not_used(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    first = ClassStart(T)
    objective = rr.Objective.of(rr.CrossEntropy(at=first))
    objective(smooth_net, x, y, step=0)
    again = ClassStart(T)
    other = rr.Objective.of(rr.CrossEntropy(at=again))
    other.load_state_dict(objective.state_dict())
    assert torch.equal(again.memory.directions, first.memory.directions)
    assert again.memory.steps == 1
    assert ClassDirections().state_dict() == {}
    assert again.with_threat(T.with_eps(0.2)).memory is again.memory
    flat = nn.Sequential(nn.Linear(5, 4)).double()
    objective(flat, torch.rand(4, 5).double(), torch.arange(4), step=1)  # other samples, other classes
    assert first.memory.directions is not None
    assert first.memory.directions.shape == (4, 5)
    again.memory.load_state_dict({})
    assert again.memory.directions is None


def test_as_an_attack_it_stays_in_the_threat_and_notes_nothing(restless_net: nn.Module, batch: Any) -> None:
    point = ClassStart(T, loss=RandomTargets(0.6))
    before = {k: v.clone() for k, v in restless_net.state_dict().items()}
    found = point(restless_net, *batch)
    assert T.contains(found, batch[0]).all()
    assert point.memory.directions is None
    assert all(torch.equal(v, before[k]) for k, v in restless_net.state_dict().items())
    with pytest.raises(ValueError, match="needs labels"):
        point(restless_net, batch[0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0}, "every is a number of steps"),
        ({"least": 0.6}, "shares of noise must be"),
        ({"most": 1.2}, "shares of noise must be"),
        ({"loss": "kl"}, "bound to a probe"),
        ({"clip": "ball"}, "clip must be one of"),
    ],
)
def test_bad_options_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ClassStart(T, **options)
