"""Clean and robust accuracy class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustreg.evaluation.intervals import Interval, wilson
from robustreg.evaluation.packing import fractions


@dataclass(frozen=True)
class ClassScore:
    """One class's accuracy.

    Attributes:
        label: the class.
        n: samples of it.
        clean: how many are right without any attack.
        robust: how many are right under every counted attack; None when no attack counts.
    """

    label: int
    n: int
    clean: int
    robust: int | None

    def clean_interval(self) -> Interval:
        """The 95 % Wilson interval of its clean accuracy."""
        return wilson(self.clean, self.n)

    def robust_interval(self) -> Interval | None:
        """The 95 % Wilson interval of its worst case."""
        return None if self.robust is None else wilson(self.robust, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return the row of evaluation.json."""
        worst = None if self.robust is None else _counted(self.robust, self.n)
        return {"label": self.label, "n": self.n, "clean": _counted(self.clean, self.n), "worst_case": worst}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassScore:
        """Read what `to_dict` wrote; the counts are what tells, accuracies follow from them."""
        worst = values["worst_case"]
        return cls(
            label=int(values["label"]),
            n=int(values["n"]),
            clean=int(values["clean"]["correct"]),
            robust=None if worst is None else int(worst["correct"]),
        )


def class_scores(y: Tensor, clean: Tensor, standing: Tensor | None) -> list[ClassScore]:
    """Return the accuracies of the classes that occur, by label.

    Args:
        y: labels `[N]`.
        clean: right without any attack, `[N]` bool.
        standing: right under every counted attack, `[N]` bool; None when no attack counts.
    """
    scores = []
    for label in sorted(set(y.tolist())):
        members = y == label
        robust = None if standing is None else int((standing & members).sum())
        scores.append(ClassScore(label, int(members.sum()), int((clean & members).sum()), robust))
    return scores


def table(scores: Sequence[ClassScore]) -> str:
    """The scores as aligned text, in percent with 95 % intervals."""
    rows = [("class", "n", "clean", "95 % interval", "worst case", "95 % interval")]
    for score in scores:
        robust = ("-", "") if score.robust is None else _cells(score.robust, score.n)
        rows.append((str(score.label), str(score.n), *_cells(score.clean, score.n), *robust))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cells(correct: int, n: int) -> tuple[str, str]:
    low, high = wilson(correct, n)
    return f"{100 * correct / n:.2f}", f"[{100 * low:.2f}, {100 * high:.2f}]"


def _counted(correct: int, n: int) -> dict[str, float]:
    return {**fractions(correct, n), "correct": correct}
