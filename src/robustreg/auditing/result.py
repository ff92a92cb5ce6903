"""The audit as a whole: findings in order of weight, and one verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robustreg.auditing.finding import SEVERITY, Finding
from robustreg.files import PathLike, read_json, write_json_atomic
from robustreg.threat import Threat

FORMAT = 1
FILE = "audit.json"
Verdict = Literal["sound", "suspicious", "masked"]
SENTENCE: dict[str, str] = {
    "sound": "No sign of gradient masking: the attacks' numbers for this model can be believed, as upper bounds.",
    "suspicious": "Something here can make attacks look weaker than they are: do not publish a number before the "
    "reasons below are cleared up.",
    "masked": "Gradients mislead the attacks: robust accuracy measured by gradient attacks is not real for this model.",
}


@dataclass(frozen=True, eq=False)
class Audit:
    """Findings, heaviest first, on `n` samples of which `correct` were classified right."""

    findings: tuple[Finding, ...]
    threat: Threat
    n: int
    correct: int
    seed: int
    thorough: bool
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """ "masked" if any finding says so, else "suspicious" if any does, else "sound"."""
        worst = max((SEVERITY[finding.concern] for finding in self.findings), default=0)
        verdicts: tuple[Verdict, ...] = ("sound", "sound", "suspicious", "masked")
        return verdicts[worst]

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """The findings behind a verdict that is not "sound", heaviest first."""
        return tuple(f for f in self.findings if SEVERITY[f.concern] >= SEVERITY["suspicious"])

    def __getitem__(self, check: str) -> Finding:
        for finding in self.findings:
            if finding.check == check:
                return finding
        known = ", ".join(finding.check for finding in self.findings)
        raise KeyError(f"there is no check {check!r} in this audit; it has: {known}")

    def table(self) -> str:
        """The verdict, what it means and what to do, then a line for each finding."""
        width = max((len(finding.title) for finding in self.findings), default=0)
        lines = [
            f"verdict: {self.verdict}. {SENTENCE[self.verdict]}",
            f"{self.threat.name}, eps {self.threat.eps:.6g}, {self.correct} of {self.n} samples classified right, "
            f"seed {self.seed}, {self.seconds:.0f} s",
        ]
        if self.reasons:
            lines += ["", "What it means, and what to do:"]
            lines += [f"{i}. {f.title}: {f.meaning} {f.advice}" for i, f in enumerate(self.reasons, 1)]
        lines += ["", *(f"{f.concern:<10}  {f.title:<{width}}  {f.measured}" for f in self.findings)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """audit.json."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "sentence": SENTENCE[self.verdict],
            "reasons": [finding.check for finding in self.reasons],
            "threat": self.threat.to_dict(),
            "n": self.n,
            "correct": self.correct,
            "seed": self.seed,
            "thorough": self.thorough,
            "seconds": self.seconds,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Audit:
        """Read what `to_dict` gave; the verdict follows from the findings.

        Raises:
            ValueError: something is missing or damaged.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"its format is {values['format']!r}, this version reads format {FORMAT}")
            return cls(
                findings=tuple(Finding.from_dict(row) for row in values["findings"]),
                threat=Threat.from_dict(values["threat"]),
                n=int(values["n"]),
                correct=int(values["correct"]),
                seed=int(values["seed"]),
                thorough=bool(values["thorough"]),
                seconds=float(values["seconds"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the audit is damaged: {type(error).__name__} {error}") from error

    def save(self, folder: PathLike) -> Path:
        """Write audit.json into the folder (made if missing) and return its path."""
        return write_json_atomic(Path(folder) / FILE, self.to_dict())

    @classmethod
    def load(cls, path: PathLike) -> Audit:
        """Read an audit from its folder or its file; ValueError where it is damaged."""
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        return cls.from_dict(read_json(file))
