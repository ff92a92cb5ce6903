"""The mode of the network while it is probed, and that every flag comes back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustreg.modes import check_mode, out_of_inference, running


def flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


@pytest.mark.parametrize("mode", ["train", "batch", "eval"])
@pytest.mark.parametrize("frozen", [(), (1,), (1, 6), range(10)])
def test_mixed_flags_come_back_also_after_an_exception(
    restless_net: nn.Module, mode: str, frozen: tuple[int]
) -> None:
    for i in frozen:
        restless_net[i].eval()
    before = flags(restless_net)
    with pytest.raises(KeyError), running(restless_net, mode):
        raise KeyError
    assert flags(restless_net) == before
    assert all(getattr(m, "track_running_stats", True) for m in restless_net.modules())


def test_eval_switches_everything_off(restless_net: nn.Module) -> None:
    restless_net[1].eval()
    with running(restless_net, "eval"):
        assert not any(flags(restless_net))


def test_a_network_that_overrides_train_is_not_fooled() -> None:
    class Frozen(nn.Module):
        """Keeps its BatchNorm in evaluation mode whatever it is told, as detection networks do."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout()
            self.train()

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

    model = Frozen()
    for mode in ("eval", "batch", "train"):
        with running(model, mode):
            assert not model.norm.training
            assert model.drop.training == (mode != "eval")
        assert flags(model) == [True, False, True]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, momentum=None),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.InstanceNorm1d(4, track_running_stats=True),
    ],
    ids=["batchnorm", "cumulative", "untracked", "instancenorm"],
)
def test_batch_mode_gives_the_numbers_of_training_and_keeps_the_statistics(norm: nn.Module) -> None:
    x = torch.rand(5, 4, 3)
    norm(x + 1)  # statistics that are not those of the batch
    before = [b.clone() for b in norm.buffers()]
    with running(norm, "batch"):
        quiet = norm(x)
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))
    assert torch.equal(quiet, norm(x))
    assert not before or not all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


def test_batch_mode_leaves_frozen_statistics_frozen() -> None:
    norm = nn.BatchNorm1d(4).eval()
    x = torch.rand(5, 4)
    with running(norm, "batch"):
        assert torch.equal(norm(x), norm(x))
        assert torch.allclose(norm(x), x, atol=1e-4)  # statistics of a fresh layer: mean 0, variance 1


def test_a_plain_function_has_no_mode() -> None:
    def model(x: Tensor) -> Tensor:
        return x

    for mode in ("train", "batch", "eval"):
        with running(model, mode):
            pass


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of train, batch, eval, got 'test'"):
        check_mode("test")


def test_leaving_inference_mode_gives_normal_tensors() -> None:
    with torch.inference_mode():
        x, y = torch.rand(2, 3), torch.tensor([0, 1])
        with out_of_inference(x, y) as (u, v):
            assert v is not None
            assert not any([u.is_inference(), v.is_inference(), torch.is_inference_mode_enabled()])
            assert not torch.is_grad_enabled()
            assert torch.equal(u, x)
        assert torch.is_inference_mode_enabled()
    with out_of_inference(x, None) as (u, none):
        assert none is None
        assert torch.is_grad_enabled()
        assert not u.is_inference()


def test_outside_inference_mode_nothing_is_copied() -> None:
    x = torch.rand(2, 3)
    with out_of_inference(x, None) as (u, _):
        assert u is x
