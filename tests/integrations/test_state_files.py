"""Weights of elsewhere: found wherever in a file a network's names and shapes stand together."""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustreg.integrations.state_files import load_state, read_state
from robustreg.models import build

State = dict[str, Tensor]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return {name: torch.rand(value.shape) for name, value in network().state_dict().items()}


def named(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


@pytest.mark.parametrize(
    ("prefix", "inside"),
    [
        ("", ()),
        ("module.", ()),
        ("_orig_mod.", ()),
        ("module._orig_mod.", ("state_dict",)),
        ("model.", ("state_dict",)),
        ("classifier.body.", ()),
        ("", ("ema", "shadow", "params")),
    ],
)
def test_whatever_stands_before_the_names(
    state: State, tmp_path: Path, prefix: str, inside: tuple[str, ...]
) -> None:
    content: object = named(state, prefix)
    if prefix == "model.":
        content = {**named(state, prefix), "criterion.weight": torch.ones(3)}
    for key in reversed(inside):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "w.pt")
    net = network()
    place = load_state(net, read_state(tmp_path / "w.pt"), "they")
    assert place == ".".join([*inside, *prefix.replace("_orig_mod.", "").split(".")]).rstrip(".")
    assert all(
        torch.equal(value, state[name])
        for name, value in net.state_dict().items()
        if value.is_floating_point()
    )


def test_an_optimiser_options_and_numbers_beside_them(state: State, tmp_path: Path) -> None:
    net = network()
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.rand(4, 1, 8, 8)).sum().backward()
    optimiser.step()
    beside = {"args": argparse.Namespace(lr=0.1), "hyper_parameters": types.SimpleNamespace(width=2)}
    numbers = {"best": np.float64(0.9), "epoch": np.int64(3), "done": np.bool_(True)}
    torch.save({"optimizer": optimiser.state_dict(), "model": state, **beside, **numbers}, tmp_path / "w.pt")
    assert load_state(net, read_state(tmp_path / "w.pt"), "they") == "model"


def test_weights_and_their_average_are_told_apart_by_the_key_only(state: State) -> None:
    both = {**named(state, "state_dict.model."), **named(other(state), "state_dict.ema.")}
    with pytest.raises(
        ValueError, match=r"several times, under state_dict\.ema, state_dict\.model: say which"
    ):
        load_state(network(), both, "they")
    net = network()
    load_state(net, both, "they", "state_dict.ema")
    assert torch.equal(net[3].bias, state["3.bias"] + 1)
    load_state(
        net, {**named(state, "model."), **named(state, "copy.")}, "they"
    )  # the same: no choice to make
    assert torch.equal(net[3].bias, state["3.bias"])


def test_an_average_within_the_weights_is_no_reason_to_take_it(state: State) -> None:
    with pytest.raises(ValueError, match="several times, under the top level, ema"):
        load_state(network(), {**state, **named(other(state), "ema.")}, "they")


def test_a_compiled_network_takes_them_too(state: State) -> None:
    net = nn.Sequential(torch.compile(network()))
    assert load_state(net, named(state, "0."), "they") == ""
    assert torch.equal(net.state_dict()["0._orig_mod.3.bias"], state["3.bias"])


def test_normalisation_before_the_network_stays(state: State) -> None:
    plain = build("mlp", shape=(64,), seed=0, num_classes=3).state_dict()
    net = nn.Sequential(build("mlp", shape=(64,), normalize="digits").normalize, network())
    mean = net[0].mean.clone()
    assert load_state(net, named(state, "net."), "they") == "net"
    assert torch.equal(net[1][3].bias, state["3.bias"])
    assert torch.equal(net[0].mean, mean)
    with pytest.raises(ValueError, match="are of another network"):
        load_state(net, plain, "they")


class Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("mean", torch.tensor(0.5))


@pytest.mark.parametrize(
    "wrapped", [Logits, lambda: nn.DataParallel(network()), lambda: nn.DataParallel(Logits())]
)
def test_a_network_that_only_wraps_another(state: State, wrapped: Callable[[], nn.Module]) -> None:
    net = wrapped()
    assert load_state(net, named(state, "model."), "they") == "model"
    inner = next(module for module in net.modules() if isinstance(module, nn.Sequential))
    assert all(torch.equal(value, state[name]) for name, value in inner.named_parameters())
    with pytest.raises(ValueError, match="are of another network"):
        load_state(net, {"model.3.weight": torch.rand(3, 72), "model.3.bias": torch.rand(3)}, "they")


def test_one_layer_is_not_looked_for_in_another_network(state: State) -> None:
    with pytest.raises(ValueError, match="are of another network"):
        load_state(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), state, "they")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s: s | {"aux.weight": torch.ones(1)},
            r"1 tensors there are not in the network \(aux\.weight\)",
        ),
        (
            lambda s: {n: v for n, v in s.items() if "running" not in n},
            "2 of the network's 9 tensors are missing there",
        ),
        (
            lambda s: s | {"3.bias": torch.ones(4)},
            r"3\.bias has the shape \[4\] there and \[3\] in the network",
        ),
    ],
)
def test_what_does_not_fit(state: State, change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=sentence):
        load_state(net, named(change(state), "model."), "they")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_files_of_no_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with pytest.raises(ValueError, match=r"w\.npz is no file that torch\.save wrote"):
        read_state(tmp_path / "w.npz")
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="should hold a state dict, tensors by name, but holds epoch, names"):
        read_state(tmp_path / "none.pt")


def test_what_can_run_code_is_named_and_not_run(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "object": _Object()}, tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"Python objects beside tensors \(.*_Object\), which are not loaded"
    ):
        read_state(tmp_path / "w.pt")


class _Object:
    def __setstate__(self, state: object) -> None:
        raise AssertionError("it ran")
