"""The work of one attack, kept sample by sample so that an interrupted evaluation can go on."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustreg.files import PathLike


@dataclass
class Work:
    """What one attack has done so far on N samples.

    Attributes:
        attacked: `[N]` bool, the samples it was run on.
        standing: `[N]` bool, those of them that are still right.
        fooled: adversarial points that are misclassified, in batches of (indices `[B]`, points `[B, ...]`).
        survivors: points of samples still right, the same form, when they are asked for.
        seconds: time it took.
        problem: the first thing the attack broke, one sentence.
        error: what stopped it before it was done, if anything did.
        withstood: `[N]`, how many members of an attack that is made of several did not fool the sample so far.
    """

    attacked: Tensor
    standing: Tensor
    fooled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    survivors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    seconds: float = 0.0
    problem: str | None = None
    error: Exception | None = None
    withstood: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @classmethod
    def empty(cls, n: int) -> Work:
        """Nothing done yet."""
        nobody = torch.zeros(n, dtype=torch.bool)
        return cls(nobody, nobody.clone(), withstood=torch.zeros(n, dtype=torch.int64))

    def add(self, indices: Tensor, x_adv: Tensor, right: Tensor, keep_survivors: bool) -> None:
        """Record a batch: indices `[B]`, points `[B, ...]`, which are still right `[B]`; all on the CPU."""
        self.standing[indices] = right
        if not right.all():
            self.fooled.append((indices[~right], x_adv[~right]))
        if keep_survivors and right.any():
            self.survivors.append((indices[right], x_adv[right]))
        # Last: a batch counts as done only when all of it is recorded, wherever Ctrl-C falls.
        self.attacked[indices] = True

    def add_fooled(self, indices: Tensor, x_adv: Tensor, right: Tensor) -> None:
        """Record a batch of a member that others follow: who is fooled is done, the rest withstood one more."""
        self.add(indices[~right], x_adv[~right], right[~right], keep_survivors=False)
        self.withstood[indices[right]] += 1

    def give_up(self, targets: Tensor, error: Exception) -> None:
        """Record that an error stopped the attack, so that it fooled none of the `targets` `[N]` it did not reach."""
        words = str(error).strip().splitlines()
        self.error = error
        self.problem = f"it stopped with {type(error).__name__}: {words[0] if words else 'no message'}"
        self.standing |= targets & ~self.attacked
        self.attacked |= targets

    def done(self, parts: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return the batches of `fooled` or `survivors` that are wholly recorded."""
        return [(i, p) for i, p in parts if bool(self.attacked[i].all())]


def joined(parts: list[tuple[Tensor, Tensor]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Join batches of (indices, points) into `[K]`, `[K, ...]` by index; `like` `[N, ...]` gives shape."""
    if not parts:
        return torch.zeros(0, dtype=torch.int64), like.new_zeros((0, *like.shape[1:]), device="cpu")
    indices = torch.cat([i for i, _ in parts])
    points = torch.cat([p for _, p in parts])
    order = indices.argsort()
    return indices[order], points[order]


def write_tensors_atomic(path: PathLike, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file beside its target, force it to the disk, and rename it onto the target.

    Written by name, not as bytes in memory: the points of a large evaluation are gigabytes.

    Raises:
        OSError: it cannot be written, such as on a full disk; what was there before still is.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, SafetensorError):  # a full disk, in the words of safetensors
            raise OSError(f"{target} cannot be written: {error}") from error
        raise


class WorkStore:
    """A folder of unfinished work, one file an attack, named by a key of all that the work depends on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told = False

    def save(self, key: str, work: Work, like: Tensor) -> None:
        """Write the work under its key; `like` `[N, ...]` gives the shape of a point.

        A disk that takes no more must not end hours of work: it is warned of once, and the work goes on in memory. A
        Ctrl-C that falls here is raised after a second try.
        """
        try:
            self._write(key, work, like)
        except KeyboardInterrupt:
            self._write(key, work, like)
            raise
        except OSError as error:
            if not self._told:
                warnings.warn(
                    f"unfinished work cannot be kept ({error}): the evaluation goes on, but if it is interrupted, what "
                    "it found is lost",
                    stacklevel=5,
                )
            self._told = True

    def _write(self, key: str, work: Work, like: Tensor) -> None:
        fooled_index, fooled = joined(work.done(work.fooled), like)
        survivor_index, survivors = joined(work.done(work.survivors), like)
        tensors = {
            "attacked": work.attacked,
            "standing": work.standing,
            "withstood": work.withstood,
            "fooled.index": fooled_index,
            "fooled.points": fooled,
            "survivors.index": survivor_index,
            "survivors.points": survivors,
        }
        metadata = {"seconds": repr(work.seconds), "problem": work.problem or ""}
        write_tensors_atomic(self._path(key), tensors, metadata)

    def load(self, key: str) -> Work | None:
        """Read the work of this key, None when there is none or its file cannot be read."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            parts = {
                kind: [(tensors[f"{kind}.index"], tensors[f"{kind}.points"])]
                if len(tensors[f"{kind}.index"])
                else []
                for kind in ("fooled", "survivors")
            }
            return Work(
                attacked=tensors["attacked"],
                standing=tensors["standing"],
                withstood=tensors["withstood"],
                fooled=parts["fooled"],
                survivors=parts["survivors"],
                seconds=float(metadata["seconds"]),
                problem=metadata["problem"] or None,
            )
        # Unreadable work is done again: it can be slow, never wrong.
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def clear(self) -> None:
        """Remove the files of this store, and its folder when nothing else is in it."""
        for file in self._folder.glob("*.safetensors"):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"
