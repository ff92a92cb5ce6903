"""Running one attack over the samples it is meant for, batch by batch, with every point checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustreg.evaluation.crafting import Attack, Crafter, content, problem
from robustreg.evaluation.hashes import json_sha256
from robustreg.evaluation.packing import pack
from robustreg.evaluation.predict import Snapshot, correct, logits_of
from robustreg.evaluation.progress import Progress
from robustreg.evaluation.samples import Samples
from robustreg.evaluation.work import Work, WorkStore
from robustreg.threat import Threat

SAVE_EVERY_SECONDS = 60.0


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
    snapshot: Snapshot
    report: Callable[[Progress], None]
    store: WorkStore | None
    fingerprint: dict[str, str] | None


def run_attack(
    setting: Setting, name: str, attack: Attack, threat: Threat | None, targets: Tensor, stage: str
) -> Work:
    """Run the attack on the samples in `targets` `[N]` bool and return what it did.

    Its points are held to `threat` (None: only finite). The work is saved now and then, at the end, and when
    anything stops it; a call with the same model, data, seed, attack and targets goes on from there.
    """
    key = _key(setting, name, attack, threat, targets)
    work = (setting.store.load(key) if setting.store and key else None) or Work.empty(len(setting.samples))
    crafter = Crafter(name, attack, setting.seed)
    total = int(targets.sum())
    saved = time.monotonic()

    def save() -> None:
        if setting.store and key:
            setting.store.save(key, work, setting.samples.x)

    def report() -> None:
        setting.report(Progress(stage, int(work.attacked.sum()), total, int(work.standing.sum())))

    report()
    todo = (targets & ~work.attacked).nonzero().flatten()
    try:
        for indices in torch.split(todo, setting.batch_size) if len(todo) else ():
            started = time.monotonic()
            _run_batch(setting, name, crafter, threat, indices, work)
            work.seconds += time.monotonic() - started
            report()
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        if setting.snapshot.undo():
            work.problem = (
                "it changed the model's weights or buffers (BatchNorm statistics), which are restored"
            )
        if len(todo):
            save()
    return work


def _run_batch(
    setting: Setting, name: str, crafter: Crafter, threat: Threat | None, indices: Tensor, work: Work
) -> None:
    where = indices.to(setting.samples.x.device)
    x, y = setting.samples.x[where].to(setting.device), setting.samples.y[where].to(setting.device)
    with torch.enable_grad():
        x_adv = crafter(setting.model, x.clone(), y.clone(), indices)
    if work.problem is None and (found := problem(x_adv, x, threat)) is not None:
        row, what = found
        work.problem = f"its point for sample {int(indices[row])} {what}"
    right = correct(logits_of(setting.model, x_adv), y)
    work.add(indices, x_adv.cpu(), right.cpu(), setting.survivors)


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
        }
    )
