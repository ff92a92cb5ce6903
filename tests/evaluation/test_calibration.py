from __future__ import annotations

import pytest
import torch

from robustreg.evaluation import Calibration, measure_calibration


def test_worked_example():
    # Two bins of two: confidences 0.6, 0.7 (one right) and 0.9, 0.95 (both right).
    p = torch.tensor([0.6, 0.7, 0.9, 0.95], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], dim=1)
    result = measure_calibration(logits, torch.tensor([0, 1, 0, 0]), bins=4)
    # (0.5, 0.75]: |1/2 - 0.65| and (0.75, 1]: |1 - 0.925|, half of the samples each.
    assert result.ece == pytest.approx(0.5 * 0.15 + 0.5 * 0.075)
    assert result.bins[0] == pytest.approx((0.65, 0.5, 2))
    assert result.bins[1] == pytest.approx((0.925, 1.0, 2))
    assert len(result.bins) == 2
    assert result.confidence == pytest.approx(p.mean().item())
    assert Calibration.from_dict(result.to_dict()) == result


def test_calibrated_predictions_have_none_and_certain_wrong_ones_all():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=generator)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert measure_calibration(logits, y).ece < 0.02
    assert measure_calibration(torch.tensor([[50.0, 0.0]]), torch.tensor([1])).ece == pytest.approx(1.0)
