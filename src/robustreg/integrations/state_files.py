"""Weights from files of elsewhere: state dicts that torch.save or safetensors wrote, put into a network.

Nothing is unpickled but tensors and plain containers (`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from robustreg.files import PathLike
from robustreg.models import Normalize

KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema")
"""Under which training scripts keep the network's state dict beside the optimiser's, most usual first."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What wrappers put before every name: DataParallel and DDP, torch.compile, Lightning and others."""
_SHOWN = 3


def read_state(path: PathLike, key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict: tensors by name.

    Args:
        path: a `.safetensors` file, or one of `torch.save`.
        key: under which the state dict lies; by default the file's top level, else the one of `KEYS` that is there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no state dict, several to choose from, or more than tensors and plain containers.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of weights {file}")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is no safetensors file: {error}") from error
    with open(file, "rb") as stream:
        if stream.read(2) not in (
            b"PK",
            b"\x80\x02",
        ):  # a zip archive, or a pickle as old versions wrote them
            raise ValueError(f"{file} is no file that torch.save wrote")
    if _is_script(file):
        raise ValueError(
            f"{file} is a TorchScript archive, code and weights: give a function that returns torch.jit.load(FILE), "
            "without weights"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds Python objects beside tensors, which are not loaded because they can run code: where you "
            "trust it, load it in Python and save `torch.save(net.state_dict(), FILE)`"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged or cut short: torch.load cannot read it") from error
    return _state_in(content, key, file)


def load_state(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Put the weights into the network, in place, without the prefix that a wrapper gave all names.

    A `Normalize` that stands before the network, as `models.build(normalize=...)` puts it, is left as it is where the
    weights are of the network alone.

    Raises:
        ValueError: names or shapes differ; the message names some of them and calls the weights `what`.
    """
    ways = [(part, names) for part in _parts(net) for names in _without_prefixes(state)]
    net, stripped = min(ways, key=lambda way: len(way[0].state_dict().keys() ^ way[1].keys()))
    own = net.state_dict()
    # Counters of batches, which files of old versions of torch lack and evaluation does not read.
    missing = [name for name in own if name not in stripped and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in stripped if name not in own]
    if missing or unexpected:
        told = []
        if missing:
            told.append(
                f"{len(missing)} of the network's {len(own)} tensors are missing there ({_few(missing)})"
            )
        if unexpected:
            told.append(f"{len(unexpected)} tensors there are not in the network ({_few(unexpected)})")
        raise ValueError(f"{what} are of another network: {' and '.join(told)}")
    for name, value in stripped.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{what} are of another network: {name} has the shape {list(value.shape)} there and "
                f"{list(own[name].shape)} in the network"
            )
    net.load_state_dict({**own, **stripped})


def _parts(net: nn.Module) -> list[nn.Module]:
    """The network, and the one behind its normalisation."""
    normalised = isinstance(net, nn.Sequential) and len(net) == 2 and isinstance(net[0], Normalize)
    return [net, net[1]] if normalised and isinstance(net, nn.Sequential) else [net]


def _state_in(content: Any, key: str | None, file: Path) -> dict[str, Tensor]:
    if key is not None:
        inner = content.get(key) if isinstance(content, Mapping) else None
        if inner is None or not _is_state(inner):
            there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"{file} holds no state dict under the key {key!r}; it has: {there[:200]}")
        return dict(inner)
    if _is_state(content):
        return dict(content)
    if isinstance(content, Mapping):
        states = [name for name in KEYS if _is_state(content.get(name))]
        if len(states) > 1:  # the trained weights and their average, say: which, makes a difference
            raise ValueError(
                f"{file} holds several state dicts, {', '.join(states)}: say which is meant by its key"
            )
        if states:
            return dict(content[states[0]])
        raise ValueError(
            f"{file} holds no state dict where one is looked for; say under which of its keys: "
            f"{', '.join(map(str, content))[:200]}"
        )
    raise ValueError(f"{file} should hold a state dict, tensors by name, but holds {type(content).__name__}")


def _is_script(file: Path) -> bool:
    """Whether it is an archive of torch.jit.save, which holds code."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def _is_state(value: Any) -> bool:
    """Whether it is tensors by name."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _without_prefixes(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state as it is, and without the known prefixes that all names have, one after the other."""
    names = dict(state)
    while True:
        yield names
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            return
        names = {name.removeprefix(prefix): value for name, value in names.items()}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
