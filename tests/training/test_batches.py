from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from robustreg.data import Loader
from robustreg.training import random_state, tree
from robustreg.training.batches import Batches


def take(batches, n):
    got = []
    for batch in batches:
        got.append(batch)
        if len(got) == n:
            break
    return got


def equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("kind", ["loader", "dataloader", "list"])
@pytest.mark.parametrize("position", [1, 3, 5])
def test_the_rest_of_the_epoch_after_a_resume(tools, kind, position):
    data = tools.data()

    def build():
        if kind == "loader":
            return Batches(Loader(data, 8, shuffle=True, seed=1, augment=["crop1"]))
        if kind == "dataloader":
            return Batches(DataLoader(TensorDataset(*data[:]), batch_size=8, shuffle=True))
        return Batches([data[i : i + 8] for i in range(0, 40, 8)])

    torch.manual_seed(0)
    whole = list(build())
    torch.manual_seed(0)
    first = build()
    begun = take(first, position)
    state, states = first.state_dict(), random_state.capture()
    tools.scramble()
    second = build()
    second.load_state_dict(state)
    random_state.restore(states)
    assert second.at_end == (position == 5)
    rest = list(second)
    assert equal(begun + rest, whole)
    assert second.position == 0


def test_the_epoch_after_a_resumed_one_is_another(tools):
    loader = Batches(Loader(tools.data(), 8, shuffle=True, seed=1))
    take(loader, 2)
    second = Batches(Loader(tools.data(), 8, shuffle=True, seed=1))
    second.load_state_dict(loader.state_dict())
    list(second)
    fresh = Batches(Loader(tools.data(), 8, shuffle=True, seed=1))
    list(fresh)
    assert equal(list(second), list(fresh))


def test_length_where_it_is_known(tools):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from range(3)

    assert Batches([1, 2]).length == 2
    assert Batches(iter([1])).length is None
    assert Batches(DataLoader(Stream())).length is None


def test_random_states_come_back():
    numpy = pytest.importorskip("numpy")
    state = random_state.capture()
    first = (random.random(), numpy.random.rand(), numpy.random.randn(), torch.rand(1).item())
    packed, values = tree.pack(state)
    random_state.restore(tree.unpack(packed, values))
    assert (random.random(), numpy.random.rand(), numpy.random.randn(), torch.rand(1).item()) == first


def test_seed_all_seeds_all():
    numpy = pytest.importorskip("numpy")
    draws = []
    for _ in range(2):
        random_state.seed_all(2**40 + 5)
        draws.append((random.random(), numpy.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]
