"""Training sets of which only some samples keep their label."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from robustreg.data import DataError, from_arrays, load
from robustreg.data.splits import hide_labels


def classes(y: torch.Tensor) -> Counter[int]:
    return Counter(y.tolist())


def test_the_kept_labels_are_a_stratified_part() -> None:
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    data = from_arrays(torch.rand(100, 4), y)
    for kept in (20, 0.2):
        hidden = hide_labels(data, kept, seed=0)
        assert classes(hidden.y) == {-1: 80, 0: 12, 1: 6, 2: 2}
        assert torch.equal(hidden.y[hidden.y >= 0], y[hidden.y >= 0])
        assert hidden.x is data.x
        assert hidden.classes == data.classes
        assert hidden.sha256 != data.sha256
    assert torch.equal(hide_labels(data, 20, 0).y, hide_labels(data, 0.2, 0).y)
    assert not torch.equal(hide_labels(data, 20, 0).y, hide_labels(data, 20, 1).y)
    assert classes(hide_labels(hide_labels(data, 50, 0), 10, 0).y)[-1] == 90  # of those that still had one


@pytest.mark.parametrize("kept", [0, 100, 1.0, True])
def test_an_amount_that_cannot_be_kept(kept: float) -> None:
    data = from_arrays(torch.rand(100, 4), torch.arange(100) % 2)
    with pytest.raises(DataError, match="labelled"):
        hide_labels(data, kept, seed=0)


def test_of_the_training_samples_only() -> None:
    pytest.importorskip("sklearn")
    whole, some = load("digits", train_size=400), load("digits", train_size=400, labelled=0.1)
    told = [splits.describe() for splits in (whole, some)]
    assert told[0]["labelled"] == told[0]["train"] == told[1]["train"]
    assert told[1]["labelled"] == int((some.train.y >= 0).sum()) < told[1]["train"]
    assert torch.equal(some.train.x, whole.train.x)
    assert (some.train.y >= 0).sum() == 40
    assert some.validation is not None
    assert whole.validation is not None
    assert torch.equal(some.validation.y, whole.validation.y)
    assert torch.equal(some.test.y, whole.test.y)
    with pytest.raises(DataError, match="digits: labelled of 5000 samples cannot be cut"):
        load("digits", labelled=5000)
