"""Random streams: every random number of a step comes from (seed, step, what it is for).

A stream per use, and not one generator passed along, is what makes objectives composable: adding a term, or logging
one with weight 0, cannot shift the numbers that the other terms draw. Equal points have equal keys, so they share a
draw. Keys are made of content (class names and field values), never of Python's per-process hashes, so that the same
seed gives the same bits in another process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def content_key(value: Any) -> str:
    """A string that names a value by its content, equal in every process.

    Understands numbers, strings, None, tensors (by their bytes), functions (by qualified name), containers, dataclasses
    and any object with a ``content_key()`` method of its own. Equal numbers have one name, whatever their type.
    """
    if type(value) is int or type(value) is str:  # what most keys are made of, at every run of a network
        return repr(value)
    # 2 == 2.0 == numpy's 2, so points that hold them are equal and must share a stream
    if isinstance(value, numbers.Integral):
        return repr(int(value))
    if isinstance(value, numbers.Real):
        number = float(value)
        return repr(int(number) if number.is_integer() else number)
    own = getattr(value, "content_key", None)
    if callable(own) and not isinstance(value, type):
        return str(own())
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        digest = hashlib.blake2b(
            data.flatten().view(torch.uint8).numpy().tobytes(), digest_size=16
        ).hexdigest()
        return f"tensor({tuple(data.shape)},{data.dtype},{digest})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ",".join(
            f"{f.name}={content_key(getattr(value, f.name))}" for f in dataclasses.fields(value)
        )
        return f"{type(value).__qualname__}({fields})"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{content_key(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, (tuple, list, set, frozenset)):
        parts = [content_key(v) for v in value]
        return "(" + ",".join(sorted(parts) if isinstance(value, (set, frozenset)) else parts) + ")"
    if callable(value):
        return (
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        )
    return repr(value)


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from any values, equal in every process."""
    text = "\x1f".join(content_key(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclasses.dataclass(frozen=True)
class Stream:
    """The source of a step's random numbers: ``stream.generator(device, key)`` for each use."""

    seed: int
    step: int = 0

    def derive(self, *key: Any) -> int:
        """The seed of one use within this step."""
        return derive_seed(self.seed, self.step, *key)

    def generator(self, device: torch.device | str, *key: Any) -> torch.Generator:
        """A fresh generator on ``device`` for one use within this step."""
        return torch.Generator(device=device).manual_seed(self.derive(*key))

    @classmethod
    def from_generator(cls, generator: torch.Generator | None) -> Stream:
        """One draw of ``generator`` (which moves on) or, without one, of torch's initial seed (which does not)."""
        if generator is None:
            return cls(torch.initial_seed())
        draw = torch.randint(0, 2**62, (), generator=generator, device=generator.device)
        return cls(int(draw.item()))


@contextmanager
def global_seed(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of ``device`` for a while, and put their states back after.

    Dropout and other random layers of a network draw from the global generators: this gives each forward its own
    stream and leaves no trace.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [g.get_state() for g in generators]
    try:
        for g in generators:
            g.manual_seed(seed)
        yield
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
