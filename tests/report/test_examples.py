from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import robustreg as rr
from robustreg.report import save_examples
from robustreg.report.examples import load_examples

THREAT = rr.Threat("linf", 0.2)
QUICK = {"steps": 3, "restarts": 1}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(30, 1, 8, 8, generator=generator)
    return x, torch.tensor([0, 0, -1, 1, 0, 2] * 5)


def test_what_is_stored(tmp_path: Path, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    path = save_examples(tmp_path, net, data, THREAT, count=3, **QUICK)
    stored = load_file(path)
    assert path == tmp_path / "examples.safetensors"
    # The first sample of each class, unlabelled ones left out.
    assert stored["label"].tolist() == [0, 1, 2]
    assert torch.equal(stored["clean"], data[0][[0, 3, 5]])
    assert bool(THREAT.contains(stored["adversarial"], stored["clean"]).all())
    net.eval()
    assert torch.equal(stored["prediction"], net(stored["clean"]).argmax(dim=1))
    assert torch.equal(stored["adversarial_prediction"], net(stored["adversarial"]).argmax(dim=1))
    x = stored["clean"].requires_grad_()
    (gradient,) = torch.autograd.grad(
        nn.functional.cross_entropy(net(x), stored["label"], reduction="sum"), x
    )
    unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(stored["gradient"], unit, atol=1e-5, rtol=0.0)


def test_more_images_than_classes_are_spread_evenly(
    tmp_path: Path, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    stored = load_file(save_examples(tmp_path, net, data, THREAT, count=6, **QUICK))
    assert stored["label"].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(load_file(save_examples(tmp_path, net, data, THREAT, count=1000, **QUICK))["label"]) == 25


def test_nothing_else_is_touched(tmp_path: Path, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    net.train()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    save_examples(tmp_path, net, data, THREAT, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net] == [True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_the_same_call_stores_the_same_bytes(
    tmp_path: Path, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    first = save_examples(tmp_path, net, data, THREAT, **QUICK).read_bytes()
    assert save_examples(tmp_path, net, data, THREAT, **QUICK).read_bytes() == first


def test_reading_back(tmp_path: Path, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    save_examples(tmp_path, net, data, THREAT, count=3, steps=5, restarts=1)
    found, problem = load_examples(tmp_path)
    assert problem is None
    assert found is not None
    assert len(found) == 3
    assert found.clean.shape == (3, 1, 8, 8)
    assert found.about["attack"] == "PGD with 5 steps and 1 start"
    assert load_examples(tmp_path / "nowhere") == (None, None)


def test_bad_input(tmp_path: Path, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_examples(tmp_path / "nowhere", net, data, THREAT)
    with pytest.raises(ValueError, match="at least 1"):
        save_examples(tmp_path, net, data, THREAT, count=0)
    with pytest.raises(ValueError, match="no labelled sample"):
        save_examples(tmp_path, net, (x, torch.full_like(y, -1)), THREAT)
    with pytest.raises(ValueError, match="255"):
        save_examples(tmp_path, net, (x * 255, y), THREAT)
    assert not (tmp_path / "examples.safetensors").exists()
