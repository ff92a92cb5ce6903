from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustreg.models import preact_resnet18, resnet18, wide_resnet
from robustreg.models.resnet import BasicBlock, PreActBlock

X = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def norm(layer, x):
    return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)


@pytest.mark.parametrize(("after", "stride"), [(6, 1), (12, 2), (12, 1)])
def test_preact_block_by_hand(after, stride):
    block = PreActBlock(6, after, stride, "relu", "batch")
    ready = F.relu(norm(block.norm1, X))
    residual = F.conv2d(ready, block.conv1.weight, stride=stride, padding=1)
    residual = F.conv2d(F.relu(norm(block.norm2, residual)), block.conv2.weight, padding=1)
    carried = X if block.shortcut is None else F.conv2d(ready, block.shortcut.weight, stride=stride)
    assert (block.shortcut is None) == (after == 6)
    assert torch.allclose(block(X), carried + residual, atol=1e-6)


@pytest.mark.parametrize(("after", "stride"), [(6, 1), (12, 2), (12, 1)])
def test_basic_block_by_hand(after, stride):
    block = BasicBlock(6, after, stride, "relu", "batch")
    residual = F.conv2d(X, block.conv1.weight, stride=stride, padding=1)
    residual = norm(block.norm2, F.conv2d(F.relu(norm(block.norm1, residual)), block.conv2.weight, padding=1))
    carried = X
    if after != 6:
        carried = norm(block.shortcut[1], F.conv2d(X, block.shortcut[0].weight, stride=stride))
    assert torch.allclose(block(X), F.relu(carried + residual), atol=1e-6)


@pytest.mark.parametrize(
    ("net", "stages"),
    [
        (resnet18(width=1 / 16), [(4, 8), (4, 8), (8, 4), (8, 4), (16, 2), (16, 2), (32, 1), (32, 1)]),
        (preact_resnet18(width=1 / 16), [(4, 8), (4, 8), (8, 4), (8, 4), (16, 2), (16, 2), (32, 1), (32, 1)]),
        (wide_resnet(depth=16, width=2), [(32, 8), (32, 8), (64, 4), (64, 4), (128, 2), (128, 2)]),
    ],
)
def test_channels_and_image_sizes_of_each_block(net, stages):
    found = []
    for block in net.blocks:
        block.register_forward_hook(lambda _m, _i, out: found.append((out.shape[1], out.shape[2])))
    net.eval()(torch.zeros(1, 3, 8, 8))
    assert found == stages


@pytest.mark.parametrize(
    ("net", "depth"),
    [(resnet18(width=1 / 16), 18), (preact_resnet18(width=1 / 16), 18), (wide_resnet(depth=28, width=1), 26)],
)
def test_depth_counts_3x3_convolutions_and_the_linear_layer(net, depth):
    """WRN-28 has 25 of them and a linear layer: its name counts 6 n + 4, of which 6 n lie in the stages."""
    convolutions = [
        layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    assert len(convolutions) + 1 == depth


def test_images_of_any_size_go_in():
    net = preact_resnet18(width=1 / 16).eval()
    assert net(torch.zeros(1, 3, 16, 24)).shape == (1, 10)


def test_convolutions_start_at_the_variance_of_he():
    net = wide_resnet(depth=10, width=4)
    weight = net.blocks[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.02)
