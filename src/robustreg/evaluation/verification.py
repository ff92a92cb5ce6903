"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """One failed check.

    Attributes:
        check: what was checked: "files", "hashes", "clean", "points", "distances", "outcomes", "accuracy" or
            "summary".
        attack: the attack concerned, None for the whole evaluation.
        sample: the first sample concerned, None where it is not about samples.
        message: one sentence.
    """

    check: str
    attack: str | None
    sample: int | None
    message: str


@dataclass
class Verification:
    """The result of `verify`.

    Attributes:
        findings: the failed checks; none when everything holds.
        notes: what a reader should know and no failures.
        points_checked: adversarial points that were checked.
        undecided: predictions within floating-point noise, neither confirmed nor refuted.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    points_checked: int = 0
    undecided: int = 0

    @property
    def ok(self) -> bool:
        """True when every check passed."""
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = (
            f"verified: {self.points_checked} adversarial points and all accuracies hold"
            if self.ok
            else f"NOT verified: {len(self.findings)} failed checks"
        )
        return "\n".join([head, *(f"- {f.message}" for f in self.findings), *(f"  {n}" for n in self.notes)])

    def fail(self, check: str, message: str, attack: str | None = None, sample: int | None = None) -> None:
        """Record a failed check."""
        prefix = "" if attack is None else f"{attack}: "
        self.findings.append(Finding(check, attack, sample, prefix + message))

    def fail_where(
        self, bad: Tensor, check: str, what: str, attack: str | None = None, index: Tensor | None = None
    ) -> None:
        """Record one failed check for the samples in `bad` `[K]` bool, naming the first.

        Args:
            bad: the rows that fail.
            check: the check's name.
            what: the rest of the sentence that begins with "sample 3".
            attack: the attack concerned.
            index: the sample of each row `[K]`; the row itself by default.
        """
        rows = bad.nonzero().flatten()
        if not len(rows):
            return
        sample = int(rows[0] if index is None else index[rows[0]])
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        self.fail(check, f"sample {sample} {what}{more}", attack, sample)
