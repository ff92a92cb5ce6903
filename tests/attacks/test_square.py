"""Square: in the threat, as strong as the mathematics allows where that is known, every sample on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import portions
from robustreg.attacks.row_numbers import words
from robustreg.attacks.square_moves import Bumps, Corners, window
from robustreg.points import draw_per_sample

THREATS = {"linf": rr.Threat("linf", 0.1), "l2": rr.Threat("l2", 1.2), "l1": rr.Threat("l1", 4.0)}
BY_NORM = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS.keys())


def wrong(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) != y


def gap(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return -numerics.margin(net(x), y)


# -- strength ------------------------------------------------------------------------------------------------


def test_on_an_affine_network_it_finds_the_best_corner(affine: Any) -> None:
    net, x, y = affine
    threat = rr.Threat("linf", 0.01)
    found = rr.Square(threat, queries=300)(net, x, y, generator=torch.Generator().manual_seed(0))
    low, high = (x - 0.01).clamp(min=0), (x + 0.01).clamp(max=1)
    best = torch.full((30,), -math.inf, dtype=torch.float64)
    with torch.no_grad():
        for k in range(4):
            w = net.weight[k] - net.weight[y]
            corner = torch.where(w > 0, high, low)
            value = (w * corner).sum(1) + net.bias[k] - net.bias[y]
            best = torch.where(k == y, best, torch.maximum(best, value))
    standing = ~wrong(net, found, y)
    assert standing.sum() > 20
    torch.testing.assert_close(gap(net, found, y)[standing], best[standing])


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_on_an_affine_network_it_rises_further_than_as_many_random_points(norm: str) -> None:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(64, generator=g, dtype=torch.float64)
    x, y = torch.rand(6, 1, 8, 8, generator=g, dtype=torch.float64), torch.zeros(6, dtype=torch.long)

    def model(u: Tensor) -> Tensor:
        rise = u.flatten(1) @ w
        return torch.stack([torch.full_like(rise, 100.0), rise], 1)

    threat = rr.Threat(norm, 0.3, None)
    found = rr.Square(threat, queries=200)(model, x, y, generator=g)
    rise = gap(model, found, y) - gap(model, x, y)
    random = torch.randn(200, 64, generator=g, dtype=torch.float64)
    random *= threat.eps / threat.length(random).unsqueeze(1)
    assert (rise > 1.4 * (random @ w).max()).all()
    assert (rise <= threat.eps * threat.dual_norm(w[None]) * (1 + 1e-9)).all()


@BY_NORM
def test_it_fools_where_noise_does_not_and_needs_no_gradient(threat: rr.Threat, images: Any) -> None:
    net, x, y = images

    def shattered(u: Tensor) -> Tensor:
        return (net(u) * 8).round() / 8

    noise = wrong(net, rr.Uniform(threat)(net, x), y).sum()
    for model in (net, shattered):
        assert wrong(model, rr.Square(threat, queries=150)(model, x, y), y).sum() > noise + 5


@BY_NORM
def test_more_queries_and_restarts_lose_nobody(threat: rr.Threat, images: Any) -> None:
    net, x, y = images
    draws = torch.randint(0, 2**32, (30, 2), generator=torch.Generator().manual_seed(3))
    before, highest = torch.zeros(30, dtype=torch.bool), gap(net, x, y)
    for restarts in (1, 3):
        attack = rr.Square(threat, queries=40, restarts=restarts)
        found = attack(net, x, y, noise={attack: draws})
        now, reached = wrong(net, found, y), gap(net, found, y)
        assert not (before & ~now).any()
        assert (reached[~now] >= highest[~now]).all()
        before, highest = now, reached


# -- in the threat -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (1,), (3, 7), (1, 2, 2), (3, 4, 9), (3, 9, 4), (2, 3, 3, 3), ()])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_inputs_of_any_shape_stay_in_the_threat(norm: str, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(4, *shape, generator=g)
    weight = torch.randn(max(1, x[0].numel()), 3, generator=g)
    for eps, bounds in ((0.3, (0.0, 1.0)), (0.0, (0.0, 1.0)), (5.0, None)):
        threat = rr.Threat(norm, eps, bounds)
        y = torch.tensor([0, 1, 2, 0])
        found = rr.Square(threat, queries=70)(
            lambda u: u.reshape(4 and len(u), -1) @ weight, x, y, generator=g
        )
        assert found.shape == x.shape
        assert threat.contains(found, x).all()


@BY_NORM
def test_every_query_lies_in_the_threat(threat: rr.Threat, images: Any) -> None:
    net, x, y = images
    seen: list[Tensor] = []

    def watched(u: Tensor) -> Tensor:
        seen.append(u)
        return net(u) * 0 + nn.functional.one_hot(y[:1], 4)  # always right

    rr.Square(threat, queries=100)(watched, x[:1], y[:1])
    assert len(torch.cat(seen)) > 40
    assert threat.norm == math.inf or len(torch.cat(seen)) > 100  # the sample itself, too
    points = torch.cat(seen)
    assert threat.contains(points, x[:1].expand_as(points)).all()
    lengths = threat.length(points[1:] - x[:1])
    assert lengths.max() > 0.9 * threat.eps


# -- sample by sample ----------------------------------------------------------------------------------------


@BY_NORM
def test_the_batch_plays_no_part(threat: rr.Threat, images: Any) -> None:
    net, x, y = images
    attack = rr.Square(threat, queries=120)
    draws = draw_per_sample(attack, x, list(range(30)))[attack]
    together = attack(net, x, y, noise={attack: draws})
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for rows in (order, order[:7], torch.tensor([4])):
        alone = attack(net, x[rows], y[rows], noise={attack: draws[rows]})
        torch.testing.assert_close(alone, together[rows])


@BY_NORM
def test_the_seed_decides(threat: rr.Threat, images: Any) -> None:
    net, x, y = images
    attack = rr.Square(threat, queries=30)
    first, same, other = (attack(net, x, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_fooled_samples_leave(images: Any) -> None:
    net, x, y = images
    sizes: list[int] = []

    def watched(u: Tensor) -> Tensor:
        sizes.append(len(u))
        return net(u)

    attack = rr.Square(THREATS["l2"], queries=200, restarts=2)
    found = attack(watched, x, y, generator=torch.Generator().manual_seed(0))
    assert sizes[0] == 30
    assert sizes[1] == 29  # one is wrong as it is
    assert torch.equal(found[3], x[3])
    right = int((~wrong(net, found, y)).sum())
    assert sizes[-1] <= right * ((2**15 // 72) // right)
    assert sum(sizes) < 1.4 * (29 * 200 + right * 200), "several queries at once are seldom in vain"


def test_queries_are_what_it_costs() -> None:
    runs = []

    def right(u: Tensor) -> Tensor:
        runs.append(len(u))
        return u.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0])

    x = torch.rand(3, 8)
    found = rr.Square(THREATS["linf"], queries=25, restarts=2)(right, x, torch.zeros(3, dtype=torch.long))
    assert sum(runs) <= 3 * (1 + 2 * 25)
    assert torch.equal(found, x)  # a constant network: no query was better
    runs.clear()
    rr.Square(THREATS["l2"], queries=25, restarts=2)(right, x, torch.zeros(3, dtype=torch.long))
    assert runs[0] == 3
    assert sum(runs) == 3 * (1 + 2 * 25), "no query is better, so none is asked twice"
    assert len(runs) < 2 * 25, "several are asked at once"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_large_images_as_many_queries_are_asked_at_once_as_are_seldom_in_vain(norm: str) -> None:
    """A query that changes something makes those asked along with it useless; where none does, many go together."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(64, 3))
    x, queries = torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(1)), 200

    def asked(net: Any) -> list[int]:
        sizes: list[int] = []

        def watched(u: Tensor) -> Tensor:
            sizes.append(len(u))
            logits: Tensor = net(u)
            return logits

        attack = rr.Square(rr.Threat(norm, 1e-3), queries=queries)
        attack(watched, x, net(x).argmax(1), generator=torch.Generator().manual_seed(0))
        return sizes

    often, never = asked(linear), asked(lambda u: torch.eye(3)[torch.zeros(len(u), dtype=torch.long)])
    assert sum(often) <= 1.1 * queries * len(x)
    assert sum(never) <= (1 + queries) * len(x)  # and a look at the samples
    assert len(never) < 0.2 * len(often)


@pytest.mark.parametrize("together", [1, 64])
def test_no_corner_is_looked_at_twice(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it changes nothing but the cost: the same points are found as by a search that asks every query."""
    monkeypatch.setattr(portions, "rows_at_once", lambda probe: together)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    x = torch.rand(9, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = net(x).argmax(1)
    attack = rr.Square(rr.Threat("linf", 0.1), queries=400)
    noise = {attack: draw_per_sample(attack, x, list(range(9)))[attack]}
    looked: list[Tensor] = []

    def watched(u: Tensor) -> Tensor:
        looked.extend(u)
        return net(u)

    found = attack(watched, x, y, noise=noise)
    points = {tuple(u.flatten().tolist()) for u in looked}
    assert len(points) < 0.8 * 9 * 400
    assert len(looked) < (1.03 if together == 1 else 1.7) * len(points)

    keys, moves = noise[attack], Corners(attack.threat)
    for i in range(9):
        z, best, wrong = every_query(net, x[i : i + 1], y[i], keys[i : i + 1], moves, attack)
        if wrong or best > -numerics.margin(net(x[i : i + 1]), y[i : i + 1]):
            torch.testing.assert_close(found[i : i + 1], z, rtol=0, atol=1e-12)
    assert 0 < int((net(found).argmax(1) != y).sum()) < 9


def every_query(
    net: Any, x: Tensor, label: Tensor, keys: Tensor, moves: Corners, attack: rr.Square
) -> tuple[Tensor, Tensor, bool]:
    """The walk of one sample as the paper has it."""
    frame, label = moves.frame(x), label.reshape(1)
    z = moves.start(x, words(keys, 0, 0, 1, moves.start_words(x.shape[1:]))[:, 0])
    best = -numerics.margin(net(z), label)
    for query in range(attack.queries - 1):
        if net(z).argmax(1) != label:
            return z, best, True
        size = window(attack.share(query), x.shape[1:], 1)
        trial = moves.step(z, frame, size, words(keys, 0, 1 + query, 1, moves.step_words(x.shape[1]))[:, 0])
        loss = -numerics.margin(net(trial), label)
        if loss > best:
            z, best = trial, loss
    return z, best, bool(net(z).argmax(1) != label)


def test_all_fooled_none_fooled_no_label_no_sample(images: Any) -> None:
    net, x, y = images
    attack = rr.Square(THREATS["l2"], queries=10)
    bad = (net(x).argmax(1) + 1) % 4
    assert torch.equal(attack(net, x, bad), x)
    assert torch.equal(attack(net, x, torch.full_like(y, -1)), x)
    assert attack(net, x[:0], y[:0]).shape == (0, 2, 6, 6)
    some = y.clone()
    some[::2] = -1
    draws = draw_per_sample(attack, x, list(range(30)))
    mixed, full = attack(net, x, some, noise=draws), attack(net, x, y, noise=draws)
    assert torch.equal(mixed[::2], x[::2])
    assert torch.equal(mixed[1::2], full[1::2])


@BY_NORM
@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 1e4)])
def test_the_scale_of_the_logits_plays_no_part(
    threat: rr.Threat, images: Any, scale: float, shift: float
) -> None:
    net, x, y = images
    attack = rr.Square(threat, queries=100)
    draws = draw_per_sample(attack, x, list(range(30)))
    plain = attack(net, x, y, noise=draws)
    other = attack(lambda u: scale * net(u) + shift, x, y, noise=draws)
    assert torch.equal(wrong(net, plain, y), wrong(net, other, y))


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.rand(20, 6, generator=g), torch.randn(6, classes, generator=g)
    y = (x @ weight).argmax(1)
    found = rr.Square(rr.Threat("linf", 0.2), queries=100)(lambda u: u @ weight, x, y)
    assert 0 < wrong(lambda u: u @ weight, found, y).sum() < 20


def test_other_losses(images: Any) -> None:
    net, x, y = images
    threat = THREATS["linf"]
    assert wrong(net, rr.Square(threat, queries=200, loss="ce")(net, x, y), y).sum() > 8
    found = rr.Square(threat, queries=50, loss="kl")(net, x)  # reads no labels, so nobody leaves
    with torch.no_grad():
        risen, noise = (numerics.kl(net(x), net(z)) for z in (found, rr.Uniform(threat)(net, x)))
    assert (risen > noise).all()
    assert threat.contains(found, x).all()


# -- windows and moves ---------------------------------------------------------------------------------------


def test_the_windows_shrink_as_published() -> None:
    attack = rr.Square(THREATS["linf"], queries=10_000)
    halvings = {
        10: 0,
        11: 1,
        50: 1,
        51: 2,
        200: 2,
        500: 3,
        1000: 4,
        2000: 5,
        4000: 6,
        6000: 7,
        8000: 8,
        8001: 9,
    }
    for query, expected in halvings.items():
        assert attack.share(query) == 0.8 / 2**expected
    assert rr.Square(THREATS["linf"], queries=5000).share(1001) == attack.share(2002)
    assert rr.Square(THREATS["linf"], queries=5000, rescale=False).share(1001) == attack.share(1001)


def test_windows_cover_the_share_they_are_asked_for() -> None:
    assert window(0.8, torch.Size([3, 32, 32]), 1) == (29, 29)
    assert window(1e-4, torch.Size([3, 32, 32]), 1) == (1, 1)
    assert window(0.05, torch.Size([3, 32, 32]), 3) == (7, 7)
    assert window(1e-4, torch.Size([3, 32, 32]), 3) == (3, 3)
    assert window(0.5, torch.Size([1, 1, 40]), 1) == (1, 20)
    assert window(0.5, torch.Size([1, 40, 1]), 1) == (20, 1)
    assert window(0.8, torch.Size([1, 4, 25]), 1) == (4, 20)
    assert window(1.0, torch.Size([1, 2, 2]), 3) == (2, 2)


def moved(threat: rr.Threat, size: tuple[int, int], n: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, where a search starts, and one move from there."""
    moves = Corners(threat) if threat.norm == math.inf else Bumps(threat)
    g = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(n, 2, 6, 6, generator=g, dtype=torch.float64)
    keys = torch.randint(0, 2**32, (n, 2), generator=g)
    image = x.shape[1:]
    start = moves.start(x, words(keys, 0, 0, 1, moves.start_words(image))[:, 0])
    return x, start, moves.step(start, moves.frame(x), size, words(keys, 0, 1, 1, moves.step_words(2))[:, 0])


def test_a_linf_move_sets_one_window_to_a_corner() -> None:
    threat = rr.Threat("linf", 0.1, None)
    x, start, trial = moved(threat, (3, 2))
    torch.testing.assert_close((start - x).abs(), torch.full_like(x, 0.1))
    assert torch.equal((start - x).sign(), (start - x).sign()[:, :, :1].expand_as(x))  # stripes
    changed = start != trial
    places = set()
    for i in range(len(x)):
        rows, columns = changed[i].any(0).any(1).nonzero(), changed[i].any(0).any(0).nonzero()
        if len(rows):
            assert rows.max() - rows.min() < 3
            assert columns.max() - columns.min() < 2
            places |= {int(r) for r in rows}
        signs = (trial[i] - x[i]).sign()
        for c in range(2):
            assert len({float(s) for s in signs[c][changed[i][c]]}) <= 1
    assert places == set(range(6))  # the last row, too
    torch.testing.assert_close((trial - x).abs(), torch.full_like(x, 0.1))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_bump_carries_length_from_one_window_to_another(norm: str) -> None:
    threat = rr.Threat(norm, 0.3, None)
    x, start, trial = moved(threat, (3, 3))
    for z in (start, trial):
        torch.testing.assert_close(threat.length(z - x), torch.full((400,), 0.3, dtype=torch.float64))
    before, after = start - x, trial - x
    # Outside both windows a perturbation is only rescaled: the ratio is one number for the sample.
    emptied = ((after == 0) & (before != 0)).any(1).flatten(1).sum(1)
    assert (emptied <= 9).all()
    assert (emptied > 0).sum() > 300
    if norm == "l2":
        ratio = after / before
        usual = ratio.flatten(1).median(1).values
        same = ((ratio - usual[:, None, None, None]).abs() < 1e-9).all(1).flatten(1).sum(1)
        assert (same >= 36 - 18).all()
    held = (before != 0).flatten(1).sum(1)
    assert (held == 72).all()


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: rr.Square(rr.Threat("l1.5", 1)), "Square has moves for linf, l2 and l1, not for l1.5"),
        (lambda: rr.Square(THREATS["l2"], queries=0), "queries >= 1 and restarts >= 1, got 0 and 1"),
        (lambda: rr.Square(THREATS["l2"], p_init=0), r"a share of the image, in \(0, 1\], got 0"),
        (lambda: rr.Square(THREATS["l2"], loss="hinge"), "loss must be one of"),
    ],
)
def test_impossible_arguments_are_refused(build: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_labels_out_of_range_are_refused(images: Any) -> None:
    net, x, y = images
    with pytest.raises(ValueError, match="labels run up to 4, but the model has 4 classes"):
        rr.Square(THREATS["l2"], queries=5)(net, x, y + (y == 3))
