"""A loader whose place in the epoch can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor

from robustreg.training import random_state


class Batches:
    """Iterates a loader, epoch by epoch, and knows how many batches of the present epoch were given.

    A loader with `state_dict` and `load_state_dict` keeps its own place: after loading, its next iteration
    gives the rest of the epoch. Any other iterable (a torch `DataLoader`, say) is replayed: the random state
    that the epoch began with is put back, the batches already used are drawn and dropped, and the present
    random state returns.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, ...]]) -> None:
        self.loader: Any = loader
        self.position = 0
        self._keeps_place = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self._began: dict[str, Any] | None = None

    @property
    def length(self) -> int | None:
        """Batches in an epoch, or None where the loader does not say."""
        try:
            return len(self.loader) if isinstance(self.loader, Sized) else None
        except TypeError:  # a DataLoader over an iterable data set has __len__ and raises
            return None

    @property
    def at_end(self) -> bool:
        """Whether the epoch has no batch left."""
        return self.position == self.length

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """The rest of the present epoch; after it the position is 0 again."""
        for batch in iter(self.loader) if self._keeps_place else self._replayed():
            self.position += 1
            yield batch
        if self.position == 0:
            raise ValueError(f"the loader ({type(self.loader).__name__}) gave no batch in a whole epoch.")
        self.position = 0

    def _replayed(self) -> Iterator[tuple[Tensor, ...]]:
        if self.position == 0 or self._began is None:
            self._began = self._random_now()
            yield from self.loader
            return
        now = random_state.capture()
        self._random_back(self._began)
        rest: Iterator[tuple[Tensor, ...]] = iter(self.loader)
        for _ in range(self.position):
            next(rest)
        random_state.restore(now)
        yield from rest

    def _random_now(self) -> dict[str, Any]:
        own = getattr(self.loader, "generator", None)  # a DataLoader may shuffle with a generator of its own
        state = random_state.capture()
        return {**state, "loader": own.get_state()} if isinstance(own, torch.Generator) else state

    def _random_back(self, state: dict[str, Any]) -> None:
        random_state.restore(state)
        own = getattr(self.loader, "generator", None)
        if isinstance(own, torch.Generator) and "loader" in state:
            own.set_state(state["loader"])

    def state_dict(self) -> dict[str, Any]:
        """Position, and what the rest of the epoch depends on."""
        loader = self.loader.state_dict() if self._keeps_place else None
        return {"position": self.position, "loader": loader, "began": self._began}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` described."""
        self.position, self._began = state["position"], state["began"]
        if self._keeps_place and state["loader"] is not None:
            self.loader.load_state_dict(state["loader"])
