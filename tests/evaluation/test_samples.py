from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from robustreg.evaluation.samples import check_labels, gather

X = torch.arange(12.0).reshape(6, 2) / 12
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Stored:
    x, y = X, Y


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        (X, Y.numpy().astype(np.uint8)),
        (X[:, ::1], Y.int()),
        Stored(),
        namedtuple("Batch", "x y")(X, Y.tolist()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        [(X[:4], Y[:4]), (X[4:], Y[4:])],
        ((X[i : i + 1].numpy(), Y[i : i + 1].numpy()) for i in range(6)),
    ],
    ids=[
        "pair",
        "list",
        "numpy",
        "mixed",
        "int32",
        "object",
        "named",
        "dataset",
        "loader",
        "batches",
        "generator",
    ],
)
def test_every_form_gives_the_same_samples(data):
    samples = gather(data)
    assert torch.equal(samples.x, X)
    assert torch.equal(samples.y, Y)
    assert samples.y.dtype == torch.int64


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (X, TypeError, "pair"),
        (7, TypeError, "pair"),
        ((X, Y, Y), TypeError, "item 0"),
        ((X[:0], Y[:0]), ValueError, "no samples"),
        ([], ValueError, "no samples"),
        ((X.mul(255).to(torch.uint8), Y), TypeError, "floating point"),
        ((X, Y.float()), TypeError, "labels must be integers, class numbers from 0, got torch.float32"),
        ((X, nn.functional.one_hot(Y)), ValueError, r"\[N\].*\[6, 3\]"),
        ((X, Y[:5]), ValueError, "6 inputs but 5 labels"),
        ((X, np.array(list("abcdef"))), TypeError, "numeric"),
        ([(X[0], 1), (X[1], 0)], ValueError, "batch 0"),
    ],
)
def test_bad_data_is_one_sentence(data, error, words):
    with pytest.raises(error, match=words):
        gather(data)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 3, 1], "label 3 of sample 1 .* 3 classes"),
        ([0, -1, -1], "sample 1 has label -1.*2 of 3"),
        ([-2], "label -2"),
    ],
)
def test_labels_out_of_range(labels, words):
    with pytest.raises(ValueError, match=words):
        check_labels(torch.tensor(labels), 3)


def test_float64_arrays_meet_a_float32_model_but_never_lose_to_half():
    x64 = gather((X.double().numpy(), Y))
    assert x64.as_model_takes(nn.Linear(2, 3)).x.dtype == torch.float32
    assert x64.as_model_takes(nn.Linear(2, 3).double()).x.dtype == torch.float64
    assert x64.as_model_takes(nn.Linear(2, 3).bfloat16()).x.dtype == torch.float64
    assert gather((X.half(), Y)).as_model_takes(nn.Linear(2, 3)).x.dtype == torch.float16
