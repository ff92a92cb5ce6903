from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from robustreg.data import ArrayData, DataError, from_arrays, from_dataset


def image_data(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (n, 3, 4, 4), generator=g, dtype=torch.uint8)
    return from_arrays(x, torch.arange(n) % 3, name="tiny", classes=["a", "b", "c"])


def test_bytes_are_kept_and_handed_out_in_pixel_scale():
    data = image_data()
    assert data.x.dtype == torch.uint8
    x, y = data[1:3]
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert torch.equal(x, data.x[1:3].float() / 255)
    assert torch.equal(data[[4, 0]][0], data.x[[4, 0]].float() / 255)
    assert data.floats().x.dtype == torch.float32
    assert torch.equal(data.floats().x, data[:][0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f4", np.float16])
def test_float_arrays(dtype):
    x = np.linspace(0, 1, 12).reshape(3, 4).astype(dtype)
    data = from_arrays(x, [0, 1, 1])
    assert data.x.dtype == (torch.float16 if dtype == np.float16 else torch.float32)
    assert data[0][0].dtype == torch.float32
    assert data[:][0].numpy() == pytest.approx(x.astype(np.float32))
    assert data.classes == ("0", "1")


def test_read_only_and_strided_arrays_are_copied():
    x = np.arange(24, dtype=np.uint8).reshape(4, 6)
    x.flags.writeable = False
    data = from_arrays(x[::-1], np.array([1, 0, 1, 0], dtype=np.uint16))
    assert torch.equal(data.x, torch.from_numpy(x[::-1].copy()))


def test_batches_cover_everything_in_order():
    data = image_data(7)
    batches = list(data.batches(3))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), data[:][0])
    with pytest.raises(ValueError, match="at least 1"):
        next(data.batches(0))


def test_subset_take_and_their_errors():
    data = image_data()
    part = data.subset([5, 0, 0])
    assert torch.equal(part.x, data.x[[5, 0, 0]])
    assert (part.name, part.classes, part.bounds) == (data.name, data.classes, data.bounds)
    assert len(data.take(2)) == 2
    for bad in (0, 7):
        with pytest.raises(DataError, match=f"cannot take {bad} of 6"):
            data.take(bad)
    with pytest.raises(DataError, match=r"0\.\.5, got -1\.\.2"):
        data.subset([-1, 2])
    with pytest.raises(DataError, match="at least one index"):
        data.subset([])


def test_hash_is_of_contents_streamed_or_not():
    data = image_data()
    digest = hashlib.sha256()
    digest.update(b"x\0torch.uint8\0(6, 3, 4, 4)\0" + data.x.numpy().tobytes())
    digest.update(b"y\0torch.int64\0(6,)\0" + data.y.numpy().tobytes())
    assert data.sha256 == digest.hexdigest()
    long = from_arrays(torch.zeros(10000, 2), torch.arange(10000) % 2)
    again = from_arrays(torch.zeros(10000, 2), torch.arange(10000) % 2, name="other name")
    assert long.sha256 == again.sha256
    changed = torch.zeros(10000, 2)
    changed[9999, 1] = 1e-3
    assert from_arrays(changed, torch.arange(10000) % 2).sha256 != long.sha256
    assert from_arrays(torch.zeros(10000, 2), 1 - torch.arange(10000) % 2).sha256 != long.sha256
    assert data.subset([0, 1]).sha256 == data.take(2).sha256 != data.sha256


def test_describe_is_json():
    described = json.loads(json.dumps(image_data().describe()))
    assert described["name"] == "tiny"
    assert described["count"] == 6
    assert described["shape"] == [3, 4, 4]
    assert described["dtype"] == "uint8"
    assert described["bounds"] == [0.0, 1.0]
    assert re.fullmatch(r"[0-9a-f]{64}", described["sha256"])
    tabular = from_arrays([[0.5, 3.0]] * 2, [0, 1], bounds=([0.0, -1.0], [1.0, 4.0]))
    assert tabular.describe()["bounds"] == [[0.0, -1.0], [1.0, 4.0]]
    assert from_arrays([[5.0]] * 2, [0, 1], bounds=None).describe()["bounds"] is None


def test_unlabelled_samples():
    data = from_arrays(torch.zeros(3, 2), [-1, 1, -1])
    assert data.num_classes == 2
    with pytest.raises(DataError, match="no sample has a label"):
        from_arrays(torch.zeros(2, 2), [-1, -1])
    assert from_arrays(torch.zeros(2, 2), [-1, -1], classes=4).num_classes == 4


def test_rounding_beyond_the_bounds_is_put_on_them():
    data = from_arrays([[-3e-8, 0.5], [0.25, 1 + 1e-7]], [0, 1])
    assert data.x.min() == 0
    assert data.x.max() == 1
    assert data.x[0, 1] == 0.5


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (ONES, [0, 1], {}, "x has 3 samples but y has 2 labels"),
        (
            ONES,
            [0.0, 1.5, 2.0],
            {},
            r"labels must be integers .* got torch.float64 \(label 1.5 is no whole number\)",
        ),
        (ONES, [0.0, 1.0, 1.0], {}, "labels must be integers"),
        (ONES, ["cat", "dog", "cat"], {}, "y must be an array of numbers"),
        (ONES, [[0], [1], [1]], {}, r"y must be \[N\].*got shape \[3, 1\]"),
        (ONES, [0, 1, 5], {"classes": 3}, r"label 5 of sample 2 is out of range, labels are 0..2"),
        (ONES, [0, -2, 1], {}, "label -2 of sample 1 is out of range"),
        (ONES, [0, 0, 0], {}, "at least two classes, got 1"),
        (ONES, [0, 1, 1], {"classes": "ab"}, "a list of names"),
        (ONES * 255, [0, 1, 1], {}, "values go up to 255 where pixels 0-1 are declared; divide by 255"),
        (ONES * 300, [0, 1, 1], {}, r"values span \[300, 300\], outside the declared bounds \(0, 1\)"),
        (ONES - 2, [0, 1, 1], {}, r"values span \[-1, -1\]"),
        (ONES / 0, [0, 1, 1], {}, "6 of 6 values are NaN or infinite"),
        ([[0.0], [float("nan")], [1.0]], [0, 1, 1], {}, "1 of 3 values are NaN or infinite"),
        ([[0.0], [float("nan")], [1.0]], [0, 1, 1], {"bounds": None}, "1 of 3 values are NaN"),
        (ONES.long(), [0, 1, 1], {}, "x must be uint8 .* got torch.int64"),
        (torch.ones(3), [0, 1, 1], {}, "at least two dimensions"),
        (torch.ones(0, 2), [], {}, "there are no samples"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.long), {}, "there are no samples"),
        ([[1.0], [1.0, 2.0]], [0, 1], {}, "x is no array of numbers"),
        (np.array([{}, {}, {}]), [0, 1, 1], {}, "x must be an array of numbers, got one of type object"),
        (ONES, [0, 1, 1], {"bounds": (1, 0)}, "low < high"),
        (ONES, [0, 1, 1], {"bounds": 3}, "a pair"),
        (ONES, [0, 1, 1], {"bounds": ([0.0] * 5, 1)}, r"of one sample's shape \[2\], got \[5\]"),
        (ONES.byte(), [0, 1, 1], {"bounds": (0, 255)}, r"bounds must be \(0, 1\)"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence_with_the_name(x, y, options, message):
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(x, y, name="mine", **options)
    assert str(caught.value).startswith("mine")
    assert "\n" not in str(caught.value)


def test_direct_construction_is_checked_too():
    with pytest.raises(DataError, match="y must be int64"):
        ArrayData(ONES, torch.zeros(3), "mine", ("a", "b"))
    with pytest.raises(DataError, match="outside the declared bounds"):
        ArrayData(ONES * -1, torch.zeros(3, dtype=torch.long), "mine", ("a", "b"))


def test_per_feature_bounds_are_enforced():
    bounds = ([0.0, -1.0], [1.0, 4.0])
    assert from_arrays([[0.5, 3.0], [1.0, 4.0]], [0, 1], bounds=bounds)
    with pytest.raises(DataError, match="per feature"):
        from_arrays([[0.5, 3.0], [1.5, 4.0]], [0, 1], bounds=bounds)


def test_is_a_map_style_dataset_for_torch():
    data = image_data()
    batches = list(DataLoader(data, batch_size=4))
    assert torch.equal(torch.cat([x for x, _ in batches]), data[:][0])
    assert torch.equal(torch.cat([y for _, y in batches]), data.y)


def test_from_dataset_of_tensors_and_of_an_iterable():
    x, y = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    data = from_dataset(TensorDataset(x, y), name="mine")
    assert torch.equal(data.x, x)
    assert torch.equal(data.y, y)

    class Stream(IterableDataset):
        classes = ("cat", "dog")

        def __iter__(self):
            yield from ((np.full(2, i / 4, dtype=np.float32), i % 2) for i in range(3))

    streamed = from_dataset(Stream())
    assert streamed.name == "Stream"
    assert streamed.classes == ("cat", "dog")
    assert streamed.y.tolist() == [0, 1, 0]


class Picture:
    """As much of a PIL image as the reader uses."""

    def __init__(self, array):
        self.array = array

    def getbands(self):
        return ("R", "G", "B")

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_from_dataset_of_pictures_puts_channels_first():
    colour = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    data = from_dataset([(Picture(colour), 0), (Picture(colour + 1), 1)], name="pictures")
    assert data.shape == (3, 2, 4)
    assert torch.equal(data.x[0], torch.from_numpy(colour.transpose(2, 0, 1).copy()))
    grey = from_dataset([(Picture(colour[..., 0]), 0), (Picture(colour[..., 1]), 1)])
    assert grey.shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "has no samples"),
        ([1, 2], r"sample 0 must be a pair \(x, y\), got int"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], "all samples must have one shape"),
        ([(torch.zeros(2), 0), (torch.zeros(2), 0.5)], "labels must be integers"),
        (3, "expected a torch Dataset"),
    ],
)
def test_bad_datasets(dataset, message):
    with pytest.raises(DataError, match=message):
        from_dataset(dataset, name="mine")
