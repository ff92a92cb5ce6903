"""Weights from files of elsewhere: state dicts that torch.save or safetensors wrote, put into a network.

Nothing is unpickled but tensors, numbers and plain containers (`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import argparse
import pickle
import types
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from robustreg.files import PathLike

_SHOWN = 3
_COUNTERS = "num_batches_tracked"  # of BatchNorm: old files lack them, and evaluation does not read them
_COMPILED = "_orig_mod."  # what torch.compile puts before the names within a module, wherever that stands
# What training scripts keep beside the weights: the options of their command line and the best accuracy so far.
_PLAIN: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_state(path: PathLike) -> dict[str, Tensor]:
    """Read all tensors of a file by name; the keys of containers within containers are joined by dots.

    Args:
        path: a `.safetensors` file, or one of `torch.save`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no tensors by name, or more than tensors, numbers and plain containers.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of weights {file}")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is no safetensors file: {error}") from error
    _check_kind(file)
    try:
        with torch.serialization.safe_globals(_PLAIN):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds Python objects beside tensors{_objects(file)}, which are not loaded because they can run "
            "code: where you trust it, load it in Python and save `torch.save(net.state_dict(), FILE)`"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged or cut short: torch.load cannot read it") from error
    state = {name.replace(_COMPILED, ""): value for name, value in _tensors(content)}
    if not state:
        held = ", ".join(map(str, content))[:200] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{file} should hold a state dict, tensors by name, but holds {held or 'nothing'}")
    return state


def load_state(net: nn.Module, state: Mapping[str, Tensor], what: str, key: str | None = None) -> str:
    """Put the weights into the network, in place, from wherever in the file all of them are.

    Before their names there stand the keys of containers and the attributes of wrappers, `state_dict.model.` in a
    checkpoint of Lightning; which they are does not matter, nor what else is in the file. A network that only wraps
    another, in a `Normalize` as `models.build(normalize=...)` does or to return its logits alone, takes the weights of
    that one, too; buffers around it are left as they are.

    Args:
        net: the network.
        state: the tensors of a file, see `read_state`.
        what: what messages call the weights.
        key: the place to take them from; needed where several fit.

    Returns:
        The place that they were taken from, as `state_dict.model`; empty for the file's top level.

    Raises:
        ValueError: no place has the network's names and shapes and no others, or several have, with other values.
    """
    within = {name: value for name, value in state.items() if key is None or name.startswith(f"{key}.")}
    if not within:
        there = dict.fromkeys(name.partition(".")[0] for name in state)
        raise ValueError(f"{what} are not under the key {key!r}; there are: {', '.join(there)[:200]}")
    parts = [_places(part, within) for part in _parts(net)]
    fitting = next((found for places in parts if (found := [p for p in places if p.fits])), [])
    fitting = [place for place in fitting if place.prefix == f"{key}."] or fitting  # and not what lies deeper
    if any(not place.equals(fitting[0]) for place in fitting):  # trained weights and their average, say
        named = ", ".join(place.prefix.rstrip(".") or "the top level" for place in fitting)
        raise ValueError(f"{what} are there several times, under {named}: say which with its key (--key)")
    nearest = [min(places, key=lambda place: place.wrong) for places in parts]
    place = fitting[0] if fitting else min(nearest, key=lambda place: place.wrong)
    if place.told:
        raise ValueError(f"{what} are of another network: {place.told}")
    place.load()
    return place.prefix.rstrip(".")


@dataclass(frozen=True)
class _Place:
    """The tensors of a file whose names begin with `prefix`, which is left out in `there`, as those of a network."""

    net: nn.Module
    prefix: str
    there: dict[str, Tensor]

    @cached_property
    def own(self) -> dict[str, Tensor]:
        named = {name.replace(_COMPILED, ""): value for name, value in self.net.state_dict().items()}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    @cached_property
    def missing(self) -> list[str]:
        return [name for name in self.own if name not in self.there and not name.endswith(_COUNTERS)]

    @cached_property
    def unexpected(self) -> list[str]:
        return [name for name in self.there if name not in self.own]

    @cached_property
    def misshapen(self) -> list[str]:
        return [n for n, value in self.there.items() if n in self.own and self.own[n].shape != value.shape]

    @property
    def fits(self) -> bool:
        """Whether all that the network needs is there; there may be more."""
        return not self.missing and not self.misshapen

    @property
    def wrong(self) -> int:
        return len(self.missing) + len(self.unexpected)

    def equals(self, other: _Place) -> bool:
        return self.there.keys() == other.there.keys() and all(
            torch.equal(value, other.there[name]) for name, value in self.there.items()
        )

    @property
    def told(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        said = []
        if self.missing:
            said.append(
                f"{len(self.missing)} of the network's {len(self.own)} tensors are missing there ({_few(self.missing)})"
            )
        if self.unexpected:
            said.append(
                f"{len(self.unexpected)} tensors there are not in the network ({_few(self.unexpected)})"
            )
        if not said and self.misshapen:
            name = self.misshapen[0]
            said.append(
                f"{name} has the shape {list(self.there[name].shape)} there and {list(self.own[name].shape)} in the "
                "network"
            )
        return " and ".join(said)

    def load(self) -> None:
        values = self.net.state_dict()
        self.net.load_state_dict(
            {name: self.there.get(name.replace(_COMPILED, ""), v) for name, v in values.items()}
        )


def _places(net: nn.Module, state: Mapping[str, Tensor]) -> list[_Place]:
    """Every place where a name of the network's is found, and the top level."""
    own = {name.replace(_COMPILED, "") for name in net.state_dict()}
    prefixes = {""}
    for name in state:
        words = name.split(".")
        ends = range(len(words))
        prefixes |= {name[: -len(end)] for at in ends if (end := ".".join(words[at:])) in own}
    inside = {
        p: {n[len(p) :]: value for n, value in state.items() if n.startswith(p)} for p in sorted(prefixes)
    }
    return [_Place(net, prefix, there) for prefix, there in inside.items()]


def _parts(net: nn.Module) -> list[nn.Module]:
    """The network, and those that it only wraps: where all parameters are under one child, that child."""
    parts = [net]
    while True:
        homes = {name.partition(".")[0] for name, _ in parts[-1].named_parameters()}
        inner = dict(parts[-1].named_children()).get(homes.pop()) if len(homes) == 1 else None
        if inner is None or not any(
            inner.children()
        ):  # a single layer is found too easily in a file of another network
            return parts
        parts.append(inner)


def _check_kind(file: Path) -> None:
    """Raise ValueError for a file that is none of torch.save, or one of torch.jit.save, which holds code."""
    with open(file, "rb") as stream:
        begins = stream.read(2)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            inner = [name.split("/")[1:2] for name in archive.namelist()]
        if ["code"] in inner:
            raise ValueError(
                f"{file} is a TorchScript archive, code and weights: give a function that returns "
                "torch.jit.load(FILE), without weights"
            )
        saved = ["data.pkl"] in inner
    else:
        saved = begins in (
            b"PK",
            b"\x80\x02",
        )  # a zip archive that is cut short, or a pickle as old versions wrote
    if not saved:
        raise ValueError(f"{file} is no file that torch.save wrote")


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors with their names, those of containers within containers included."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
            else:
                yield from _tensors(value, f"{prefix}{key}.")


def _objects(file: Path) -> str:
    """Which objects, as far as the file says."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except (RuntimeError, ValueError, pickle.UnpicklingError):  # files of old versions do not say
        return ""
    return f" ({_few(names)})" if names else ""


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
