from __future__ import annotations

import pytest
import torch

from robustreg.data import NAMES, DataError, load


@pytest.mark.parametrize(
    ("name", "near"),
    [("minst", "mnist"), ("cifar", "cifar10"), ("CIFAR100", "cifar100"), ("digit", "digits")],
)
def test_an_unknown_name_gets_the_closest_and_the_list(name, near):
    with pytest.raises(DataError, match=f"unknown data set '{name}'; did you mean '{near}'") as caught:
        load(name)
    assert all(known in str(caught.value) for known in NAMES)


def test_path_belongs_to_arrays_alone():
    with pytest.raises(DataError, match=r"the data 'arrays' need path=FILE\.npz"):
        load("arrays")
    with pytest.raises(DataError, match="no others take it"):
        load("digits", path="x.npz")


def test_train_size_keeps_a_stratified_part_and_leaves_the_others(tmp_path, write_mnist):
    write_mnist(tmp_path, train=200)
    whole = load("mnist", tmp_path, download=False)
    part = load("mnist", tmp_path, train_size=40, download=False)
    assert torch.bincount(part.train.y).tolist() == [4] * 10
    assert part.validation.sha256 == whole.validation.sha256
    assert part.test.sha256 == whole.test.sha256
    with pytest.raises(DataError, match="train_size of 500 samples cannot be cut from 180"):
        load("mnist", tmp_path, train_size=500, download=False)
