from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustreg.training import tree

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
tensors = st.builds(
    lambda dtype, shape, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(
        dtype
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("$tensor"), tensors
)
keys = st.one_of(st.text(max_size=3), st.integers(), st.sampled_from(["$tensor", "$dict", "a/b", "a", "1"]))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_every_tree_comes_back_equal_in_bits_types_and_keys(value):
    packed, values = tree.pack(value)
    through_json = json.loads(json.dumps(values, allow_nan=False))
    assert tree.same(tree.unpack(packed, through_json), value)


def test_same_sees_every_difference():
    a = {"x": torch.tensor([1.0, math.nan]), 1: (1, 2.0, math.nan)}
    assert tree.same(a, {"x": torch.tensor([1.0, math.nan]), 1: (1, 2.0, math.nan)})
    assert not tree.same(a, {"x": torch.tensor([1.0, 2.0]), 1: (1, 2.0, math.nan)})
    assert not tree.same(a, {"x": torch.tensor([1.0, math.nan]).double(), 1: (1, 2.0, math.nan)})
    assert not tree.same(a, {"x": torch.tensor([1.0, math.nan]), 1: [1, 2.0, math.nan]})
    assert not tree.same(a, {"x": torch.tensor([1.0, math.nan]), "1": (1, 2.0, math.nan)})
    assert not tree.same(torch.tensor(0.0), torch.tensor(-0.0))
    assert not tree.same(1, True)


def test_paths_that_collide_stay_apart():
    value = {"a/b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}}
    packed, values = tree.pack(value)
    assert len(packed) == 2
    assert tree.same(tree.unpack(packed, values), value)


def test_shared_and_strided_tensors_are_stored_apart():
    base = torch.arange(6.0).reshape(2, 3)
    packed, _ = tree.pack({"one": base, "two": base, "turned": base.T})
    assert len({t.data_ptr() for t in packed.values()}) == 3
    assert all(t.is_contiguous() for t in packed.values())


def test_what_cannot_be_saved_is_named():
    with pytest.raises(TypeError, match=r"/groups/0/f is a function"):
        tree.pack({"groups": [{"f": lambda: 0}]})


@pytest.mark.parametrize(
    ("values", "message"),
    [({"$tensor": "gone"}, "tensor 'gone' is missing"), ({"$code": "x"}, "which this version does not know")],
)
def test_a_forged_tree_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tree.unpack({}, values)
