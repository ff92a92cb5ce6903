from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustreg.data import DataError, Splits, cut_validation, from_arrays, stratified_cut


def make(counts, name="tiny"):
    y = torch.cat([torch.full((n,), label) for label, n in counts.items()])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    x = torch.arange(len(y), dtype=torch.float32)[:, None] / len(y)
    return from_arrays(x, y[order], name=name, classes=3)


def test_parts_are_disjoint_whole_ordered_and_stratified():
    data = make({0: 50, 1: 30, 2: 20})
    rest, cut = stratified_cut(data.y, 0.2, seed=3)
    assert torch.equal(torch.cat([rest, cut]).sort().values, torch.arange(100))
    assert torch.equal(cut, cut.sort().values)
    assert torch.equal(rest, rest.sort().values)
    assert torch.bincount(data.y[cut]).tolist() == [10, 6, 4]


def test_seed_decides_and_only_the_seed():
    y = make({0: 50, 1: 30, 2: 20}).y
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (stratified_cut(y, 0.1, seed=s)[1] for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_cut_is_the_same_for_good():
    # A frozen value: a change would move validation samples into the training sets of earlier runs.
    _, cut = stratified_cut(torch.arange(20) % 2, 4, seed=0)
    assert cut.tolist() == [4, 7, 11, 16]


@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    unlabelled=st.integers(0, 5),
    share=st.floats(0.01, 0.99),
)
def test_every_class_keeps_its_share_to_within_one(counts, unlabelled, share):
    y = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)] + [torch.full((unlabelled,), -1)])
    total = max(1, round(share * sum(counts)))
    if total >= len(y):
        with pytest.raises(DataError):
            stratified_cut(y, share, seed=0)
        return
    rest, cut = stratified_cut(y, share, seed=0)
    assert len(cut) == total
    assert len(rest) + len(cut) == len(y)
    taken = torch.bincount(y[cut], minlength=len(counts))  # fails on -1: unlabelled samples are never cut
    for n, quota in zip(counts, taken.tolist(), strict=True):
        assert abs(quota - total * n / sum(counts)) < 1
        assert quota <= n


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (1.0, "between 0 and 1"),
        (-0.1, "between 0 and 1"),
        (float("nan"), "between 0 and 1"),
        (100, "100 samples cannot be cut from 100"),
        (-3, "cannot be cut"),
        (True, "a fraction or a number"),
        ("0.1", "a fraction or a number"),
    ],
)
def test_bad_amounts(amount, message):
    data = make({0: 50, 1: 30, 2: 20})
    with pytest.raises(DataError, match=message):
        cut_validation(data, data, amount)


def test_the_test_set_is_the_same_object_and_validation_can_be_none():
    train, test = make({0: 50, 1: 30, 2: 20}), make({0: 5, 1: 5, 2: 5})
    splits = cut_validation(train, test, 10, seed=0)
    assert splits.test is test
    assert (len(splits.train), len(splits.validation)) == (90, 10)
    values = torch.cat([splits.train.x, splits.validation.x]).sort(0).values
    assert torch.equal(values, train.x.sort(0).values)
    whole = cut_validation(train, test, 0)
    assert whole.validation is None
    assert whole.train is train


def test_description_has_the_counts_and_a_hash_of_each_content():
    train, test = make({0: 50, 1: 30, 2: 20}), make({0: 5, 1: 5, 2: 5})
    described = json.loads(json.dumps(cut_validation(train, test, 10).describe()))
    assert (described["train"], described["validation"], described["test"]) == (90, 10, 15)
    assert described["count"] == 115
    other = cut_validation(train, test, 10, seed=1).describe()
    assert other["sha256"] != described["sha256"]
    assert other["hashes"]["test"] == described["hashes"]["test"] == test.sha256
    none = cut_validation(train, test, 0).describe()
    assert (none["validation"], none["hashes"]["validation"]) == (0, None)


def test_splits_of_different_kinds_are_refused():
    train = make({0: 50, 1: 30, 2: 20})
    other = from_arrays(torch.zeros(4, 2), [0, 1, 2, 0])
    with pytest.raises(DataError, match="same sample shape and classes"):
        Splits(train, None, other)
