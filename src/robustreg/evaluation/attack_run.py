"""Running one attack over the samples it is meant for, batch by batch, with every point checked."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robustreg.attacks.ensemble import StandardEnsemble
from robustreg.evaluation.caught import Caught
from robustreg.evaluation.crafting import Attack, Crafter, content, problem
from robustreg.evaluation.hashes import json_sha256
from robustreg.evaluation.packing import pack
from robustreg.evaluation.predict import Snapshot, correct, logits_by_batch, logits_of
from robustreg.evaluation.progress import Progress
from robustreg.evaluation.reduced import Precision, as_attacked, lost_in_rounding, precision_of
from robustreg.evaluation.samples import Samples
from robustreg.evaluation.work import Work, WorkStore
from robustreg.streams import derive_seed, global_seed
from robustreg.threat import Threat

SAVE_EVERY_SECONDS = 60.0
_MOST_BATCHES = 8
_MOST_VALUES = 1 << 24  # a search holds several tensors of so many input values, 64 MiB each
_PORTION_FLOPS, _FEWEST = 3 * 10**8, 64  # of one run; with the 5,000 of Square about 15 seconds of one core


@dataclass(frozen=True)
class Setting:
    """What every attack of one evaluation shares.

    `fingerprint` says which model and data this is; it is None where no unfinished work is kept.
    """

    model: nn.Module
    samples: Samples
    device: torch.device
    seed: int
    batch_size: int
    survivors: bool
    precision: Precision
    snapshot: Snapshot
    report: Callable[[Progress], None]
    store: WorkStore | None
    fingerprint: dict[str, str] | None


def run_attack(
    setting: Setting, name: str, attack: Attack, threat: Threat | None, targets: Tensor, stage: str
) -> Work:
    """Run the attack on the samples in `targets` `[N]` bool and return what it did.

    Its points are held to `threat` (None: only finite). The work is saved now and then, at the end, and when
    anything stops it; a call with the same model, data, seed, attack and targets goes on from there. An error
    in the attack is noted in its work: it must not cost what other attacks find.
    """
    key = _key(setting, name, attack, threat, targets)
    work = (setting.store.load(key) if setting.store and key else None) or Work.empty(len(setting.samples))
    saved = time.monotonic()

    def save() -> None:
        if setting.store and key:
            setting.store.save(key, work, setting.samples.x)

    failed: Exception | None = None
    left = int((targets & ~work.attacked).sum())
    try:
        members = _members(setting, name, attack, stage)
        size = setting.batch_size if len(members) == 1 else _portion(setting)
        for member in members:
            todo, total = member.todo(targets, work), member.total(targets, work)
            member.report(setting, targets, work, total)
            while len(todo):
                count = size * member.batches(targets, work, total, size * setting.samples.x[0].numel())
                indices, todo = todo[:count], todo[count:]
                started = time.monotonic()
                caught = Caught(indices, partial(member.report, setting, targets, work, total))
                try:
                    _run_batch(setting, name, member, threat, caught, size, work)
                except Exception as error:
                    failed = error
                    break
                work.seconds += time.monotonic() - started
                member.report(setting, targets, work, total)
                if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                    save()
                    saved = time.monotonic()
            if failed is not None:
                break
    finally:
        if setting.snapshot.undo():
            work.problem = (
                "it changed the model's weights or buffers (BatchNorm statistics), which are restored"
            )
        if left:
            save()
    if failed is not None:  # after saving: what was done stands, and the rest is for another try
        work.give_up(targets, failed)
    return work


@dataclass(frozen=True)
class _Member:
    """An attack, or one of those that it is made of.

    The members of an ensemble are run one after the other over all samples, and not all of them over one batch: the
    batches are then full again for each, and what one has finished is kept.
    """

    craft: Crafter
    stage: str
    number: int
    last: bool
    precision: Precision

    def todo(self, targets: Tensor, work: Work) -> Tensor:
        """The samples `[K]` that are its turn."""
        return (targets & ~work.attacked & (work.withstood == self.number)).nonzero().flatten()

    def total(self, targets: Tensor, work: Work) -> int:
        """How many samples are its turn, those included that had it before an interruption."""
        return int((targets & (work.withstood >= self.number)).sum())

    def batches(self, targets: Tensor, work: Work, total: int, values: int) -> int:
        """How many batches of so many input values to hand over together, if the attack refills.

        So many that, going by the samples that had their turn, one batch of them stands in the end: the batches of the
        model are then full all along, and where most stand no more is under way than has to be.
        """
        if not self.craft.refills:
            return 1
        done = total - len(self.todo(targets, work))
        return max(min(done // max(self._standing(work), 1), _MOST_BATCHES, _MOST_VALUES // values), 1)

    def report(self, setting: Setting, targets: Tensor, work: Work, total: int, early: int = 0) -> None:
        """Tell how far it is; `early` samples of the present batch are fooled already."""
        done = total - len(self.todo(targets, work)) + early
        setting.report(Progress(self.stage, done, total, self._standing(work)))

    def _standing(self, work: Work) -> int:
        return int((work.standing | (work.withstood > self.number)).sum())


def _members(setting: Setting, name: str, attack: Attack, stage: str) -> list[_Member]:
    members = {stage: attack}
    if isinstance(attack, StandardEnsemble):
        members = {f"{stage}: {title}": member for title, member in attack.members().items()}
    return [
        _Member(
            Crafter(name, member, setting.seed),
            title,
            number,
            last=number + 1 == len(members),
            precision=precision_of(member, setting.precision),
        )
        for number, (title, member) in enumerate(members.items())
    ]


def _portion(setting: Setting) -> int:
    """How many samples a member of an ensemble takes at once: on a CPU fewer where it would be long about them.

    A CPU gains little from more, once the network itself is what takes the time, and all that stand are kept, and
    progress is told of them, after every batch. Work is counted and not timed: the same run has the same batches.
    """
    if setting.device.type != "cpu":
        return setting.batch_size
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            logits_of(setting.model, setting.samples.x[:1].to(setting.device))
    except RuntimeError:  # not every network lets its operations be watched
        return min(setting.batch_size, _FEWEST)
    most = _PORTION_FLOPS // max(counter.get_total_flops(), 1)
    return min(setting.batch_size, max(_FEWEST, most))


def _run_batch(
    setting: Setting,
    name: str,
    member: _Member,
    threat: Threat | None,
    caught: Caught,
    size: int,
    work: Work,
) -> None:
    indices = caught.indices
    where = indices.to(setting.samples.x.device)
    x, y = setting.samples.x[where].to(setting.device), setting.samples.y[where].to(setting.device)
    try:
        x_adv, right = _attacked(setting, member, x, y, caught, size)
    except BaseException:  # Ctrl-C most of all
        with contextlib.suppress(Exception):
            caught.keep(setting.model, x, y, threat, work, size)
        raise
    if work.problem is None and (broken := problem(x_adv, x, threat)) is not None:
        row, what = broken
        work.problem = f"its point for sample {int(indices[row])} {what}"
    if member.last:
        work.add(indices, x_adv.cpu(), right.cpu(), setting.survivors)
    else:
        work.add_fooled(indices, x_adv.cpu(), right.cpu())


def _attacked(
    setting: Setting, member: _Member, x: Tensor, y: Tensor, caught: Caught, size: int
) -> tuple[Tensor, Tensor]:
    """The attack's points `[B, ...]` and which of them the model has right `[B]`; `size` samples go together."""
    model, lent = setting.model, as_attacked(setting.model, member.precision)

    def craft(on: nn.Module, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            return member.craft(
                on,
                x[rows].clone(),
                y[rows].clone(),
                caught.indices[rows.cpu()],
                caught.among(rows),
                setting.batch_size,
            )

    x_adv = craft(lent, torch.arange(len(x), device=x.device))
    # The verdict on a randomised model is of one run: of the same one whatever ran before.
    with global_seed(x.device, derive_seed(setting.seed, member.stage, "verdict", int(caught.indices[0]))):
        logits = logits_by_batch(model, x_adv, size)
    if bool((logits.isnan().any(1) & x_adv.flatten(1).isfinite().all(1)).any()):
        if bool(logits_by_batch(model, x, size).isnan().any()):
            raise RuntimeError(
                "the model gives NaN logits by now for clean samples that it classified before: no attack did that"
            )
        warnings.warn(
            f"the model gives NaN logits at points of {member.stage!r}: such a sample counts as misclassified",
            stacklevel=2,
        )
    right = correct(logits, y)
    if lent is not model:
        reduced = logits_by_batch(lent, x_adv, size)
        left = (right & lost_in_rounding(x_adv, x, logits, reduced, y)).nonzero().squeeze(1)
        if left.numel():
            x_adv[left] = craft(model, left)
            right[left] = correct(logits_by_batch(model, x_adv[left], size), y[left])
    return x_adv, right


def _key(setting: Setting, name: str, attack: Attack, threat: Threat | None, targets: Tensor) -> str | None:
    what = content(attack)
    if setting.fingerprint is None or what is None:
        return None
    return json_sha256(
        {
            **setting.fingerprint,
            "name": name,
            "attack": what,
            "threat": None if threat is None else threat.to_dict(),
            "seed": setting.seed,
            "targets": pack(targets),
            "survivors": setting.survivors,
            **({} if setting.precision == "full" else {"precision": setting.precision}),
        }
    )
