"""Batches from tensors that already are where they are needed: no worker processes, exact resumption."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from .arrays import ArrayData, pixels
from .augment import Augmentation, compose


class Loader:
    """Batches `(x float32 [B, ...], y int64 [B])` of data that live on one device, one epoch per iteration.

    The order of an epoch derives from (seed, epoch) and the augmentation of a batch from (seed, epoch,
    batch), so a position is two numbers and resuming at it gives the bits of a run that was never
    interrupted. Everything random is drawn on the CPU: the same seed means the same batches on every device.

    Iterating goes on where the loader stands, which is the beginning of an epoch unless an earlier iteration
    stopped inside one or a state was loaded. A state saved after an epoch's last batch, but before its loop
    ended, resumes with the end of that epoch: a loop that gives no more batches, then the next epoch.

    Attributes:
        epoch: the one that is or will be iterated, from 0.
        batch: how many of its batches were handed out.
        data: the samples, on the device.

    Args:
        data: the samples.
        batch_size: samples in a batch, over all processes.
        shuffle: a new order each epoch; otherwise the order of the data.
        seed: of order and augmentation.
        device: where the data shall live; by default where they are.
        augment: names such as `["crop4", "flip"]`, or functions `(x, generator) -> x`; applied to stored
            pixels.
        drop_last: leave out a last batch that is not full.
        rank: which of `world_size` processes this is: it gets every `world_size`-th sample of each batch, so
            that the processes' batches together are the batch of a single process, augmentation included.
        world_size: how many processes share each batch.
        index: also give the samples' places in the data: batches `(x, y, index int64 [B])`.

    Raises:
        ValueError: a size that gives no batches, or images needed for augmentation that are not there.
    """

    def __init__(
        self,
        data: ArrayData,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        augment: Sequence[str | Augmentation] | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        index: bool = False,
    ) -> None:
        self.data = data if device is None else data.to(device)
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        self.rank, self.world_size, self.index = rank, world_size, index
        self._augment = compose(augment) if augment else None
        self._names = [
            a if isinstance(a, str) else getattr(a, "__qualname__", type(a).__qualname__)
            for a in augment or ()
        ]
        self.epoch, self.batch = 0, 0
        self._check()

    def __len__(self) -> int:
        """Batches in an epoch."""
        n = len(self.data)
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = self._order()
        while self.batch < len(self):
            batch = self.batch
            self.batch += 1  # before it is handed out: a state saved while it is in use points behind it
            yield self._make(order, batch)
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it depends on, as plain JSON-able values."""
        return {"epoch": self.epoch, "batch": self.batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            ValueError: the state is of a loader with other data, seed, batch size or augmentation, where the
                same position would mean other batches.
        """
        for key, own in self._identity().items():
            if key not in state:
                raise ValueError(f"this is no state of a data loader: it lacks {key!r}")
            if state[key] != own:
                raise ValueError(
                    f"cannot resume the data: {key} was {state[key]!r} when saved and is {own!r} now"
                )
        epoch, batch = state.get("epoch"), state.get("batch")
        if type(epoch) is not int or type(batch) is not int or epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(
                f"cannot resume at epoch {epoch!r}, batch {batch!r}: an epoch has {len(self)} batches"
            )
        self.epoch, self.batch = epoch, batch

    def reset(self, epoch: int = 0) -> None:
        """Go to the beginning of an epoch."""
        self.epoch, self.batch = epoch, 0

    def _identity(self) -> dict[str, Any]:
        return {
            "samples": len(self.data),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "augment": list(self._names),
        }

    def _order(self) -> Tensor:
        n = len(self.data)
        if not self.shuffle:
            return torch.arange(n, device=self.data.device)
        return torch.randperm(n, generator=_stream(self.seed, self.epoch)).to(self.data.device)

    def _make(self, order: Tensor, batch: int) -> tuple[Tensor, ...]:
        index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        x, y = self.data.x[index], self.data.y[index]
        if self._augment is not None:
            # Before the processes' shares are taken, so that a sample is augmented alike whoever gets it.
            x = self._augment(x, _stream(self.seed, self.epoch, batch))
        share = slice(self.rank, None, self.world_size)
        return (pixels(x[share]), y[share], *((index[share],) if self.index else ()))

    def _check(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {self.batch_size!r}")
        if not len(self):
            raise ValueError(
                f"{self.data.name}: {len(self.data)} samples give no full batch of {self.batch_size}, and "
                "drop_last leaves out the rest; lower the batch size"
            )
        if self._augment is not None and len(self.data.shape) != 3:
            raise ValueError(
                f"{self.data.name}: augmentation {self._names} needs images [C, H, W], samples are "
                f"{list(self.data.shape)}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must lie in 0..{self.world_size - 1} (world_size {self.world_size}), got {self.rank}"
            )
        smallest = self.batch_size if self.drop_last else (len(self.data) - 1) % self.batch_size + 1
        if smallest < self.world_size:
            raise ValueError(
                f"{self.data.name}: a batch of {smallest} samples cannot be shared by {self.world_size} "
                "processes; change the batch size or drop the last batch"
            )


def _stream(*key: int) -> Generator:
    """A CPU generator of its own for each (seed, epoch) and (seed, epoch, batch).

    Hashed, because generators seeded by neighbouring numbers or by sums of parts are not independent.
    """
    digest = hashlib.sha256(f"loader {' '.join(map(str, key))}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
