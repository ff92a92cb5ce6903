from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustreg.training.table import Table, read_rows


def fill(path, steps):
    table = Table(path)
    table.begin(0)
    for step in steps:
        table.append({"step": step, "loss": step / 3})
    table.close()


def test_rows_come_back(tmp_path):
    fill(tmp_path / "t.csv", [1, 2])
    assert (tmp_path / "t.csv").read_text() == f"step,loss\n1,{1 / 3!r}\n2,{2 / 3!r}\n"


@settings(max_examples=50, deadline=None)
@given(value=st.floats(allow_nan=False))
def test_floats_keep_their_bits(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    table = Table(path)
    table.append({"step": 1, "value": value})
    table.close()
    assert math.copysign(1, float(read_rows(path)[0]["value"])) == math.copysign(1, value)
    assert float(read_rows(path)[0]["value"]) == value


def test_begin_cuts_back_to_a_step(tmp_path):
    path = tmp_path / "t.csv"
    fill(path, [1, 2, 3, 4])
    table = Table(path)
    table.begin(2)
    table.append({"step": 3, "loss": 9.0})
    table.close()
    assert [row["step"] for row in read_rows(path)] == ["1", "2", "3"]
    assert read_rows(path)[-1]["loss"] == "9.0"


def test_begin_at_the_start_forgets_an_older_file(tmp_path):
    path = tmp_path / "t.csv"
    fill(path, [1, 2])
    table = Table(path)
    table.begin(0)
    table.append({"step": 1, "other": 1.0})
    table.close()
    assert path.read_text() == "step,other\n1,1.0\n"


@pytest.mark.parametrize("tail", ["3", "3,0.", ",", "\x00", "3,1,1,1"])
def test_a_row_cut_short_by_a_crash_is_dropped(tmp_path, tail):
    path = tmp_path / "t.csv"
    fill(path, [1, 2])
    with open(path, "a") as stream:
        stream.write(tail)
    table = Table(path)
    table.begin(2)
    table.append({"step": 3, "loss": 1.0})
    table.close()
    assert [row["step"] for row in read_rows(path)] == ["1", "2", "3"]


def test_a_new_key_adds_a_column(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1, "a": 1.5})
    table.append({"step": 2, "a": 2.5, "b": "x,y"})
    table.append({"step": 3, "b": None})
    table.append({"step": 4, "a": math.nan})
    table.close()
    assert (tmp_path / "t.csv").read_text() == 'step,a,b\n1,1.5,\n2,2.5,"x,y"\n3,,\n4,,\n'


def test_rows_are_there_for_readers_at_once(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1})
    assert read_rows(tmp_path / "t.csv") == [{"step": "1"}]
    table.close()
