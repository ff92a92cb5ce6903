"""What an evaluation found: per-sample outcomes, accuracies with their intervals, a table, a JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from robustreg.evaluation import distances, per_class
from robustreg.evaluation.calibration import Calibration
from robustreg.evaluation.crafting import COUNTED, INVALID, OTHER
from robustreg.evaluation.distances import Distances
from robustreg.evaluation.intervals import wilson
from robustreg.evaluation.packing import fractions, pack, unpack
from robustreg.evaluation.per_class import ClassScore
from robustreg.evaluation.reduced import Precision
from robustreg.files import PathLike, read_json, write_json_atomic
from robustreg.threat import Threat

FORMAT = 1
FILE = "evaluation.json"


@dataclass(frozen=True, eq=False)
class Score:
    """An accuracy and where it comes from: `outcomes` `[N]` bool on the CPU, True = still right."""

    outcomes: Tensor

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.outcomes)

    @property
    def correct(self) -> int:
        """Number of samples that are still right."""
        return int(self.outcomes.sum())

    @property
    def accuracy(self) -> float:
        """Fraction of samples that are still right."""
        return self.correct / self.n

    @property
    def low(self) -> float:
        """Lower end of the 95 % Wilson interval."""
        return wilson(self.correct, self.n).low

    @property
    def high(self) -> float:
        """Upper end of the 95 % Wilson interval."""
        return wilson(self.correct, self.n).high

    def to_dict(self) -> dict[str, Any]:
        """Return accuracy, interval, count and the packed outcomes."""
        return {**fractions(self.correct, self.n), "correct": self.correct, "outcomes": pack(self.outcomes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], n: int) -> Score:
        """Read what `to_dict` wrote; the outcomes are what counts, accuracies follow from them."""
        return cls(unpack(values["outcomes"], n))


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack's result.

    Attributes:
        name: what the evaluation calls it.
        attack: the attack and its options as text.
        threat: the threat its points were held to, None if it has none.
        status: "counted" in the worst case, or why not: "no threat", "other threat", "invalid".
        problem: for an invalid attack one sentence on what it broke.
        score: right under this attack. Samples that were wrong before it count as wrong.
        attacked: `[N]` bool, the samples it was run on: all that are right when clean, or with
            `sequential=True` those that no counted attack before it had fooled.
        seconds: time it took.
    """

    name: str
    attack: str
    threat: Threat | None
    status: str
    problem: str | None
    score: Score
    attacked: Tensor
    seconds: float

    @property
    def fooled(self) -> Tensor:
        """The samples this attack turned from right to wrong, `[N]` bool."""
        return self.attacked & ~self.score.outcomes

    def to_dict(self) -> dict[str, Any]:
        """Return the row of evaluation.json."""
        return {
            "name": self.name,
            "attack": self.attack,
            "threat": None if self.threat is None else self.threat.to_dict(),
            "status": self.status,
            "problem": self.problem,
            **self.score.to_dict(),
            "attacked": pack(self.attacked),
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], n: int) -> AttackResult:
        """Read what `to_dict` wrote."""
        threat = values["threat"]
        return cls(
            name=str(values["name"]),
            attack=str(values["attack"]),
            threat=None if threat is None else Threat.from_dict(threat),
            status=str(values["status"]),
            problem=values["problem"],
            score=Score.from_dict(values, n),
            attacked=unpack(values["attacked"], n),
            seconds=float(values["seconds"]),
        )


@dataclass(frozen=True)
class CurvePoint:
    """Robust accuracy of one attack at one eps on `n` samples, as measured; `problem` if it left its ball."""

    eps: float
    attack: str
    correct: int
    n: int
    problem: str | None = None

    @property
    def accuracy(self) -> float:
        """Fraction of the samples still right."""
        return self.correct / self.n

    def to_dict(self) -> dict[str, Any]:
        """Return the row of evaluation.json."""
        values = {"eps": self.eps, "attack": self.attack, **fractions(self.correct, self.n)}
        return {**values, "correct": self.correct, "n": self.n, "problem": self.problem}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CurvePoint:
        """Read what `to_dict` wrote."""
        counts = int(values["correct"]), int(values["n"])
        return cls(float(values["eps"]), str(values["attack"]), *counts, values["problem"])


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Clean and robust accuracy of one model on N samples.

    Attributes:
        n: number of samples.
        seed: the seed all random starts derive from.
        threat: the threat the worst case is about.
        clean: right without any attack, in eval mode.
        attacks: one result an attack, in the order given.
        curve: robust accuracy of one attack over eps, as measured.
        calibration: calibration of the clean predictions.
        per_class: clean accuracy and worst case of each class that occurs.
        distances: how far away the nearest misclassified points are, one distribution an attack.
        sequential: each attack ran only on the samples still standing.
        precision: what attacks ran the model in; verdicts are in full precision.
        complete: False when the run was interrupted and attacks or the curve are missing.
    """

    n: int
    seed: int
    threat: Threat
    clean: Score
    attacks: list[AttackResult]
    curve: list[CurvePoint] = field(default_factory=list)
    calibration: Calibration | None = None
    per_class: list[ClassScore] = field(default_factory=list)
    distances: list[Distances] = field(default_factory=list)
    sequential: bool = False
    precision: Precision = "full"
    complete: bool = True

    @property
    def outcomes(self) -> dict[str, Tensor]:
        """Still right under each attack: name -> `[N]` bool."""
        return {result.name: result.score.outcomes for result in self.attacks}

    @property
    def counted(self) -> list[AttackResult]:
        """The attacks that lie in the threat and kept to it."""
        return [result for result in self.attacks if result.status == COUNTED]

    @property
    def worst_case(self) -> Score | None:
        """Right under every counted attack, pointwise; None when no attack counts.

        It bounds the robust accuracy on these samples from above: a stronger attack may still lower it.
        """
        return Score(worst_case(self.clean.outcomes, self.counted)) if self.counted else None

    def __getitem__(self, name: str) -> AttackResult:
        for result in self.attacks:
            if result.name == name:
                return result
        known = ", ".join(r.name for r in self.attacks) or "none"
        raise KeyError(f"there is no attack {name!r} in this evaluation; it has: {known}")

    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know, one sentence each."""
        notes = [f"{r.name} is not counted: {r.problem}" for r in self.attacks if r.status == INVALID]
        notes += [f"curve at eps {c.eps:g}: {c.problem}" for c in self.curve if c.problem]
        notes += [
            f"the distances of {d.name} prove nothing: {d.problem}" for d in self.distances if d.problem
        ]
        if self.clean.correct == 0:
            notes.append("The model classifies no sample right, so there was nothing to attack.")
        if not self.counted:
            notes.append("No attack in the threat was run, so nothing is known of the robust accuracy.")
        if self.sequential:
            notes.append(
                "Each attack ran only on the samples still standing; its row is what was left after it."
            )
        if self.precision != "full":
            notes.append(f"Attacks ran in {self.precision}; every verdict was made in full precision.")
        if not self.complete:
            notes.append("The evaluation was interrupted before it was complete.")
        return notes

    def table(self) -> str:
        """Return the results as an aligned plain-text table; accuracies and intervals in percent."""
        rows = [("", "accuracy", "95 % interval", "seconds", ""), _row("clean", self.clean)]
        for result in self.attacks:
            rows.append(_row(result.name, result.score, f"{result.seconds:.1f}", _remark(result)))
        worst = self.worst_case
        if worst is None:
            rows.append(("worst case", "-", "", "", "no attack counts"))
        else:
            rows.append(_row("worst case", worst))
        for point in self.curve:
            low, high = wilson(point.correct, point.n)
            measured = f"{100 * point.accuracy:.2f}", _interval(low, high)
            rows.append((f"eps {point.eps:.5g}", *measured, "", f"{point.attack}, n = {point.n}"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{self.threat.name}, eps {self.threat.eps:.6g}, {self.n} samples, seed {self.seed}"]
        for name, *numbers, remark in rows:
            cells = [c.rjust(w) for c, w in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *cells, remark]).rstrip())
        return "\n".join([*lines, *distances.table(self.distances), *self.notes()])

    def class_table(self) -> str:
        """Return clean accuracy and worst case of each class as an aligned plain-text table, in percent."""
        return per_class.table(self.per_class)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Return evaluation.json: accuracies are fractions, low and high the 95 % Wilson interval."""
        worst = self.worst_case
        return {
            "format": FORMAT,
            "n": self.n,
            "seed": self.seed,
            "threat": self.threat.to_dict(),
            "sequential": self.sequential,
            "precision": self.precision,
            "complete": self.complete,
            "clean": self.clean.to_dict(),
            "attacks": [result.to_dict() for result in self.attacks],
            "worst_case": None if worst is None else worst.to_dict(),
            "curve": [point.to_dict() for point in self.curve],
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "per_class": [score.to_dict() for score in self.per_class],
            "distances": [one.to_dict() for one in self.distances],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: when something is missing or damaged; the message names it.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"its format is {values['format']!r}, this version reads format {FORMAT}")
            n = int(values["n"])
            calibrated = values["calibration"]
            return cls(
                n=n,
                seed=int(values["seed"]),
                threat=Threat.from_dict(values["threat"]),
                clean=Score.from_dict(values["clean"], n),
                attacks=[AttackResult.from_dict(row, n) for row in values["attacks"]],
                curve=[CurvePoint.from_dict(row) for row in values["curve"]],
                calibration=None if calibrated is None else Calibration.from_dict(calibrated),
                # Files of before these were measured are read as well.
                per_class=[ClassScore.from_dict(row) for row in values.get("per_class", ())],
                distances=[Distances.from_dict(row, n) for row in values.get("distances", ())],
                sequential=bool(values["sequential"]),
                precision=values.get("precision", "full"),
                complete=bool(values["complete"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the evaluation is damaged: {type(error).__name__} {error}") from error
        except ValueError as error:
            raise ValueError(f"the evaluation cannot be read: {error}") from error

    def save(self, folder: PathLike) -> Path:
        """Write evaluation.json into the folder (made if missing) and return its path."""
        return write_json_atomic(Path(folder) / FILE, self.to_dict())

    @classmethod
    def load(cls, path: PathLike) -> Evaluation:
        """Read an evaluation from its folder or its evaluation.json.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is damaged.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            return cls.from_dict(read_json(file))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def worst_case(clean: Tensor, counted: list[AttackResult]) -> Tensor:
    """Return the pointwise worst case `[N]` bool over the clean outcomes and the counted attacks.

    With `sequential=True` a sample that an attack was not run on had been fooled before, so the plain "and"
    of the outcomes is right in both orders of work.
    """
    standing = clean.clone()
    for result in counted:
        standing &= result.score.outcomes
    return standing


def _row(name: str, score: Score, seconds: str = "", remark: str = "") -> tuple[str, str, str, str, str]:
    return name, f"{100 * score.accuracy:.2f}", _interval(score.low, score.high), seconds, remark


def _remark(result: AttackResult) -> str:
    if result.status == COUNTED:
        return ""
    which = (
        f" ({result.threat.name}, eps {result.threat.eps:.6g})"
        if result.status == OTHER and result.threat
        else ""
    )
    return f"{result.status}{which}, not in the worst case"


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:.2f}, {100 * high:.2f}]"
