"""Checks of where an attack's points are, and of what it does beside finding them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.streams import Stream
from robustreg.testing import networks
from robustreg.testing.attack_case import ROLES, AttackCase, Role, runs_in_training
from robustreg.testing.check import ContractError, require
from robustreg.testing.conduct import Stop, global_seeds
from robustreg.testing.networks import Batch
from robustreg.testing.snapshot import require_unchanged, snapshot
from robustreg.testing.steps import require_close, require_finite
from robustreg.testing.values import accelerators, require_sentence
from robustreg.threat import Threat

ORDER = torch.tensor([4, 0, 5, 2, 1, 3])
PARTS = (torch.tensor([0]), torch.tensor([1, 2, 3]), torch.tensor([4, 5]))


def result(case: AttackCase) -> None:
    """As an attack and as a training point it gives samples like the input's, finite and without a graph."""
    for role in ROLES:
        _sound(case, role, networks.smooth(case.shape, case.classes), case.batch())


def inside(case: AttackCase) -> None:
    """Points lie in the ball and the box that they claim, on any network and also for samples on the bounds."""
    for net in _nets(case):
        for batch in (case.batch(), networks.corners(case.batch(), case.threats)):
            for role in ROLES:
                _sound(case, role, net, batch)


def shapes(case: AttackCase) -> None:
    """One sample, no sample, samples that are not contiguous, rows ``[B, D]`` and images."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    for role in ROLES:
        for n in (1, 0):
            _sound(case, role, net, batch.rows(torch.arange(n)), f"for {n} samples")
        strided = batch.at(batch.x.transpose(0, -1).contiguous().transpose(0, -1))
        _sound(case, role, net, strided, "for samples that are not contiguous")
        for shape in case.other_shapes():
            try:
                _sound(
                    case,
                    role,
                    networks.smooth(shape, case.classes),
                    case.batch(shape=shape),
                    f"for {list(shape)}",
                )
            except ValueError as refusal:
                require_sentence(refusal, f"samples {list(shape)} are refused")


def dtypes(case: AttackCase) -> None:
    """Points have the samples' precision: float32, float64, bfloat16."""
    for dtype in (torch.float64, torch.bfloat16):
        net, batch = networks.smooth(case.shape, case.classes).to(dtype), case.batch().to(dtype)
        for role in ROLES:
            _sound(case, role, net, batch, f"in {dtype}")


def devices(case: AttackCase) -> None:
    """Points are on the samples' device."""
    for device in accelerators():
        net, batch = networks.smooth(case.shape, case.classes).to(device), case.batch().to(device)
        for role in ROLES:
            _sound(case, role, net, batch, f"on {device}")


def constant_network(case: AttackCase) -> None:
    """Where every input gradient is exactly 0, points stay finite and inside."""
    for bias in (1.0, 0.0):
        for role in ROLES:
            net = networks.constant(case.shape, case.classes, bias)
            _sound(case, role, net, case.batch(), "for a constant network")


def fooled(case: AttackCase) -> None:
    """Batches in which all samples are misclassified already, none is, or some have no label."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    with torch.no_grad():
        seen = net(batch.x).argmax(1)
    partly = seen.clone()
    partly[[1, 4]] = -1
    for y, when in (
        ((seen + 1) % case.classes, "for a batch that is misclassified"),
        (seen, "for a batch that is classified right"),
        (partly, "for a batch with unlabelled samples"),
        (torch.full_like(seen, -1), "for a batch without labels (-1)"),
    ):
        for role in ROLES:
            _sound(case, role, net, batch.labelled(y), when)


def side_effects(case: AttackCase) -> None:
    """The model, the inputs and every global random state are as they were, also under ``no_grad``."""
    batch = case.batch()
    for how in ("training", "evaluating"):
        net = networks.restless(case.shape, case.classes).train(how == "training")
        next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
        buffers = how == "evaluating" or not runs_in_training(case.subject)
        before = snapshot(net, batch, buffers=buffers)
        for role in ROLES:
            found = case.find(role, net, batch)
            require_unchanged(before, snapshot(net, batch, buffers=buffers), f"the search ({role}, {how})")
    net.eval()
    for context in (torch.no_grad, torch.inference_mode)[: 1 if case.for_training_only else 2]:
        with context():
            again = case.find("attack", net, batch)
        require(
            torch.equal(again, case.find("attack", net, batch)),
            f"it finds other points under {context.__name__}",
        )
    require(not found.requires_grad, "its points carry a graph")


def interrupted(case: AttackCase) -> None:
    """A search that breaks off in the middle of a forward leaves everything as it was."""
    batch = case.batch()
    buffers = not runs_in_training(case.subject)
    for role in ROLES:
        total = _forwards(case, role, batch, None, buffers)
        for at in sorted({min(1, total), total} - {0}):
            _forwards(case, role, batch, at, buffers)


def randomness(case: AttackCase) -> None:
    """The generator alone decides the bits, and moves on by one draw; global random states play no part."""
    net, batch = networks.restless(case.shape, case.classes), case.batch()
    point, found = case.fresh(), []
    for seed in range(2):
        with global_seeds(seed):
            found.append([case.find(role, net, batch, p) for role in ROLES for p in (None, point)])
    same = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    require(same, "with the same generator it found other points under another global random state")
    if runs_in_training(case.subject):
        return
    for fresh, kept in zip(found[1][::2], found[1][1::2], strict=True):
        require(
            torch.equal(fresh, kept), "with the same generator it found other points when it was called again"
        )
    if case.for_training_only:
        return
    mine, theirs = (torch.Generator().manual_seed(SEED_OF_DRAW) for _ in range(2))
    case.fresh()(net, batch.x, batch.y, generator=mine)
    Stream.from_generator(theirs)
    require(torch.equal(mine.get_state(), theirs.get_state()), "it moved the generator by more than one draw")


def noise(case: AttackCase) -> None:
    """With all draws handed over nothing is left to chance: ``parts()`` and ``sources()`` name every random point."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    one, other = (case.with_draws(net, batch, torch.arange(len(batch)), seed) for seed in range(2))
    require(
        torch.equal(one, other),
        "with the draws of sources() handed over, another generator gives other points: parts() must name every "
        "random point that it is built from",
    )


def permutation(case: AttackCase) -> None:
    """Permuted samples with their own draws have permuted points, and a sample's point is the same in any batch."""
    net = networks.smooth(case.shape, case.classes).double()
    batch = case.batch().to(torch.float64)
    whole = case.with_draws(net, batch, torch.arange(len(batch)))
    require_close(case.with_draws(net, batch, ORDER), whole[ORDER], "permuted samples have other points")
    parts = torch.cat([case.with_draws(net, batch, places) for places in PARTS])
    require_close(parts, whole, "a sample's point depends on the other samples of its batch")


def refills(case: AttackCase) -> None:
    """With more samples than go through the network together no run has more, and the points are the same."""
    net = networks.smooth(case.shape, case.classes).double()
    batch = case.batch().to(torch.float64)
    every = torch.arange(len(batch))
    whole, rows = case.with_draws(net, batch, every), [0]
    net.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for most in (1, 4):
        rows[:] = [0]
        found = case.with_draws(net, batch, every, at_once=most)
        seen = max(rows)
        require(
            seen <= most, f"its refills is True, but with at_once={most} it ran the network on {seen} samples"
        )
        require_close(found, whole, f"its refills is True, but with at_once={most} it finds other points")


def labels(case: AttackCase) -> None:
    """Without labels: one sentence from a point that reads them, the same points from one that does not."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    none = batch.labelled(None)
    if not case.subject.reads_labels:
        for role in ROLES:
            try:
                found = case.find(role, net, none)
            except Exception as error:
                raise ContractError(f"its reads_labels is False, but without labels: {error}") from error
            same = torch.equal(found, case.find(role, net, batch))
            require(same, "its reads_labels is False, but without labels it finds other points")
        return
    try:
        case.find("attack", net, none)
    except ValueError as error:
        require_sentence(error, "missing labels are refused")
        require("label" in str(error), f"the sentence on missing labels does not name them: {error}")
    else:
        raise ContractError("its reads_labels is True, but it works without labels")
    try:
        case.fresh().locate(case.probe(net, none, "training point"))
    except Exception:
        return
    raise ContractError("its reads_labels is True, but as a training point it needs none")


def called(case: AttackCase) -> None:
    """What looks at the progress of training or at the samples' places says in one sentence that it is no attack."""
    net, batch = networks.smooth(case.shape, case.classes), case.batch()
    try:
        case.fresh()(net, batch.x, batch.y)
    except ValueError as error:
        require_sentence(error, "a call as an attack is refused")
    else:
        raise ContractError("it is found without the progress of training or the index that it asks for")


def threat(case: AttackCase) -> None:
    """``with_threat`` changes every threat inside, and nothing else."""
    threats = list(dict.fromkeys(case.subject.threats()))
    other = threats[0].with_eps(0.5 * threats[0].eps + 0.01)
    moved = case.subject.with_threat(other)
    require(
        set(moved.threats()) == {other}, f"after with_threat({other}) it still holds {set(moved.threats())}"
    )
    if len(threats) == 1:
        require(
            moved.with_threat(threats[0]) == case.subject, "with_threat there and back gives another point"
        )


def climbs(case: AttackCase) -> None:
    """The mean loss at its points is not below that at the samples."""
    net, batch = networks.smooth(case.shape, case.classes).double(), case.batch().to(torch.float64)
    loss = getattr(case.subject, "loss", "ce")
    for role in ROLES:
        function = case.probe(net, batch, role).loss_function(loss, "eval")
        with torch.no_grad():
            before, after = (
                float(function(net(x), None).mean()) for x in (batch.x, case.find(role, net, batch))
            )
        require(after >= before, f"as {_a(role)} it lowers the mean loss from {before:.6g} to {after:.6g}")


SEED_OF_DRAW = 11


def _sound(case: AttackCase, role: Role, net: nn.Module, batch: Batch, when: str = "") -> Tensor:
    found = case.find(role, net, batch)
    where = f"as {_a(role)} {when}".strip()
    require(isinstance(found, Tensor), f"{where} it gave a {type(found).__name__}")
    require(
        found.shape == batch.x.shape,
        f"{where} it gave {list(found.shape)} for samples {list(batch.x.shape)}",
    )
    require(found.dtype == batch.x.dtype, f"{where} it gave {found.dtype} for samples in {batch.x.dtype}")
    require(found.device == batch.x.device, f"{where} it gave points on {found.device}")
    require(not found.requires_grad, f"{where} its points carry a graph")
    require_finite(found, f"the points {where}")
    held = case.claimed
    if held is not None:
        outside = int((~held.contains(found, batch.x)).sum())
        if outside:
            claim = _claim(case, held, found, batch)
            raise ContractError(f"{where} {outside} of {len(batch)} points are outside {claim}")
    return found


def _claim(case: AttackCase, held: Threat, found: Tensor, batch: Batch) -> str:
    """What points are outside of, and how far."""
    furthest = float(held.length(found - batch.x).max())
    if case.ball and not bool(Threat(held.norm, held.eps, None).contains(found, batch.x).all()):
        return f"the threat {held}, up to {furthest:.6g} from their samples"
    over = float((found - held.clip(found)).abs().max())
    return f"the box {held.bounds}, by up to {over:.6g}"


def _nets(case: AttackCase) -> Iterator[nn.Module]:
    yield networks.smooth(case.shape, case.classes)
    yield networks.saturated(case.shape, case.classes)
    yield networks.restless(case.shape, case.classes)


def _a(role: Role) -> str:
    return f"{'an' if role == 'attack' else 'a'} {role}"


def _forwards(case: AttackCase, role: Role, batch: Batch, stop_at: int | None, buffers: bool) -> int:
    """Run a search that is stopped in a certain forward, and compare; the number of forwards."""
    net, runs = networks.restless(case.shape, case.classes), 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == stop_at:
            raise Stop

    list(net.children())[2].register_forward_hook(count)
    before = snapshot(net, batch, buffers=buffers)
    try:
        case.find(role, net, batch)
    except Stop:
        after = snapshot(net, batch, buffers=buffers)
        require_unchanged(before, after, f"a search that broke off in forward {stop_at} ({role})")
    else:
        require(stop_at is None, f"an interruption of forward {stop_at} was swallowed")
    return runs
