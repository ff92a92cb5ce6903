"""Exported networks come back as they were, for inputs in [0, 1]."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robustreg import models
from robustreg.integrations import FromUnitInterval, ModelCard, Network, export_model, load_exported

CARD = ModelCard("Mine2026", "Linf", "digits", "small_conv", 0.1, 0.9, 0.5)
NETWORK = Network("small_conv", (1, 8, 8), 10, {"width": 2, "normalize": [0.3, 0.4]})
X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    return models.build("small_conv", shape=(1, 8, 8), width=2, normalize=(0.3, 0.4), seed=5).eval()


def test_the_same_network_comes_back(net: nn.Module, tmp_path: Path) -> None:
    weights = export_model(net, NETWORK, CARD, tmp_path)
    assert weights == tmp_path / "models" / "digits" / "Linf" / "Mine2026.safetensors"
    back = load_exported(tmp_path)
    assert torch.equal(back(X), net(X))
    assert not any(module.training for module in back.modules())
    assert ModelCard.read(tmp_path / "model_info" / "digits" / "Linf" / "Mine2026.json") == CARD


def test_normalisation_is_inside(net: nn.Module, tmp_path: Path) -> None:
    export_model(net, NETWORK, CARD, tmp_path)
    bare = models.build("small_conv", shape=(1, 8, 8), width=2)
    bare.load_state_dict(
        {k: v for k, v in net.state_dict().items() if not k.startswith("normalize")}, strict=False
    )
    assert torch.allclose(load_exported(tmp_path)(X), bare.eval()((X - 0.3) / 0.4), atol=1e-6)


def test_other_bounds_become_the_unit_interval(net: nn.Module, tmp_path: Path) -> None:
    export_model(net, replace(NETWORK, bounds=(-1.0, 1.0)), CARD, tmp_path)
    back = load_exported(tmp_path)
    assert isinstance(back, FromUnitInterval)
    assert torch.allclose(back(X), net(2 * X - 1))


def test_what_its_run_was_trained_on_is_not_needed(net: nn.Module, tmp_path: Path) -> None:
    export_model(net, NETWORK, CARD, tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_several_in_one_folder(net: nn.Module, tmp_path: Path) -> None:
    export_model(net, NETWORK, CARD, tmp_path)
    other = models.build("mlp", shape=(1, 8, 8), hidden=(4,), seed=1)
    export_model(
        other, Network("mlp", (1, 8, 8), 10, {"hidden": [4]}), replace(CARD, identifier="Other"), tmp_path
    )
    assert torch.equal(load_exported(tmp_path, "Other")(X), other(X))
    with pytest.raises(ValueError, match="several networks, say which: Mine2026, Other"):
        load_exported(tmp_path)
    with pytest.raises(FileNotFoundError, match="no exported network named None2026"):
        load_exported(tmp_path, "None2026")


def test_a_description_that_builds_another_network_is_refused(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit the weights"):
        export_model(net, replace(NETWORK, options={"width": 3}), CARD, tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_weights_are_refused(net: nn.Module, tmp_path: Path) -> None:
    weights = export_model(net, NETWORK, CARD, tmp_path)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is damaged"):
        load_exported(tmp_path)


@pytest.mark.parametrize("change", [{"format": "other"}, {"bounds": None}, {"shape": "x"}])
def test_a_damaged_description_is_refused(net: nn.Module, tmp_path: Path, change: dict[str, object]) -> None:
    weights = export_model(net, NETWORK, CARD, tmp_path)
    file = weights.with_name("Mine2026.network.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match="describes no network"):
        load_exported(tmp_path)


def test_only_declared_modules_are_imported(net: nn.Module, tmp_path: Path) -> None:
    weights = export_model(net, NETWORK, CARD, tmp_path)
    file = weights.with_name("Mine2026.network.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "name": "os:system"}))
    with pytest.raises(ValueError, match="to be declared"):
        load_exported(tmp_path)


def test_names_that_are_no_file_names_leave_nothing(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names a file"):
        export_model(net, NETWORK, replace(CARD, identifier="../up"), tmp_path / "zoo")
    assert not list(tmp_path.iterdir())


def test_an_empty_range() -> None:
    with pytest.raises(ValueError, match="low to high"):
        FromUnitInterval(nn.Identity(), 1.0, 1.0)
