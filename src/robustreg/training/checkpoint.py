"""Checkpoints: tensors in safetensors, the rest in JSON, so that reading one runs no code.

    last/weights.safetensors   the network to use: the averaged weights where training averages
    last/state.safetensors     every other tensor that the next step depends on
    last/state.json            every other value, and the SHA-256 of the two files

A folder is written under another name, forced to the disk and renamed, so that `last` is always a whole one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from robustreg.files import (
    PathLike,
    read_json,
    replace_folder,
    settled_folder,
    write_bytes_synced,
)
from robustreg.training import tree
from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer

FORMAT = "robustreg checkpoint 1"
WEIGHTS, STATE, META = "weights.safetensors", "state.safetensors", "state.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence that names the file and the reason."""


# Writing


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """A copy in memory, on the CPU, of all that a checkpoint holds. All processes must call it."""
    state = trainer.state_dict()
    averaged = trainer.eval_net is not trainer.module.net
    if not averaged:
        del state["network"]  # the weights file has it
    tensors, values = tree.pack(state)
    weights, _ = tree.pack(trainer.eval_net.state_dict())
    meta = {
        "format": FORMAT,
        "step": trainer.step,
        "epoch": trainer.epoch,
        "scores": trainer.scores,
        "averaged": averaged,
        "state": values,
    }
    return {
        "weights": {name.removeprefix("/"): t for name, t in weights.items()},
        "tensors": tensors,
        "meta": meta,
    }


def write(folder: PathLike, content: dict[str, Any]) -> Path:
    """Write what `snapshot` gave as a checkpoint folder, replacing an older one at once and whole."""
    target = Path(folder)
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    digests = {}
    for name, tensors in ((WEIGHTS, content["weights"]), (STATE, content["tensors"])):
        data = safetensors.torch.save(tensors, metadata={"format": FORMAT})
        digests[name] = hashlib.sha256(data).hexdigest()
        write_bytes_synced(new / name, data)
    meta = {**content["meta"], "sha256": digests}
    write_bytes_synced(new / META, json.dumps(meta, allow_nan=False).encode())
    replace_folder(new, target)
    return target


def write_weights(folder: PathLike, net: nn.Module) -> Path:
    """Write a network's weights alone as a checkpoint folder: to load, not to resume from."""
    tensors, values = tree.pack({})
    meta = {"format": FORMAT, "step": 0, "epoch": 0, "scores": {}, "averaged": False, "state": values}
    weights, _ = tree.pack(net.state_dict())
    named = {name.removeprefix("/"): tensor for name, tensor in weights.items()}
    return write(folder, {"weights": named, "tensors": tensors, "meta": meta})


# Reading


def read(folder: PathLike) -> dict[str, Any]:
    """Read a checkpoint folder: its `state.json` with the state tree and the `weights` put together again.

    Raises:
        CheckpointError: a file is missing, damaged or cut short, or of another format.
    """
    source = settled_folder(Path(folder))
    meta = _read_meta(source)
    weights, tensors = (_read_tensors(source / name, meta["sha256"].get(name)) for name in (WEIGHTS, STATE))
    try:
        state = tree.unpack(tensors, meta["state"])
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source / META} does not match {STATE} beside it: {error}.") from None
    return {**meta, "state": {"network": weights, **state}, "weights": weights}


def load_weights(net: nn.Module, folder: PathLike) -> None:
    """Load the network to use (averaged weights where training averaged) from a checkpoint folder, in place.

    Raises:
        CheckpointError: damaged, or the weights of another model; the message names the first difference.
    """
    source = settled_folder(Path(folder))
    weights = _read_tensors(source / WEIGHTS, _read_meta(source)["sha256"].get(WEIGHTS))
    check_same_network(net, weights, source)
    net.load_state_dict(weights)


def resume(trainer: Trainer, folder: PathLike) -> None:
    """Put a new trainer where the checkpoint was taken; `fit` then goes on bit for bit (on the CPU).

    Raises:
        CheckpointError: damaged, of another model, or of a run with other settings.
    """
    content = read(folder)
    check_same_network(trainer.module.net, content["state"]["network"], Path(folder))
    _check_same_run(trainer, content["state"], Path(folder))
    trainer.load_state_dict(content["state"])


def check_same_network(net: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """CheckpointError naming the first parameter or buffer whose name or shape differs."""
    ours = net.state_dict()
    for name, tensor in ours.items():
        if name not in weights:
            raise CheckpointError(
                f"{source} is from another model: it has no {name!r}, which this model has."
            )
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source} is from another model: {name!r} has the shape {list(weights[name].shape)} there "
                f"and {list(tensor.shape)} here."
            )
    extra = min((name for name in weights if name not in ours), default=None)
    if extra is not None:
        raise CheckpointError(f"{source} is from another model: it has {extra!r}, which this model has not.")


def _check_same_run(trainer: Trainer, state: dict[str, Any], source: Path) -> None:
    stateful = [type(handler).__name__ for handler in trainer.handlers if handler.state_dict()]
    pairs: dict[str, tuple[Any, Any]] = {
        "number of steps": (state["total"], trainer.total),
        "seed": (state["seed"], state["seed"] if trainer.module.seed is None else trainer.module.seed),
        "optimizer": (next(iter(state["optimizer"])), type(trainer.optimizer).__name__),
        "learning-rate schedule": (state["schedule"] is not None, trainer.scheduler is not None),
        "number of processes": (len(state["random"]), trainer.fabric.world_size),
        "list of handlers with a memory": (sorted(state["handlers"]), sorted(stateful)),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise CheckpointError(
                f"{source} is of a run with other settings: its {name} is {theirs!r}, this run's is {ours!r}."
            )


def _read_meta(source: Path) -> dict[str, Any]:
    path = source / META
    try:
        meta = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{source} is not a checkpoint: it has no {META}.") from None
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    known = isinstance(meta, dict) and meta.get("format") == FORMAT
    if not known or not isinstance(meta.get("sha256"), dict) or "state" not in meta:
        raise CheckpointError(
            f"{path} is not a checkpoint of this version (its format should be {FORMAT!r})."
        )
    return dict(meta)


def _read_tensors(path: Path, digest: str | None) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(
                f"{path} is damaged or cut short: its bytes are not those that were written."
            )
        return safetensors.torch.load(data)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is not a checkpoint: it has no {path.name}.") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}.") from None


# While training


class Checkpoint(Handler):
    """Saves `last` after every epoch, every `every` steps, at an interrupt and at the end; and `best`.

    Where epochs take less than `pause` seconds, those that end sooner after a save are passed over: a kill then
    costs at most so many seconds of training. `best` waits in memory until `last` is saved.

    `best` is the epoch with the highest robust accuracy on the validation split (clean accuracy decides ties,
    and takes its place where nothing attacks); it is kept only where something validates.
    """

    order: ClassVar[int] = 50

    def __init__(self, folder: str | os.PathLike[str], every: int = 0, pause: float = 0.0) -> None:
        if every < 0:
            raise ValueError(f"every must be a number of steps, 0 or more, got {every}.")
        self.folder, self.every, self.pause = Path(folder), every, pause
        self.best: tuple[float, float] | None = None
        self._best_content: dict[str, Any] | None = None
        self._saved_at: int | None = None
        self._saved_time = -math.inf

    def step_end(self, trainer: Trainer) -> None:
        """`last`, every so many steps."""
        if self.every and trainer.step % self.every == 0:
            self.save(trainer)

    def epoch_end(self, trainer: Trainer) -> None:
        """`best` when this epoch was validated and is better, and `last` unless it was saved just now."""
        self._keep_best(trainer)
        due = time.monotonic() - self._saved_time >= self.pause
        if trainer.all_sum(torch.tensor(float(due))) > 0:
            self.save(trainer)

    def interrupt(self, trainer: Trainer) -> None:
        """`last`, wherever the epoch stands."""
        self.save(trainer)

    def exception(self, trainer: Trainer) -> None:
        """The best network so far is not lost with the run."""
        self._write_best(trainer)

    def end(self, trainer: Trainer) -> None:
        """`last`, unless the state is suspect or saved already."""
        if trainer.status == "finished":
            self._keep_best(trainer)
            if self._saved_at != trainer.step or self._best_content is not None:
                self.save(trainer)

    def _keep_best(self, trainer: Trainer) -> None:
        scores = trainer.scores
        if scores.get("step") != trainer.step:
            return
        score = (scores.get("robust", scores["clean"]), scores["clean"])
        if self.best is None or score > self.best:
            self.best = score
            trainer.emit("saving")
            self._best_content = snapshot(trainer)

    def _write_best(self, trainer: Trainer) -> None:
        if self._best_content is not None and trainer.fabric.is_global_zero:
            write(self.folder / "best", self._best_content)
        self._best_content = None

    def save(self, trainer: Trainer) -> None:
        """Write the present state as `last`. All processes must call it; the first one writes."""
        trainer.emit("saving")
        content = snapshot(trainer)
        self._write_best(trainer)  # first: `last` remembers its score
        if trainer.fabric.is_global_zero:
            write(self.folder / "last", content)
        trainer.fabric.barrier()
        self._saved_at, self._saved_time = trainer.step, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the best score back."""
        self.best = state["best"]
