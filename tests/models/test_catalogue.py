"""Every network by name: shapes, sizes, gradients of both orders, seeds, and the messages for what cannot be built."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from robustreg.models import ACTIVATIONS, NAMES, Normalize, build, count_parameters, mlp

# Small enough to run everything; what is not given keeps its default.
SMALL = {
    "mlp": ((1, 8, 8), {"hidden": (16, 12)}),
    "maxout_mlp": ((1, 8, 8), {"units": 7, "pieces": 3}),
    "small_conv": ((1, 8, 8), {"width": 4}),
    "lenet_plus": ((1, 8, 8), {}),
    "strided_conv": ((1, 8, 8), {}),
    "four_conv": ((1, 16, 16), {}),
    "maxout_conv": ((1, 28, 28), {}),
    "resnet18": ((3, 8, 8), {"width": 1 / 16}),
    "preact_resnet18": ((3, 8, 8), {"width": 1 / 16}),
    "wide_resnet": ((3, 8, 8), {"depth": 10, "width": 1}),
    "wrn28_10": ((3, 8, 8), {"depth": 10, "width": 1}),
    "wrn34_10": ((3, 8, 8), {"depth": 10, "width": 1}),
}
FAMILIES = [name for name in NAMES if not name.startswith("wrn")]  # those are wide_resnet by another name
ACTIVE = [name for name in FAMILIES if not name.startswith("maxout")]


def small(name, seed=0, **options):
    shape, sizes = SMALL[name]
    return build(name, shape=shape, num_classes=5, seed=seed, **{**sizes, **options})


def images(name, batch=4, dtype=torch.float32):
    shape, _ = SMALL[name]
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_every_name_is_tested():
    assert set(SMALL) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_a_row_per_sample_and_a_column_per_class(name):
    net = small(name)
    assert net(images(name)).shape == (4, 5)
    assert net.eval()(images(name, batch=1)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "shape", "options", "published"),
    [
        ("mlp", (1, 28, 28), {}, 784 * 1200 + 1200 + 1200 * 1200 + 1200 + 1200 * 10 + 10),
        ("maxout_mlp", (1, 28, 28), {}, 784 * 1200 + 1200 + 240 * 1200 + 1200 + 240 * 10 + 10),
        ("lenet_plus", (1, 28, 28), {}, 832 + 51264 + 3136 * 1024 + 1024 + 10250),
        ("maxout_conv", (1, 28, 28), {}, 418_714),
        ("maxout_conv", (3, 32, 32), {"config": "cifar10"}, 5_468_282),
        ("strided_conv", (1, 28, 28), {}, 272 + 8224 + 1568 * 100 + 100 + 1010),
        ("four_conv", (1, 28, 28), {}, 320 + 9248 + 18496 + 36928 + 1024 * 200 + 200 + 40200 + 2010),
        ("small_conv", (1, 8, 8), {}, 159_626),
        ("small_conv", (1, 28, 28), {}, 356_234),
        ("resnet18", (3, 32, 32), {}, 11_173_962),
        ("preact_resnet18", (3, 32, 32), {}, 11_172_170),
        ("wide_resnet", (3, 32, 32), {"depth": 16, "width": 4}, 2_748_890),
        ("wrn28_10", (3, 32, 32), {}, 36_479_194),
        ("wrn34_10", (3, 32, 32), {}, 46_160_474),
    ],
)
def test_parameter_counts(name, shape, options, published):
    assert count_parameters(build(name, shape=shape, **options)) == published


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_parameter_and_the_input(name):
    net, x = small(name).eval(), images(name).requires_grad_()
    net(x).logsumexp(1).sum().backward()
    assert x.grad.abs().sum() > 0
    missing = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


@pytest.mark.parametrize("name", FAMILIES)
def test_double_backward_agrees_with_finite_differences(name):
    """The derivative of ||input gradient||^2 along a parameter direction, in float64."""
    net = small(name, **({} if name.startswith("maxout") else {"activation": "softplus"})).double().eval()
    x = images(name, dtype=torch.float64).requires_grad_()
    g = torch.Generator().manual_seed(1)
    if name.startswith("maxout"):  # their tiny initial weights make gradients that no difference can resolve
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.2)
    parameters = list(net.parameters())
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters]

    def penalty(create_graph=False):
        loss = nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 2, 3]), reduction="sum")
        return torch.autograd.grad(loss, x, create_graph=create_graph)[0].square().sum()

    grads = torch.autograd.grad(penalty(create_graph=True), parameters, allow_unused=True)
    exact = sum((g * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None)
    step, values = 1e-7, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
        values.append(penalty())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=-sign * step)
    assert float(exact) != 0
    assert float(exact) == pytest.approx(float(values[0] - values[1]) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_is_deterministic_and_treats_samples_on_their_own(name):
    net, x = small(name).eval(), images(name)
    with torch.no_grad():
        whole = net(x)
        assert torch.equal(whole, net(x))
        single = torch.cat([net(x[i : i + 1]) for i in range(len(x))])
    assert torch.allclose(whole, single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_state_round_trip(name):
    net, other, x = small(name), small(name, seed=1), images(name)
    net(x)  # moves batch statistics, which belong to the state
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(x), other.eval()(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_come_from_the_seed_alone(name):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    one = small(name).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(321)
    again, other = small(name).state_dict(), small(name, seed=1).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    weights = [key for key in one if one[key].ndim > 1]
    assert weights
    assert all(not torch.equal(one[key], other[key]) for key in weights)


def test_a_failing_construction_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="unknown activation"):
        mlp(activation="no")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ACTIVE)
def test_activations(name, activation):
    net, x = small(name, activation=activation).eval(), images(name)
    assert net(x).isfinite().all()
    assert any(isinstance(layer, type(ACTIVATIONS[activation]())) for layer in net.modules())


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "wide_resnet"])
def test_group_normalisation_has_no_batch_statistics(name):
    net, x = small(name, norm="group"), images(name)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    with torch.no_grad():
        assert torch.allclose(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_normalisation_is_the_first_layer(name):
    channels = SMALL[name][0][0]
    mean, std = [0.2, 0.4, 0.6][:channels], [0.5, 0.25, 2.0][:channels]
    plain, net, x = small(name).eval(), small(name, normalize=(mean, std)).eval(), images(name)
    by_hand = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    assert torch.allclose(net(x), plain(by_hand), rtol=1e-4, atol=1e-6)
    assert isinstance(net.normalize, Normalize)


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_input_shapes_are_named(name):
    shape = SMALL[name][0]
    wrong = torch.zeros(2, shape[0] + 1, *shape[1:])
    with pytest.raises(ValueError, match=r"takes inputs \[B, .*\], got \[2, "):
        small(name)(wrong)
    with pytest.raises(ValueError, match="takes inputs"):
        small(name)(torch.zeros(shape)[0])


def test_flat_networks_take_any_shape_of_the_right_size():
    net = mlp(in_features=12, hidden=(), num_classes=3)
    x = torch.rand(2, 12)
    assert torch.equal(net(x), net(x.view(2, 3, 2, 2)))
    assert count_parameters(net) == 12 * 3 + 3


def test_a_perceptron_normalises_before_every_activation():
    net = mlp(in_features=12, hidden=(8, 6), num_classes=3, norm="batch")
    kinds = [type(layer) for layer in net.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert count_parameters(net) == count_parameters(mlp(12, 3, (8, 6))) + 2 * (8 + 6)
    with pytest.raises(ValueError, match="the norm of an mlp must be 'batch' or None, got 'group'"):
        mlp(norm="group")


@pytest.mark.parametrize(("name", "size"), [("strided_conv", 3), ("four_conv", 15), ("lenet_plus", 3)])
def test_images_that_a_small_network_cannot_halve(name, size):
    with pytest.raises(ValueError, match=rf"{name} .* got {size}$"):
        build(name, shape=(1, size, size))


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet_18", "resnet18"), ("small_cnn", "small_conv"), ("wrn_28_10", "wrn28_10"), ("MLP", "mlp")],
)
def test_an_unknown_name_gets_the_closest_and_the_list(name, near):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; did you mean '{near}'") as caught:
        build(name)
    assert all(known in str(caught.value) for known in NAMES)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small_conv", {"widht": 3}, "small_conv has no option 'widht'; did you mean 'width'"),
        ("mlp", {"activation": "rellu"}, "unknown activation 'rellu'; did you mean 'relu'"),
        ("resnet18", {"norm": "bacth"}, "unknown norm 'bacth'; did you mean 'batch'"),
        ("resnet18", {"width": 0}, "width multiplies the channels"),
        ("wide_resnet", {"depth": 29}, r"6 n \+ 4 .* got 29"),
        ("maxout_conv", {"config": "cifar"}, "unknown config 'cifar'.*did you mean 'cifar10'"),
        ("maxout_conv", {"image_size": 8}, "8x8 are too small"),
        ("maxout_mlp", {"input_keep": 0}, r"in \(0, 1\], got 0"),
        ("lenet_plus", {"image_size": 3}, "at least 4x4"),
        ("mlp", {"normalize": "mnits"}, "no statistics of 'mnits'; did you mean 'mnist'"),
        ("mlp", {"normalize": (0.5,)}, "a pair"),
        ("mlp", {"normalize": (0.5, 0.0)}, "above 0"),
        ("mlp", {"normalize": ([0.5, 0.5], 1.0)}, "as many means as stds"),
        ("resnet18", {"normalize": "mnist", "in_channels": 3}, None),
        ("resnet18", {"normalize": "cifar10", "in_channels": 1}, "has 3 channels, the model has 1"),
        ("small_conv", {"shape": (12,)}, r"takes images \[C, H, W\], samples have the shape \[12\]"),
        ("small_conv", {"shape": (1, 8, 9)}, "takes square images"),
    ],
)
def test_bad_options(name, options, message):
    if message is None:  # one mean serves any number of channels
        build(name, width=1 / 16, **options)
        return
    with pytest.raises(ValueError, match=message) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["small_conv", "resnet18", "mlp", "own_nets:make_net"])
def test_channels_last_changes_no_number(name, monkeypatch):
    own = types.ModuleType("own_nets")
    own.make_net = lambda num_classes=10: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    monkeypatch.setitem(sys.modules, "own_nets", own)
    x = torch.rand(2, 3, 8, 8)
    plain, turned = (
        build(name, shape=(3, 8, 8), seed=1, allow_modules=["own_nets"], channels_last=last).eval()
        for last in (False, True)
    )
    assert torch.allclose(plain(x), turned(x), rtol=1e-4, atol=1e-6)
    pairs = list(zip(plain.parameters(), turned.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    images = [(one, other) for one, other in pairs if one.ndim == 4 and one.shape[1] > 1 and one.shape[2] > 1]
    assert all(other.is_contiguous(memory_format=torch.channels_last) for _, other in images)
    assert not any(one.is_contiguous(memory_format=torch.channels_last) for one, _ in images)
    assert bool(images) == (name != "mlp")


def test_channels_last_is_yes_or_no():
    with pytest.raises(ValueError, match="channels_last must be true or false, got 'cl'"):
        build("mlp", channels_last="cl")


def test_options_win_over_what_the_shape_says():
    assert build("mlp", shape=(1, 28, 28), in_features=5).input_shape == (5,)


class TestOwnFunctions:
    @pytest.fixture
    def own(self, monkeypatch):
        """A module of the user's, importable as `own_nets`; remembers what its function was given."""
        module = types.ModuleType("own_nets")
        module.given = []

        def make_net(shape, hidden=3, num_classes=10):
            module.given.append((shape, hidden, num_classes))
            return nn.Sequential(
                nn.Flatten(), nn.Linear(shape[0] * shape[1], hidden), nn.Linear(hidden, num_classes)
            )

        module.make_net = make_net
        module.make_text = lambda: "no net"
        module.number = 3
        module._hidden = make_net
        monkeypatch.setitem(sys.modules, "own_nets", module)
        return module

    def test_a_declared_module_is_used(self, own):
        net = build("own_nets:make_net", shape=(2, 3), num_classes=4, hidden=5, allow_modules=["own_nets"])
        assert own.given == [((2, 3), 5, 4)]
        assert net(torch.rand(1, 2, 3)).shape == (1, 4)

    def test_its_weights_come_from_the_seed(self, own):
        state = torch.get_rng_state()
        nets = [
            build("own_nets:make_net", shape=(2, 3), seed=s, allow_modules={"own_nets"}) for s in (0, 0, 1)
        ]
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(nets[0][1].weight, nets[1][1].weight)
        assert not torch.equal(nets[0][1].weight, nets[2][1].weight)

    def test_normalisation_goes_before_it(self, own):
        net = build("own_nets:make_net", shape=(2, 3), normalize=(0.5, 0.5), allow_modules=["own_nets"])
        x = torch.rand(1, 2, 3)
        assert torch.allclose(net(x), net[1]((x - 0.5) / 0.5))

    def test_no_other_module_is_imported(self, own, monkeypatch):
        monkeypatch.delitem(sys.modules, "antigravity", raising=False)
        for allowed in ((), ["own_nets"], ["antigravity.sub"]):
            with pytest.raises(
                ValueError, match="needs the module 'antigravity' to be declared as an import"
            ):
                build("antigravity:geohash", allow_modules=allowed)
        assert "antigravity" not in sys.modules

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_nets:missing", "own_nets has no function 'missing'"),
            ("own_nets:number", "own_nets has no function 'number'"),
            ("own_nets:_hidden", "a public function's plain name"),
            ("own_nets:make_net.__globals__", "a public function's plain name"),
            ("own_nets:", "a public function's plain name"),
        ],
    )
    def test_only_public_functions(self, own, name, message):
        with pytest.raises(ValueError, match=message):
            build(name, allow_modules=["own_nets"])

    def test_a_network_that_is_made_already(self, own):
        own.net = nn.Linear(2, 2)
        with pytest.raises(
            ValueError, match="is a network already: name a function that makes and returns it"
        ):
            build("own_nets:net", allow_modules=["own_nets"])

    def test_what_it_needs_is_named(self, own):
        own.needs = lambda width, depth, *more, act="relu", **others: nn.Linear(width, depth)
        with pytest.raises(ValueError, match="needs depth: set the model's option depth, or name a function"):
            build("own_nets:needs", width=3, allow_modules=["own_nets"])
        assert build("own_nets:needs", width=3, depth=2, allow_modules=["own_nets"]).in_features == 3

    @pytest.mark.parametrize(
        "error", [SystemExit(2), KeyError("width"), FileNotFoundError("no options.yaml")]
    )
    def test_what_goes_wrong_in_it_is_told_as_its_own(self, own, error):
        def fails():
            raise error

        own.fails = fails
        with pytest.raises(
            ValueError, match=f"own_nets:fails' fails when it is made: {type(error).__name__}: "
        ):
            build("own_nets:fails", allow_modules=["own_nets"])

    def test_it_must_return_a_module(self, own):
        with pytest.raises(TypeError, match=r"must return a torch\.nn\.Module, got str"):
            build("own_nets:make_text", allow_modules=["own_nets"])


@pytest.mark.parametrize("name", ["small_conv", "maxout_mlp", "preact_resnet18"])
def test_networks_are_captured_whole_by_the_compiler(name):
    net, x = small(name).eval(), images(name)
    torch.compiler.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))
