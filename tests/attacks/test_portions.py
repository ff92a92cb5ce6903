"""How many rows go through the network together."""

from __future__ import annotations

import pytest
import torch

from robustreg.attacks import portions
from robustreg.probe import Probe
from robustreg.streams import Stream


def test_portions_are_of_one_size_and_lose_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_AT_ONCE", 20 * 7)
    z = torch.zeros(50, 7)
    parts = portions.slices(z, "eval")
    assert [part.stop - part.start for part in parts] == [17, 17, 16]
    assert torch.equal(torch.cat([torch.arange(50)[part] for part in parts]), torch.arange(50))
    assert portions.slices(z, "train") == portions.slices(z, "batch") == [slice(0, 50)]
    assert portions.slices(z[:0], "eval") == [slice(0, 0)]


def probe_of(x: torch.Tensor, at_once: int | None = None) -> Probe:
    return Probe(lambda u: u.flatten(1), x, None, stream=Stream(0), at_once=at_once)


def test_as_many_queries_are_asked_ahead_as_are_worth_it() -> None:
    ahead = portions.Ahead(probe_of(torch.zeros(9, 3, 64, 64)))
    assert ahead.of(9) == 1, "nothing is known yet, and such a row is dear"
    for _ in range(200):
        ahead.note(100, 1)
    assert ahead.of(4) == 25, "a quarter of the queries that it takes for one to change something"
    assert ahead.of(64) == 256 // 64
    assert ahead.of(300) == 1
    for _ in range(200):
        ahead.note(2, 1)
    assert ahead.of(4) == 1, "what was long ago is forgotten"


def test_rows_of_small_inputs_are_cheap() -> None:
    assert portions.Ahead(probe_of(torch.zeros(9, 64))).of(9) == 512 // 9
    few = portions.Ahead(probe_of(torch.zeros(9, 64), at_once=20))
    assert few.of(9) == 2, "whoever wants small batches gets no larger ones"
    few.note(10_000, 1)
    assert few.of(9) == 2
