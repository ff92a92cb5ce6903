"""What one check found, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Concern = Literal["none", "notice", "suspicious", "masked"]
SEVERITY: dict[str, int] = {concern: rank for rank, concern in enumerate(get_args(Concern))}


@dataclass(frozen=True)
class Finding:
    """One check's result.

    Attributes:
        check: its name.
        title: in a few words.
        measured: what was measured, one sentence with the numbers.
        value, low, high: the number behind it and its 95 % interval; None where there is none.
        threshold: the value from which the check is concerned; None where it only informs.
        decisive: the value from which it says "masked"; None where it never does.
        below: whether values below the threshold are the bad ones.
        percent: whether the value is a share.
        source: where check and threshold come from.
        meaning: what it means, for somebody who never heard of gradient masking.
        advice: what to do next; empty where nothing is to be done.
        concern: "none", "notice" (worth knowing, says nothing about the verdict), "suspicious" or "masked".
        weight: the larger, the more direct the evidence; orders reasons of equal concern.
        plot: data of a picture, or None; see `robustreg.auditing.plots`.
        failed: whether the check could not be carried out.
    """

    check: str
    title: str
    measured: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    source: str
    meaning: str
    advice: str
    concern: Concern
    weight: int
    plot: dict[str, Any] | None = None
    failed: bool = False
    decisive: float | None = None
    below: bool = False
    percent: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Finding:
        """Read what `to_dict` gave; ValueError where it is no finding."""
        try:
            found = cls(**values)
        except TypeError as error:
            raise ValueError(f"a finding is damaged: {error}") from error
        if found.concern not in SEVERITY:
            raise ValueError(f"a finding's concern is one of {', '.join(SEVERITY)}, got {found.concern!r}")
        return found
