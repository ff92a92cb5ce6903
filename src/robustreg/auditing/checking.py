"""The registry of checks: what a check says of itself, and how its measurement becomes a finding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from robustreg.auditing.case import Case
from robustreg.auditing.finding import Concern, Finding
from robustreg.auditing.plots import Plot
from robustreg.auditing.statistics import Estimate


@dataclass(frozen=True)
class Measured:
    """What a check's function gives: a sentence, the number behind it, how concerned it is, and a picture."""

    measured: str
    concern: Concern = "none"
    estimate: Estimate | None = None
    plot: Plot | None = None


Function = Callable[[Case], Measured]


@dataclass(frozen=True)
class Check:
    """A check: how it measures, and what it says of itself whatever comes out."""

    name: str
    title: str
    function: Function
    fine: str
    bad: str
    advice: str
    source: str
    weight: int
    threshold: float | None
    decisive: float | None
    below: bool
    percent: bool

    def __call__(self, case: Case) -> Finding:
        """Measure. A check that fails becomes a finding that says so, and the audit goes on."""
        try:
            found = self.function(case)
        except Exception as error:  # whatever a stranger's network does must not end the audit
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            return self._finding(
                Measured(f"This could not be measured: {type(error).__name__}: {reason}"[:400], "notice"),
                "Nothing is known about this; the verdict rests on the other checks.",
                failed=True,
            )
        return self._finding(found, self.fine if found.concern == "none" else self.bad, failed=False)

    def _finding(self, found: Measured, meaning: str, *, failed: bool) -> Finding:
        value, low, high = found.estimate if found.estimate is not None else (None, None, None)
        return Finding(
            check=self.name,
            title=self.title,
            measured=found.measured,
            value=_finite(value),
            low=_finite(low),
            high=_finite(high),
            threshold=self.threshold,
            source=self.source,
            meaning=meaning,
            advice="" if found.concern == "none" or failed else self.advice,
            concern=found.concern,
            weight=self.weight,
            plot=found.plot,
            failed=failed,
            decisive=self.decisive,
            below=self.below,
            percent=self.percent,
        )


CHECKS: dict[str, Check] = {}


def check(
    name: str,
    title: str,
    *,
    fine: str,
    bad: str,
    advice: str,
    source: str,
    weight: int,
    threshold: float | None = None,
    decisive: float | None = None,
    below: bool = False,
    percent: bool = True,
) -> Callable[[Function], Function]:
    """Register a function `(Case) -> Measured` as a check.

    Args:
        name, title: what it is called in files and on the page.
        fine, bad: what it means if the check is content, and if it is not; for a reader who is no expert.
        advice: what to do if it is not.
        source: of the check and its threshold.
        weight: the larger, the more direct the evidence.
        threshold: of the value.
        decisive: the value from which it says "masked", if it ever does.
        below: whether values below the threshold are the bad ones.
        percent: whether the value is a share.
    """

    def register(function: Function) -> Function:
        if name in CHECKS:
            raise ValueError(f"there is a check {name!r} already")
        CHECKS[name] = Check(
            name, title, function, fine, bad, advice, source, weight, threshold, decisive, below, percent
        )
        return function

    return register


def graded(estimate: Estimate, suspicious: float, masked: float = math.inf) -> Concern:
    """The concern about a share that should be small, by the lower end of its interval."""
    if estimate.low > masked:
        return "masked"
    return "suspicious" if estimate.low > suspicious else "none"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
