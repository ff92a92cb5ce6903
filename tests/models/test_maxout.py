from __future__ import annotations

import pytest
import torch

from robustreg.models import maxout_conv, maxout_mlp
from robustreg.models.maxout import Dropout, LimitedLinear, MaxoutConv2d, MaxoutLinear, limit_columns_


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_maxout_linear_is_the_maximum_of_its_pieces():
    layer = MaxoutLinear(4, units=3, pieces=2, max_norm=None)
    x = torch.rand(5, 4, generator=gen())
    pieces = torch.nn.functional.linear(x, layer.weight, layer.bias)
    expected = torch.stack([torch.maximum(pieces[:, 2 * u], pieces[:, 2 * u + 1]) for u in range(3)], 1)
    assert torch.equal(layer(x), expected)


def test_maxout_convolution_is_the_maximum_of_its_pieces():
    layer = MaxoutConv2d(2, channels=3, pieces=2, kernel=3, padding=1, max_norm=None)
    x = torch.rand(2, 2, 5, 5, generator=gen())
    pieces = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    expected = torch.stack([torch.maximum(pieces[:, 2 * c], pieces[:, 2 * c + 1]) for c in range(3)], 1)
    assert torch.equal(layer(x), expected)


def test_initial_weights_are_uniform_and_biases_zero():
    net = maxout_mlp(seed=1)
    weights = torch.cat([p.flatten() for p in net.parameters() if p.ndim > 1]).detach()
    assert weights.abs().max() <= 0.005
    assert weights.std() == pytest.approx(0.005 / 3**0.5, rel=0.01)
    assert all(p.eq(0).all() for p in net.parameters() if p.ndim == 1)


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 3, 3)])
def test_only_columns_beyond_the_limit_are_scaled_and_keep_their_direction(shape):
    weight = torch.randn(shape, generator=gen())
    weight[0] *= 10
    weight[1] *= 0.01
    weight[2] = 0
    before = weight.clone()
    limit_columns_(weight, 1.9365)
    old, new = before.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)
    assert bool((new <= 1.9365 * (1 + 1e-6)).all())
    assert new[0] == pytest.approx(1.9365)
    assert torch.equal(weight[old <= 1.9365], before[old <= 1.9365])
    cosine = torch.nn.functional.cosine_similarity(before.flatten(1), weight.flatten(1))
    assert torch.allclose(cosine[old > 0], torch.ones(int((old > 0).sum())), atol=1e-5)
    limit_columns_(before, None)
    assert before[0].norm() > 1.9365


def limited(net):
    return [layer for layer in net.modules() if isinstance(layer, (LimitedLinear, MaxoutConv2d))]


@pytest.mark.parametrize(
    ("net", "limits"),
    [
        (maxout_mlp(12, units=5, pieces=2), [1.9365] * 3),
        (maxout_mlp(12, units=5, pieces=2, depth=1, max_column_norm=0.5), [0.5] * 2),
        (maxout_conv(), [0.9, 1.9365, 1.9365, 1.9365]),
        (maxout_conv(3, image_size=32, config="cifar10"), [0.9, 1.9365, 1.9365, 1.9, 1.9365]),
    ],
)
def test_constrain_puts_every_layer_into_its_published_ball(net, limits):
    assert net.max_column_norm == max(limits)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=gen()) * 3)
    biases = [p.clone() for p in net.parameters() if p.ndim == 1]
    net.constrain_()
    norms = [layer.weight.detach().flatten(1).norm(dim=1).max().item() for layer in limited(net)]
    assert norms == pytest.approx(limits, rel=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(biases, (p for p in net.parameters() if p.ndim == 1), strict=True)
    )


def test_without_a_limit_nothing_is_constrained():
    net = maxout_mlp(12, units=5, pieces=2, max_column_norm=None)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(100)
    net.constrain_()
    assert net.max_column_norm is None
    assert all(p.eq(100).all() for p in net.parameters())


@pytest.mark.parametrize(("keep", "scale"), [(0.8, 1.0), (0.5, 2.0)])
def test_dropout_keeps_its_fraction_at_its_scale(keep, scale):
    layer, x = Dropout(keep, scale), torch.full((200, 500), 3.0)
    torch.manual_seed(0)
    out = layer(x)
    assert set(out.unique().tolist()) == {0.0, 3 * scale}
    assert abs(float(out.ne(0).float().mean()) - keep) < 4 * (keep * (1 - keep) / x.numel()) ** 0.5
    assert torch.equal(layer.eval()(x), x)


def test_where_dropout_is_and_how_it_scales():
    for net, hidden in (
        (maxout_mlp(), 2),
        (maxout_conv(), 3),
        (maxout_conv(3, image_size=32, config="cifar10"), 4),
    ):
        drops = [layer for layer in net.layers if isinstance(layer, Dropout)]
        assert [(d.keep, d.scale) for d in drops] == [(0.8, 1.0)] + [(0.5, 2.0)] * hidden
        assert net.layers[0] is drops[0]


def test_pooling_gives_the_sizes_of_the_published_networks():
    """28 -> 21 -> 10 -> 9 -> 4 -> 6 -> 3 on MNIST, 32 -> 33 -> 16 -> 15 -> 7 -> 9 -> 5 on CIFAR-10."""
    for net, size, expected in (
        (maxout_conv(), 28, [21, 10, 9, 4, 6, 3]),
        (maxout_conv(3, image_size=32, config="cifar10"), 32, [33, 16, 15, 7, 9, 5]),
    ):
        x, sizes = torch.zeros(1, net.input_shape[0], size, size), []
        for layer in net.layers.eval():
            x = layer(x)
            if isinstance(layer, (MaxoutConv2d, torch.nn.MaxPool2d)):
                sizes.append(x.shape[-1])
        assert sizes == expected
