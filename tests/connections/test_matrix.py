"""The matrix experiment on made-up numbers whose answers are known, and on small networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections.functionals import FUNCTIONALS
from robustreg.connections.matrix import Network, between, correlations, look, ratios, spearman, stands_in
from robustreg.connections.outcome import FACTORS, matrix_of
from robustreg.threat import Threat


def made(values: dict[str, list[dict[str, float]]], robust: dict[str, list[float]]) -> list[Network]:
    return [
        Network(name, seed, 0.9, robust[name][seed], means)
        for name, seeds in values.items()
        for seed, means in enumerate(seeds)
    ]


@pytest.fixture
def networks() -> list[Network]:
    """`a` falls as robustness rises, `b` rises with it, `c` is constant; each has two seeds."""
    values = {
        "plain": [{"a": 100.0, "b": 1.0, "c": 2.0}, {"a": 10_000.0, "b": 1.0, "c": 2.0}],
        "a": [{"a": 10.0, "b": 2.0, "c": 2.0}, {"a": 10.0, "b": 2.0, "c": 2.0}],
        "b": [{"a": 10**1.5, "b": 4.0, "c": 2.0}, {"a": 10**1.5, "b": 4.0, "c": 2.0}],
        "d": [{"a": 1.0, "b": 8.0, "c": 2.0}, {"a": 1.0, "b": 8.0, "c": 2.0}],
    }
    return made(values, {"plain": [0.1, 0.1], "a": [0.3, 0.3], "b": [0.2, 0.2], "d": [0.4, 0.4]})


def test_ranks_with_ties_and_constants() -> None:
    a = torch.tensor([1.0, 2.0, 2.0, 4.0])
    assert spearman(a, a.exp()) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert math.isnan(spearman(a, torch.ones(4)))
    # deviations of the ranks: -1.5, 0, 0, 1.5 and -0.5, -1.5, 0.5, 1.5
    assert spearman(a, torch.tensor([2.0, 1.0, 3.0, 4.0])) == pytest.approx(3.0 / math.sqrt(4.5 * 5.0))


def test_spearman_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        a, b = (torch.randint(6, (12,), generator=generator).double() for _ in range(2))
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a.numpy(), b.numpy()).statistic)


def test_ratios_are_of_logarithms_over_seeds(networks: list[Network]) -> None:
    table = ratios(networks)
    assert table["plain"]["a"] == pytest.approx((0.0, math.sqrt(2.0)))
    assert table["a"]["a"] == pytest.approx((-2.0, 0.0))  # 10 over the geometric mean of 100 and 10 000
    assert table["d"]["b"][0] == pytest.approx(math.log10(8))
    with pytest.raises(
        ValueError, match="ratios are to networks named 'other', but there are plain, a, b, d"
    ):
        ratios(networks, "other")


def test_a_functional_that_is_zero_has_no_ratio(networks: list[Network]) -> None:
    networks[2] = Network("a", 0, 0.9, 0.3, {"a": 0.0, "b": 1.0, "c": 2.0})
    assert math.isnan(ratios(networks)["a"]["a"][0])


def test_who_stands_in_for_whom(networks: list[Network]) -> None:
    shares = stands_in(ratios(networks))
    assert list(shares["a"]) == ["a"]  # `b` raises its own functional, and no row is named `c`
    assert [shares[name]["a"] for name in ("a", "b", "d")] == pytest.approx([1.0, 0.75, 1.5])


def test_correlations_and_their_intervals(networks: list[Network]) -> None:
    found = correlations(networks, draws=200)
    assert found["a"].value == pytest.approx(-1.0)
    assert (found["a"].low, found["a"].high) == pytest.approx((-1.0, -1.0))  # seeds change no rank
    assert found["b"].value == pytest.approx(0.8)
    assert math.isnan(found["c"].value)
    # drawing the regularisers anew can only widen what seeds leave
    assert found["b"].low_all < 0.8 - 0.05
    assert found["b"].high_all == pytest.approx(1.0)
    assert correlations(networks, draws=200)["b"] == found["b"]


def test_seeds_that_disagree_widen_the_interval(networks: list[Network]) -> None:
    networks[4] = Network("b", 0, 0.9, 0.2, {"a": 30.0, "b": 1.5, "c": 2.0})
    networks[3] = Network("a", 1, 0.9, 0.3, {"a": 10.0, "b": 5.0, "c": 2.0})
    found = correlations(networks, draws=300)["b"]
    assert found.low <= found.value <= found.high
    assert found.low < found.high


def test_functionals_between_each_other(networks: list[Network]) -> None:
    table = between(networks, ["a", "b"])
    assert table[0][0] == table[1][1] == pytest.approx(1.0)
    assert table[0][1] == table[1][0] == pytest.approx(-0.8)


def test_a_look_does_not_depend_on_the_batch(network: Callable[[str], nn.Module], samples: Tensor) -> None:
    """But for random points and quantities of the whole batch."""
    net, y = network("relu_pool"), torch.arange(6) % 3
    whole, parts = (look(net, samples, y, Threat("linf", 0.1), batch=b) for b in (6, 3))
    assert list(whole.means) == [f.key for f in FUNCTIONALS]
    for key in ("gradient_l1", "jacobian", "cross_lipschitz", "fisher_trace", "cure", "confidence", "sat_r1"):
        assert parts.means[key] == pytest.approx(whole.means[key], rel=1e-9)
        assert parts.medians[key] == pytest.approx(whole.medians[key], rel=1e-9)
    assert whole.by_confidence["confidence"] == pytest.approx(1.0)
    assert all(v is None or math.isfinite(v) for v in whole.as_json()["means"].values())
    with pytest.raises(ValueError, match="the threat's bounds"):
        look(net, samples + 1, y, Threat("linf", 0.1))


def test_the_result_is_plain_data(network: Callable[[str], nn.Module], samples: Tensor) -> None:
    import json

    networks, looks = [], []
    for i, name in enumerate(("plain", "other")):
        found = look(network("relu_pool"), samples * (1 - 0.5 * i), torch.arange(6) % 3, Threat("linf", 0.1))
        networks.append(Network(name, 0, 0.9, 0.5 + 0.1 * i, found.means))
        looks.append({"name": name, "seed": 0, **found.as_json()})
    result = json.loads(json.dumps(matrix_of(networks, looks, "plain"), allow_nan=False))
    assert result["regularisers"] == ["plain", "other"]
    assert set(result["log10_ratios"]["other"]) == {f.key for f in FUNCTIONALS}
    assert len(result["factors"]["between"]) == len(FACTORS)
    assert result["networks"][1]["robust"] == 0.6
