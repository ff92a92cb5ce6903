"""Robust accuracy of a model: clean first, then every attack, then the pointwise worst case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.attacks import MinimalNorm
from robustreg.evaluation.attack_run import Setting, run_attack
from robustreg.evaluation.calibration import Calibration, measure_calibration
from robustreg.evaluation.crafting import (
    COUNTED,
    INVALID,
    NO_THREAT,
    Attack,
    describe,
    named,
    own_threat,
    role,
    warn_if_it_covers_the_box,
)
from robustreg.evaluation.distances import (
    Distances,
    Nearest,
    anywhere,
    distances_of,
    nearest_attacks,
    stage_of,
)
from robustreg.evaluation.evidence import write_evidence
from robustreg.evaluation.hashes import data_sha256, model_sha256
from robustreg.evaluation.options import (
    check_count,
    check_curve,
    check_distances,
    evidence_folder,
    has_eps,
)
from robustreg.evaluation.per_class import class_scores
from robustreg.evaluation.predict import (
    Snapshot,
    as_found,
    check_clean_logits,
    correct,
    device_for,
    logits_of,
    warn_if_gradients_fail,
    warn_if_probabilities,
)
from robustreg.evaluation.progress import Progress, reporter
from robustreg.evaluation.reduced import Precision, check_precision
from robustreg.evaluation.results import AttackResult, CurvePoint, Evaluation, Score, worst_case
from robustreg.evaluation.samples import Samples, check_labels, gather
from robustreg.evaluation.steadiness import RANDOMISED, unsteady
from robustreg.evaluation.work import Work, WorkStore
from robustreg.files import PathLike
from robustreg.streams import derive_seed, global_seed
from robustreg.threat import Threat


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation; `.evaluation` has what was finished, or is None."""

    def __init__(self, message: str, evaluation: Evaluation | None) -> None:
        super().__init__(message)
        self.evaluation = evaluation


def evaluate(
    model: nn.Module,
    data: Any,
    attacks: Mapping[str, Attack] | Iterable[Attack] | Attack,
    threat: Threat,
    *,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    sequential: bool = False,
    evidence_dir: PathLike | None = None,
    survivors: bool = False,
    curve: Sequence[float] | None = None,
    curve_attack: str | None = None,
    curve_samples: int | None = None,
    distances: Mapping[str, MinimalNorm] | Iterable[MinimalNorm] | MinimalNorm | None = None,
    distance_samples: int | None = None,
    precision: Precision = "full",
    progress: bool | Callable[[Progress], object] | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy, sample by sample.

    The model runs in eval mode and is left as found: flags, device, weights, BatchNorm statistics, `.grad`,
    and torch's global random state. Attacks get only samples that the clean model has right; a sample that is
    wrong when clean counts as wrong under every attack. Every point is checked: an attack whose points are
    not finite or not inside the threat is reported as "invalid" with the first such sample, and does not
    enter the worst case. So is an attack that an error stops, while the others go on; its error is raised
    where no attack came to its end.

    Args:
        model: maps `[B, ...]` in the data's scale to logits `[B, C]`.
        data: `(x, y)` tensors or arrays, an object with `.x` and `.y`, a Dataset, or an iterable of batches.
        attacks: one attack, a sequence, or a mapping from names. An attack is called as `(model, x, y)` and
            returns points like x; the points of this library are attacks, and a function that takes
            `generator` gets one.
        threat: what the worst case is about. An attack with a `threat` that may leave this one is held to its
            own and reported as "other threat"; one whose `threat` is None is "no threat"; neither enters the
            worst case.
        seed: all random starts derive from it, the attack's name and the sample's index, not the batch size.
        batch_size: samples per call of the model and of the attacks; from 256 on, 512 targets or queries of small
            inputs.
        device: where to run; the model's own device by default.
        sequential: run each attack only on the samples that are still standing. Cheaper, same worst case, but
            an attack's own accuracy is then what was left after it.
        evidence_dir: folder for the evidence that `verify` re-checks. While unfinished it also keeps the work
            done, and the same call takes it up again after an interruption.
        survivors: keep the points that do not fool the model in the evidence, too.
        curve: values of eps at which to measure one attack.
        curve_attack: its name; by default the counted attack with the lowest accuracy that has other eps.
        curve_samples: how many samples, drawn by `seed`, to measure the curve on; all by default.
        distances: attacks of minimal norm (`FAB`, `DeepFool`, `CarliniWagner`) that tell how far away the nearest
            misclassified point of each sample is; only the norm and the box of their threats count.
        distance_samples: how many samples, drawn by `seed`, to measure distances on; all by default.
        precision: what attacks run the model in: "full", its own, or "bf16", autocast to bfloat16. Clean accuracy and
            every verdict are in full precision either way, and an attack that fooled the model in bfloat16 only goes
            on in full precision.
        progress: True for bars with the time left, or a function called with a `Progress` after every batch.

    Returns:
        An `Evaluation`; accuracies come with 95 % Wilson intervals.

    Raises:
        TypeError, ValueError: for bad input, before work starts where it can be known before.
        EvaluationInterrupted: a KeyboardInterrupt with what was finished.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(threat, Threat):
        raise TypeError(f"the threat must be a Threat(norm, eps), got {type(threat).__name__}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"the seed must be an integer, got {seed!r}")
    check_count("batch_size", batch_size)
    check_precision(precision)
    samples = gather(data).as_model_takes(model)
    threat.check_input(samples.x)
    warn_if_it_covers_the_box(threat, samples.x)
    given = named(attacks)
    roles = {name: role(attack, threat, samples.x) for name, attack in given.items()}
    check_curve(given, roles, curve, curve_attack, curve_samples)
    nearest = nearest_attacks(distances)
    check_distances(nearest, given, distance_samples, samples.x)
    where = device_for(model, device)
    folder = None if evidence_dir is None else evidence_folder(evidence_dir)
    # Known only now that all options are: hashing takes a pass over weights and data.
    fingerprint = None
    if folder is not None:
        fingerprint = {"model": model_sha256(model), "data": data_sha256(samples)}

    # Networks with random layers draw from the global generators: seeded, so that the same call goes on from its work.
    with as_found(model, where), global_seed(where, derive_seed(seed, "run")), reporter(progress) as report:
        setting = Setting(
            model=model,
            samples=samples,
            device=where,
            seed=seed,
            batch_size=batch_size,
            survivors=survivors,
            precision=precision,
            snapshot=Snapshot(model),
            report=report,
            store=None if folder is None else WorkStore(folder / "unfinished"),
            fingerprint=fingerprint,
        )
        run = _Run(setting, threat, given, roles, sequential)
        try:
            run.clean()
            run.attack_all()
            run.measure_curve(curve or (), curve_attack, curve_samples)
            run.measure_distances(nearest, distance_samples)
        except KeyboardInterrupt as interrupt:
            raise EvaluationInterrupted(
                run.where_it_stopped(folder), run.result(complete=False)
            ) from interrupt
    evaluation = run.result(complete=True)
    assert evaluation is not None  # clean() has run
    if folder is not None and fingerprint is not None and setting.store is not None:
        _leave_evidence(folder, evaluation, run.works, samples, fingerprint, setting.store)
    return evaluation


def _leave_evidence(
    folder: Path,
    evaluation: Evaluation,
    works: dict[str, Work],
    samples: Samples,
    fingerprint: dict[str, str],
    store: WorkStore,
) -> None:
    """Write the evidence, and then only clear the store of unfinished work.

    What was measured is whole by now: a full disk is warned of, and a Ctrl-C brings the evaluation along.
    """
    try:
        write_evidence(folder, evaluation, works, samples, fingerprint)
        if not any(work.error for work in works.values()):  # else another call tries again what failed
            store.clear()
    except KeyboardInterrupt as interrupt:
        raise EvaluationInterrupted(
            "evaluation interrupted while its evidence was written: all of it was measured; the same call goes on from "
            f"what is kept in {folder}",
            evaluation,
        ) from interrupt
    except OSError as error:
        warnings.warn(
            f"the evidence cannot be written ({error}): the evaluation is complete, but there is nothing for `verify` "
            f"to check in {folder}",
            stacklevel=3,
        )


class _Run:
    """One evaluation under way; `result` is what is known at any time."""

    def __init__(
        self,
        setting: Setting,
        threat: Threat,
        attacks: dict[str, Attack],
        roles: dict[str, str],
        sequential: bool,
    ) -> None:
        self._setting, self._threat, self._sequential = setting, threat, sequential
        self._attacks, self._roles = attacks, roles
        self._right: Tensor | None = None
        self._calibration: Calibration | None = None
        self._results: list[AttackResult] = []
        self._curve: list[CurvePoint] = []
        self._distances: list[Distances] = []
        self.works: dict[str, Work] = {}

    def clean(self) -> None:
        """Classify the clean samples, and refuse a model or labels that make no sense."""
        setting, samples = self._setting, self._setting.samples
        logits: list[Tensor] = []
        standing = 0
        for first in range(0, len(samples), setting.batch_size):
            x = samples.x[first : first + setting.batch_size].to(setting.device)
            batch = logits_of(setting.model, x).cpu()
            if first == 0:
                check_labels(samples.y, batch.shape[1])
            check_clean_logits(batch, first)
            if logits and batch.shape[1] != logits[0].shape[1]:
                raise ValueError(
                    f"the model gives {logits[0].shape[1]} logits for sample 0 but {batch.shape[1]} for sample "
                    f"{first}: the number of classes must not depend on the batch"
                )
            if first == 0:
                warn_if_gradients_fail(setting.model, x, samples.y[: len(x)].to(x.device))
                self._warn_if_unsteady(x, batch)
            logits.append(batch)
            y = samples.y[first : first + setting.batch_size].cpu()
            standing += int(correct(batch, y).sum())
            setting.report(Progress("clean", first + len(x), len(samples), standing))
        if setting.snapshot.learn():
            warnings.warn(
                "the model changes its own buffers whenever it runs, in evaluation mode too (BatchNorm that stays in "
                "training mode?): they are put back after every attack",
                stacklevel=3,
            )
        joined, y = torch.cat(logits), samples.y.cpu()
        warn_if_probabilities(joined)
        self._right = correct(joined, y)
        self._calibration = measure_calibration(joined, y)
        if not self._right.any():
            warnings.warn(
                f"the model classifies none of {len(samples)} samples right, so there is nothing to attack",
                stacklevel=3,
            )

    def _warn_if_unsteady(self, x: Tensor, logits: Tensor) -> None:
        why = unsteady(self._setting.model, x, logits)
        if why == RANDOMISED:
            warnings.warn(
                f"{why}: every verdict is of one run, which looking again need not confirm; the standard ensemble has "
                "the version 'rand' for such models",
                stacklevel=4,
            )
        elif why is not None:
            warnings.warn(f"{why}: every verdict is of the batch that a point was found in", stacklevel=4)

    def attack_all(self) -> None:
        """Run the attacks in the order given."""
        assert self._right is not None  # clean() comes first
        standing = self._right.clone()
        for name, attack in self._attacks.items():
            targets = standing if self._sequential else self._right
            held_to = self._held_to(name, attack)
            work = run_attack(self._setting, name, attack, held_to, targets, stage=name)
            status = INVALID if work.problem else self._roles[name]
            if work.problem:
                warnings.warn(f"attack {name!r} is not counted: {work.problem}", stacklevel=3)
            result = AttackResult(
                name=name,
                attack=describe(attack),
                threat=held_to,
                status=status,
                problem=work.problem,
                score=Score(work.standing),
                attacked=work.attacked,
                seconds=work.seconds,
            )
            self.works[name] = work
            self._results.append(result)
            if status == COUNTED:
                standing &= work.standing
        errors = [work.error for work in self.works.values() if work.error is not None]
        if errors and len(errors) == len(self._attacks):  # nothing was found out: show where it went wrong
            raise errors[0]

    def measure_curve(self, curve: Sequence[float], name: str | None, count: int | None) -> None:
        """Measure one attack at each eps, every one on its own: nothing makes the curve fall."""
        if not len(curve):
            return
        assert self._right is not None  # clean() comes first
        name = name or self._strongest()
        attack = self._attacks[name]
        chosen = self._subset(count)
        for eps in curve:
            threat = (own_threat(attack) or self._threat).with_eps(float(eps))
            at_eps = attack.with_threat(threat)  # type: ignore[attr-defined]
            work = self._at_eps(name, at_eps, threat, chosen, float(eps))
            right = int((work.standing & chosen).sum())
            self._curve.append(CurvePoint(float(eps), name, right, int(chosen.sum()), work.problem))

    def measure_distances(self, attacks: Mapping[str, MinimalNorm], count: int | None) -> None:
        """Look how far away the nearest misclassified points are; an attack's points are kept as those of any."""
        assert self._right is not None  # clean() comes first
        chosen = self._subset(count)
        for name, attack in attacks.items():
            stage, threat = stage_of(name), anywhere(attack.threat)
            work = run_attack(
                self._setting, stage, Nearest(attack), threat, chosen & self._right, stage=stage
            )
            if work.problem:
                warnings.warn(f"the distances of {name!r} prove nothing: {work.problem}", stacklevel=3)
            values = distances_of(work, chosen, threat, self._setting.samples)
            text = describe(attack)
            self.works[stage] = work
            self._distances.append(Distances(name, text, threat, chosen, values, work.seconds, work.problem))

    def result(self, complete: bool) -> Evaluation | None:
        """Return what is known so far; None before the clean samples are classified."""
        if self._right is None:
            return None
        counted = [result for result in self._results if result.status == COUNTED]
        standing = worst_case(self._right, counted) if counted else None
        return Evaluation(
            n=len(self._right),
            seed=self._setting.seed,
            threat=self._threat,
            clean=Score(self._right),
            attacks=list(self._results),
            curve=list(self._curve),
            calibration=self._calibration,
            per_class=class_scores(self._setting.samples.y.cpu(), self._right, standing),
            distances=list(self._distances),
            sequential=self._sequential,
            precision=self._setting.precision,
            complete=complete,
        )

    def where_it_stopped(self, folder: Path | None) -> str:
        """Return one sentence for the person who pressed Ctrl-C."""
        done = f"{len(self._results)} of {len(self._attacks)} attacks were finished"
        if folder is None:
            return f"evaluation interrupted: {done}"
        return f"evaluation interrupted: {done}; the same call goes on from what is kept in {folder}"

    def _held_to(self, name: str, attack: Attack) -> Threat | None:
        if self._roles[name] == COUNTED:
            return self._threat
        return None if self._roles[name] == NO_THREAT else own_threat(attack)

    def _strongest(self) -> str:
        able = [r for r in self._results if has_eps(self._attacks[r.name]) and self._roles[r.name] == COUNTED]
        # What an invalid attack seems to reach is nothing. Where there is no other, the curve says what is wrong.
        able = [r for r in able if r.status == COUNTED] or able
        # Of equals the later one: attacks are usually given from weak to strong.
        return min(reversed(able), key=lambda r: r.score.correct).name

    def _subset(self, count: int | None) -> Tensor:
        n = len(self._setting.samples)
        if count is None or count >= n:
            return torch.ones(n, dtype=torch.bool)
        generator = torch.Generator().manual_seed(derive_seed(self._setting.seed, "curve"))
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[torch.randperm(n, generator=generator)[:count]] = True
        return chosen

    def _at_eps(self, name: str, attack: Attack, threat: Threat, chosen: Tensor, eps: float) -> Work:
        assert self._right is not None  # clean() comes first
        if eps == 0.0:
            return Work(attacked=chosen & self._right, standing=chosen & self._right)
        # The same attack on the same samples with the same random numbers was measured above.
        if attack == self._attacks[name] and not self._sequential:
            return self.works[name]
        targets = chosen & self._right
        return run_attack(self._setting, name, attack, threat, targets, stage=f"curve eps {eps:g}")
