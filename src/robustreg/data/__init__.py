"""Data sets as tensors on a device: readers by name, checked arrays, splits, batches.

splits = load("mnist", validation=10000)
for x, y in Loader(splits.train, batch_size=128, shuffle=True, seed=0, augment=["crop2"]):
    ...                                       # x float32 [B, 1, 28, 28] in pixel scale 0-1, y int64 [B]
"""

from __future__ import annotations

from .arrays import ArrayData, from_arrays, from_dataset
from .augment import horizontal_flip, random_crop
from .catalogue import NAMES, load
from .errors import DataError, DataNotFound
from .loader import Loader
from .splits import Splits, cut_validation, stratified_cut

__all__ = [
    "NAMES",
    "ArrayData",
    "DataError",
    "DataNotFound",
    "Loader",
    "Splits",
    "cut_validation",
    "from_arrays",
    "from_dataset",
    "horizontal_flip",
    "load",
    "random_crop",
    "stratified_cut",
]
