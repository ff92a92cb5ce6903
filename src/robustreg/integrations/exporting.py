"""Trained networks as others can take them up: weights in safetensors, what builds the network, and a model card.

The layout is RobustBench's: FOLDER/models/DATASET/NORM/NAME.safetensors with NAME.network.json beside it, and the card
in FOLDER/model_info/DATASET/NORM/NAME.json. A loaded network takes inputs in [0, 1], normalises them itself and returns
logits. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from robustreg import models
from robustreg.evaluation.work import write_tensors_atomic
from robustreg.files import PathLike, read_json, sha256_file, write_json_atomic
from robustreg.integrations.robustbench import ModelCard
from robustreg.registry import publish

FORMAT = "robustreg network 1"
SUFFIX = ".network.json"


@dataclass(frozen=True)
class Network:
    """How a network is built, with `robustreg.models.build`.

    Attributes:
        name: one of `robustreg.models.NAMES`, a registered name, or `module:function`.
        shape: of a sample.
        num_classes: number of classes.
        options: of the network.
        modules: which modules `module:function` may come from.
        bounds: the lowest and the highest value that the network's inputs have.
    """

    name: str
    shape: tuple[int, ...]
    num_classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    bounds: tuple[float, float] = (0.0, 1.0)

    def build(self) -> nn.Module:
        """The network with initial weights.

        Raises:
            ValueError: the name is unknown here, or an option is.
        """
        publish("model")
        # JSON has no tuples, which is what networks take where a recipe has a list.
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        options.setdefault("num_classes", self.num_classes)
        return models.build(self.name, shape=self.shape, allow_modules=self.modules, **options)


class FromUnitInterval(nn.Module):
    """A network for inputs in [low, high] as one for inputs in [0, 1].

    Args:
        net: `[B, ...]` to logits `[B, C]`.
        low, high: the ends of its inputs' range.
    """

    def __init__(self, net: nn.Module, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"inputs range from low to high, got {low} and {high}")
        self.net, self.low, self.high = net, low, high

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]` of inputs `[B, ...]` in [0, 1]."""
        out: Tensor = self.net(self.low + (self.high - self.low) * x)
        return out


def export_model(net: nn.Module, network: Network, card: ModelCard, folder: PathLike) -> Path:
    """Write a network's weights, how it is built, and its card.

    Args:
        net: the trained network.
        network: how it is built.
        card: for RobustBench; the files are named by it.
        folder: made if missing; may hold other exported networks.

    Returns:
        The path of the weights.

    Raises:
        ValueError: what `network` builds is not the network (other names or shapes of tensors), or the card's
            names are no names of files.
    """
    card.check_names()
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    _check_same(network.build(), state, f"the network {network.name!r}")
    home = Path(folder) / "models" / card.dataset / card.norm
    weights = home / f"{card.identifier}.safetensors"
    write_tensors_atomic(weights, state, {"format": FORMAT})
    write_json_atomic(
        home / f"{card.identifier}{SUFFIX}",
        {
            "format": FORMAT,
            "name": network.name,
            "shape": list(network.shape),
            "num_classes": network.num_classes,
            "options": dict(network.options),
            "modules": list(network.modules),
            "bounds": list(network.bounds),
            "sha256": sha256_file(weights),
        },
    )
    card.write(folder)
    return weights


def load_exported(folder: PathLike, identifier: str | None = None) -> nn.Module:
    """Return an exported network: inputs `[B, ...]` in [0, 1] to logits `[B, C]`, in evaluation mode.

    Args:
        folder: what `export_model` wrote to.
        identifier: which network; not needed where there is one only.

    Raises:
        FileNotFoundError: there is none, or none of that name.
        ValueError: several, damaged files, or a network that cannot be built here.
    """
    network, weights = read_exported(folder, identifier)
    try:
        state = safetensors.torch.load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is no safetensors file: {error}") from error
    net = network.build()
    _check_same(net, state, str(weights))
    net.load_state_dict(state)
    low, high = network.bounds
    return (net if (low, high) == (0.0, 1.0) else FromUnitInterval(net, low, high)).eval()


def read_exported(folder: PathLike, identifier: str | None = None) -> tuple[Network, Path]:
    """Return how an exported network is built, and the file of its weights; arguments and errors of `load_exported`."""
    described = _described(Path(folder), identifier)
    values = read_json(described)
    weights = described.with_name(described.name.removesuffix(SUFFIX) + ".safetensors")
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, this version reads {FORMAT!r}")
        low, high = (float(value) for value in values["bounds"])
        network = Network(
            name=str(values["name"]),
            shape=tuple(int(size) for size in values["shape"]),
            num_classes=int(values["num_classes"]),
            options=dict(values["options"]),
            modules=tuple(values["modules"]),
            bounds=(low, high),
        )
        digest = values["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{described} describes no network: {type(error).__name__} {error}") from error
    if sha256_file(weights) != digest:
        raise ValueError(f"{weights} is damaged: its bytes are not those that were exported (other sha256)")
    return network, weights


def _described(folder: Path, identifier: str | None) -> Path:
    found = sorted(folder.glob(f"models/*/*/{identifier or '*'}{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    if not found:
        which = "network" if identifier is None else f"network named {identifier}"
        raise FileNotFoundError(f"{folder} holds no exported {which}: there is no models/*/*/*{SUFFIX} of it")
    names = ", ".join(path.name.removesuffix(SUFFIX) for path in found)
    raise ValueError(f"{folder} holds several networks, say which: {names}")


def _check_same(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    other = {name: tuple(value.shape) for name, value in state.items()}
    differ = [name for name in {**own, **other} if own.get(name) != other.get(name)]
    if differ:
        name = differ[0]
        raise ValueError(
            f"{what} does not fit the weights: {name} is {own.get(name, 'not in the network')} in the network "
            f"and {other.get(name, 'missing')} in the weights (and {len(differ) - 1} more)"
        )
