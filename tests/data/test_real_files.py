"""The original MNIST and Fashion-MNIST files, where the person who runs the tests has them."""

from __future__ import annotations

import os

import pytest
import torch

from robustreg.data import DataNotFound, load

FOLDER = os.environ.get("ROBUSTREG_DATA_DIR")

FACTS = {
    "mnist": {
        "train": (
            60000,
            1567298545,
            [27525, 31095, 19443],
            [5, 0, 4, 1, 9],
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        ),
        "test": (
            10000,
            264923200,
            [18454, 28850, 9871],
            [7, 2, 1, 0, 4],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
    },
    "fashion_mnist": {
        "train": (60000, 3431114169, [76247, 84598, 28662], [9, 0, 0, 3, 0], [6000] * 10),
        "test": (10000, 573469082, [33456, 100994, 51520], [9, 2, 1, 1, 6], [1000] * 10),
    },
}


@pytest.fixture(params=FACTS)
def published(request):
    if not FOLDER:
        pytest.skip("ROBUSTREG_DATA_DIR does not name a folder with the original files")
    try:
        return request.param, load(request.param, FOLDER, validation=0, download=False)
    except DataNotFound as reason:
        pytest.skip(str(reason))


def test_counts_and_pixel_sums(published):
    name, splits = published
    for part in ("train", "test"):
        data = getattr(splits, part)
        count, total, firsts, labels, classes = FACTS[name][part]
        assert data.x.shape == (count, 1, 28, 28)
        sums = data.x.sum((1, 2, 3), dtype=torch.int64)
        assert int(sums.sum()) == total
        assert sums[:3].tolist() == firsts
        assert data.y[:5].tolist() == labels
        assert torch.bincount(data.y).tolist() == classes
        assert "not the published files" not in data.description


def test_statistics_of_the_first_layer_are_those_of_the_training_pixels(published):
    from robustreg.models import STATISTICS

    name, splits = published
    std, mean = torch.std_mean(splits.train.x.float() / 255, correction=0)
    assert STATISTICS[name][0][0] == pytest.approx(float(mean), abs=6e-5)
    assert STATISTICS[name][1][0] == pytest.approx(float(std), abs=6e-5)


def test_validation_of_the_usual_size(published):
    name, _ = published
    splits = load(name, FOLDER, validation=10000, download=False)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (50000, 10000, 10000)
    share = torch.bincount(splits.validation.y) / torch.bincount(splits.train.y)
    assert share.min() > 0.199
    assert share.max() < 0.201
