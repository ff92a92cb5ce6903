"""The C library's heap, told once to keep the memory that a step will want again."""

from __future__ import annotations

import functools

import torch

_BLOCK = 31 << 20


@functools.cache
def keep_heap() -> None:
    """Have glibc keep up to 62 MiB of freed memory, once for the process; elsewhere this changes nothing.

    By itself it gives the top of its heap back to the system as soon as more than twice the largest block that was ever
    freed lies idle there, at first 128 kB, and takes it again, page by page and zeroed, at the next step. On
    small networks that can take a large part of an attack's time. Blocks count up to 32 MiB, so one freed block is all
    it takes; nobody writes to it, so it costs no memory.
    """
    torch.empty(_BLOCK, dtype=torch.uint8)
