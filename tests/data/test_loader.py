from __future__ import annotations

import json

import pytest
import torch

from robustreg.data import Loader, from_arrays


def make(n=50, shape=(1, 6, 6), seed=0):
    x = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return from_arrays(x, torch.arange(n) % 5, name="tiny")


def loader(data=None, **options):
    settings = {"batch_size": 8, "shuffle": True, "seed": 3, "augment": ["crop2", "flip"], **options}
    return Loader(data or make(), **settings)


def run(source, batches):
    """The next batches, over the ends of epochs."""
    out = []
    while len(out) < batches:
        for batch in source:
            out.append(batch)
            if len(out) == batches:
                break
    return out


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


def test_batches_are_floats_in_pixel_scale_and_cover_an_epoch():
    data = make()
    batches = list(loader(data, augment=None))
    assert [len(y) for _, y in batches] == [8] * 6 + [2]
    assert len(loader(data)) == 7
    x = torch.cat([x for x, _ in batches])
    assert x.dtype == torch.float32
    assert torch.equal(x.flatten(1).sort(0).values, data[:][0].flatten(1).sort(0).values)
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == sorted(data.y.tolist())


def test_without_shuffling_the_order_is_that_of_the_data():
    data = make()
    batches = list(Loader(data, 8))
    assert torch.equal(torch.cat([x for x, _ in batches]), data[:][0])


def test_images_and_labels_stay_together():
    data = make(200)
    known = {row.numpy().tobytes(): int(y) for row, y in zip(data.x, data.y, strict=True)}
    for x, y in loader(data, augment=None):
        for image, label in zip(x, y, strict=True):
            assert known[(image * 255).round().byte().numpy().tobytes()] == int(label)


def test_drop_last():
    source = loader(drop_last=True)
    assert len(source) == 6
    assert [len(y) for _, y in source] == [8] * 6
    with pytest.raises(ValueError, match="50 samples give no full batch of 51"):
        loader(batch_size=51, drop_last=True)
    assert len(list(loader(batch_size=51))) == 1


def test_epochs_differ_and_repeat_by_seed():
    one, again, other = loader(), loader(), loader(seed=4)
    first, second = list(one), list(one)
    assert one.epoch == 2
    assert not same(first, second)
    assert same(first, list(again))
    assert not same(first, list(other))


def test_augmentation_leaves_the_order_alone():
    plain, changed = list(loader(augment=None)), list(loader(augment=["flip"]))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(plain, changed, strict=True))
    assert not same(plain, changed)


def test_augmentation_differs_by_batch_and_by_epoch():
    image = make().x[:1]  # one image many times, so that only the draws differ
    data = from_arrays(image.repeat(32, 1, 1, 1), torch.arange(32) % 2)
    source = Loader(data, 16, augment=["crop2"])
    first, second = list(source), list(source)
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], second[0][0])


def test_the_global_random_state_is_neither_used_nor_moved():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = list(loader())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert same(first, list(loader()))


@pytest.mark.parametrize("done", [0, 1, 5, 6, 7, 8, 17])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(done):
    whole = run(loader(), 20)
    before = loader()
    head = run(before, done) if done else []
    state = json.loads(json.dumps(before.state_dict()))
    after = loader()
    after.load_state_dict(state)
    assert same(whole, head + run(after, 20 - done))


def test_a_state_taken_inside_the_loop_points_behind_the_batch_in_hand():
    source = loader()
    states = [source.state_dict() for _ in source]
    assert [s["batch"] for s in states] == [1, 2, 3, 4, 5, 6, 7]
    assert {s["epoch"] for s in states} == {0}
    after = loader()
    after.load_state_dict(states[-1])
    assert list(after) == []  # the epoch was complete but for its end
    assert after.epoch == 1
    assert len(list(after)) == 7


def test_iteration_goes_on_where_it_stopped_until_reset():
    source = loader()
    first = next(iter(source))
    second = next(iter(source))
    assert not same([first], [second])
    assert same([first, second], run(loader(), 2))
    source.reset()
    assert same([first], [next(iter(source))])


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 9},
        {"seed": 4},
        {"shuffle": False},
        {"augment": ["flip"]},
        {"drop_last": True},
        {"data": make(49)},
    ],
)
def test_a_state_of_another_loader_is_refused(options):
    with pytest.raises(ValueError, match=r"cannot resume the data: \w+ was .* when saved and is .* now"):
        loader(**options).load_state_dict(loader().state_dict())


@pytest.mark.parametrize(
    "change", [{"batch": 8}, {"batch": -1}, {"epoch": -1}, {"epoch": "0"}, {"batch": 1.0}]
)
def test_an_impossible_position_is_refused(change):
    with pytest.raises(ValueError, match="cannot resume at epoch"):
        loader().load_state_dict({**loader().state_dict(), **change})


def test_no_state_at_all_is_refused():
    with pytest.raises(ValueError, match="it lacks 'samples'"):
        loader().load_state_dict({"epoch": 0, "batch": 0})


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_processes_are_the_batch_of_one(world):
    data = make(48)
    whole = list(loader(data))
    shares = [list(loader(data, rank=r, world_size=world)) for r in range(world)]
    for i, (x, y) in enumerate(whole):
        joined_x, joined_y = torch.empty_like(x), torch.empty_like(y)
        for rank, share in enumerate(shares):
            joined_x[rank::world], joined_y[rank::world] = share[i]
        assert torch.equal(joined_x, x)
        assert torch.equal(joined_y, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"batch_size": 2.5}, "whole number"),
        ({"data": from_arrays(torch.zeros(9, 4), torch.arange(9) % 2)}, r"needs images \[C, H, W\]"),
        ({"augment": ["spin"]}, "unknown augmentation 'spin'"),
        ({"rank": 2, "world_size": 2}, "rank must lie in"),
        ({"world_size": 4}, "a batch of 2 samples cannot be shared by 4"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        loader(**options)


def test_a_loader_can_say_which_samples_it_gives():
    data, seen = make(10), []
    for x, _, index in loader(data, augment=None, index=True):
        torch.testing.assert_close(x, data.x[index] / 255)
        seen.append(index)
    assert sorted(torch.cat(seen).tolist()) == list(range(10))
    for rank in (0, 1):
        shares = [batch[2] for batch in loader(data, augment=None, index=True, rank=rank, world_size=2)]
        assert same([(i, i) for i in shares], [(i[rank::2], i[rank::2]) for i in seen])
