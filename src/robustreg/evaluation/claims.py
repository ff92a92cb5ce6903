"""What an evidence folder claims, read from its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robustreg.evaluation.crafting import COUNTED, INVALID, NO_THREAT, OTHER
from robustreg.evaluation.distances import Distances
from robustreg.evaluation.evidence import FORMAT, MANIFEST
from robustreg.evaluation.packing import unpack
from robustreg.files import read_json
from robustreg.threat import Threat


@dataclass(frozen=True)
class Accuracy:
    """The recorded outcomes `[N]` of one accuracy, and its "accuracy", "low", "high", "correct"."""

    outcomes: Tensor
    numbers: dict[str, float]


@dataclass(frozen=True)
class AttackClaim:
    """What is claimed of one attack.

    `threat` is what its points are held to: for a counted attack the evaluation's, whatever its own row says.
    `fooled` is the recorded number of fooled samples.
    """

    name: str
    status: str
    threat: Threat | None
    attacked: Tensor
    score: Accuracy
    fooled: int


@dataclass(frozen=True)
class Claims:
    """All that a manifest claims; `hashes` has the sha256 of "model", "data" and "points"."""

    n: int
    sequential: bool
    hashes: dict[str, str]
    clean: Accuracy
    attacks: list[AttackClaim]
    worst_case: Accuracy | None
    distances: list[Distances]
    manifest: dict[str, Any]

    def worst_case_outcomes(self) -> Tensor | None:
        """Return the pointwise worst case `[N]` that the outcomes give, None when no attack counts."""
        *_, (_, standing) = self.in_order()
        return standing if any(claim.status == COUNTED for claim in self.attacks) else None

    def in_order(self) -> Iterator[tuple[AttackClaim | None, Tensor]]:
        """Yield each attack with the samples `[N]` standing before it, at the end None with those left."""
        standing = self.clean.outcomes.clone()
        for claim in self.attacks:
            yield claim, standing
            if claim.status == COUNTED:
                standing = standing & claim.score.outcomes
        yield None, standing


def read_claims(folder: Path) -> Claims:
    """Read the manifest of an evidence folder.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is damaged; the message is one sentence.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: there is no complete evidence in this folder")
    values = read_json(file)
    try:
        return _claims(values)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{file} is damaged: {type(error).__name__} {error}") from error
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _claims(values: dict[str, Any]) -> Claims:
    if values["format"] != FORMAT:
        raise ValueError(f"its format is {values['format']!r}, this version reads format {FORMAT}")
    n = int(values["n"])
    threat = Threat.from_dict(values["threat"])
    worst = values["worst_case"]
    attacks = [_attack(row, threat, n) for row in values["attacks"]]
    if len({claim.name for claim in attacks}) != len(attacks):
        raise ValueError("two attacks have the same name")
    return Claims(
        n=n,
        sequential=bool(values["sequential"]),
        hashes={key: str(values[key]["sha256"]) for key in ("model", "data", "points")},
        clean=_accuracy(values["clean"], n),
        attacks=attacks,
        worst_case=None if worst is None else _accuracy(worst, n),
        distances=[Distances.from_dict(row, n) for row in values.get("distances", ())],
        manifest=values,
    )


def _attack(row: dict[str, Any], threat: Threat, n: int) -> AttackClaim:
    status = str(row["status"])
    if status not in (COUNTED, NO_THREAT, OTHER, INVALID):
        raise ValueError(f"attack {row['name']!r} has the unknown status {status!r}")
    own = None if row["threat"] is None else Threat.from_dict(row["threat"])
    if status == OTHER and own is None:
        raise ValueError(f"attack {row['name']!r} has another threat, but none is recorded")
    return AttackClaim(
        name=str(row["name"]),
        status=status,
        threat=threat if status == COUNTED else own,
        attacked=unpack(row["attacked"], n),
        score=_accuracy(row, n),
        fooled=int(row["fooled"]),
    )


def _accuracy(values: dict[str, Any], n: int) -> Accuracy:
    numbers = {key: float(values[key]) for key in ("accuracy", "low", "high", "correct")}
    return Accuracy(unpack(values["outcomes"], n), numbers)
