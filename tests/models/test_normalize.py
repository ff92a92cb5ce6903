from __future__ import annotations

import pytest
import torch

from robustreg.models import STATISTICS, Normalize


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_statistics_are_per_channel_whatever_follows(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    out = Normalize([0.1, 0.2, 0.3], [1.0, 2.0, 4.0])(x)
    for c, (mean, std) in enumerate(((0.1, 1.0), (0.2, 2.0), (0.3, 4.0))):
        assert torch.allclose(out[:, c], (x[:, c] - mean) / std)


def test_one_number_serves_all_channels():
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(Normalize(0.5, 0.25)(x), (x - 0.5) / 0.25)


def test_precision_of_the_input_is_kept():
    layer = Normalize(0.5, 0.25)
    assert layer(torch.rand(2, 1, 2, 2, dtype=torch.float64)).dtype == torch.float64
    assert layer(torch.rand(2, 1, 2, 2).bfloat16()).dtype == torch.bfloat16


def test_statistics_are_saved_but_not_trained():
    layer = Normalize(*STATISTICS["cifar10"])
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"mean", "std"}
    assert "mean=[0.4914, 0.4822, 0.4465]" in repr(layer)


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match="has 2 channels, but is normalised by 3 means"):
        Normalize(*STATISTICS["cifar10"])(torch.zeros(1, 2, 4, 4))


def test_statistics_of_the_digits():
    data = pytest.importorskip("sklearn.datasets").load_digits().images / 16
    assert STATISTICS["digits"][0][0] == pytest.approx(data.mean(), abs=5e-5)
    assert STATISTICS["digits"][1][0] == pytest.approx(data.std(), abs=5e-5)
