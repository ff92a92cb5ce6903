"""How many rows go through the network together."""

from __future__ import annotations

import pytest
import torch

from robustreg.attacks import portions


def test_portions_are_of_one_size_and_lose_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_AT_ONCE", 20 * 7)
    z = torch.zeros(50, 7)
    parts = portions.slices(z, "eval")
    assert [part.stop - part.start for part in parts] == [17, 17, 16]
    assert torch.equal(torch.cat([torch.arange(50)[part] for part in parts]), torch.arange(50))
    assert portions.slices(z, "train") == portions.slices(z, "batch") == [slice(0, 50)]
    assert portions.slices(z[:0], "eval") == [slice(0, 0)]
