"""Random numbers that belong to a sample and not to its batch, for searches that take thousands of random steps.

Each row has a key of its own; a counter says which number is wanted. Number ``n`` of a row is a function of (key, n)
alone, so a search gives a sample the same random walk in every batch, in every order and on every device, however many
of its neighbours have left. The function is Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random
numbers: as easy as 1, 2, 3"), which torch uses on CUDA too, here in int64 arithmetic over whole batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def draw_keys(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random key ``[B, 2]`` for every sample of ``x [B, ...]``: what the ``draw`` of such a point gives."""
    return torch.randint(0, _WORD + 1, (x.shape[0], 2), generator=generator, device=x.device)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10: four random words for four counter words and two key words, all in [0, 2^32) as int64."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The products are below 2^64: int64 holds all their bits, of which the sign is one, hence the mask.
        low, high = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b = ((high >> 32) & _WORD) ^ b ^ k0, high & _WORD
        c, d = ((low >> 32) & _WORD) ^ d ^ k1, low & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [a, b, c, d]


def words(keys: Tensor, stream: int, first: int, steps: int, count: int) -> Tensor:
    """Random words in [0, 2^32), ``[B, steps, count]``: those of the steps ``first``, ``first + 1``, ... of each row.

    Args:
        keys: of the rows, ``[B, 2]``.
        stream: separates the uses of one row: restarts, targets.
        first: number of the first step, in [0, 2^32).
        steps: for how many steps; many at once are cheaper than one by one, and the same.
        count: words for each step.
    """
    device = keys.device
    blocks = torch.arange(-(-count // 4), device=device).reshape(1, 1, -1)
    step = torch.arange(first, first + steps, device=device).reshape(1, -1, 1)
    zero = torch.zeros(keys.shape[0], 1, 1, dtype=torch.int64, device=device)
    key = (keys[:, 0].reshape(-1, 1, 1), keys[:, 1].reshape(-1, 1, 1))
    parts = philox((zero + blocks, zero + step, zero + stream, zero), key)
    return torch.stack(parts, dim=3).flatten(2)[:, :, :count]


def below(word: Tensor, n: int | Tensor) -> Tensor:
    """Integers in [0, n) from words; for n up to 2^31, each value as likely as the others to n / 2^32."""
    return (word * n) >> 32


def bits(word: Tensor, count: int) -> Tensor:
    """The first ``count`` bits ``[..., count]`` of words ``[..., k]``, 32 a word, as bool."""
    each = (word.unsqueeze(-1) >> torch.arange(32, device=word.device)) & 1
    return each.flatten(-2)[..., :count].bool()


def words_for_bits(count: int) -> int:
    """How many words hold ``count`` bits."""
    return -(-count // 32)


def uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers strictly between 0 and 1 from words, exact in float32."""
    return ((word >> 9).to(dtype) + 0.5) * 2.0**-23


def normal(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers from words, within 5.2 of 0."""
    numbers: Tensor = torch.special.ndtri(uniform(word, dtype))
    return numbers
