"""The options of an evaluation, checked before hours of work hang on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from robustreg.attacks import MinimalNorm
from robustreg.evaluation.crafting import COUNTED, Attack, own_threat
from robustreg.evaluation.distances import stage_of
from robustreg.files import PathLike


def check_count(what: str, value: object) -> None:
    """Raise TypeError or ValueError for what is no whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")


def evidence_folder(path: PathLike) -> Path:
    """The folder for the evidence, made if it is missing.

    Raises:
        NotADirectoryError: when the path, or one above it, is a file.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"evidence_dir must be a folder, but {folder} is, or is below, a file"
        ) from error
    return folder


def has_eps(attack: Attack) -> bool:
    """Whether the attack can be asked at another eps."""
    return own_threat(attack) is not None and hasattr(attack, "with_threat")


def check_curve(
    attacks: Mapping[str, Attack],
    roles: Mapping[str, str],
    curve: Sequence[float] | None,
    name: str | None,
    count: int | None,
) -> None:
    """Raise for a curve over eps that cannot be measured, at these eps or with these attacks.

    Raises:
        TypeError: the eps are no sequence of numbers, or the number of samples is none.
        ValueError: an eps is negative or not finite, or there is no attack for it. An attack that refuses one of the
            eps says so itself.
    """
    if count is not None:
        check_count("curve_samples", count)
    if name is not None and name not in attacks:
        raise ValueError(f"curve_attack {name!r} is not among the attacks: {', '.join(attacks) or 'none'}")
    radii = _radii(curve)
    if not radii:
        return
    if name is not None and not has_eps(attacks[name]):
        raise ValueError(f"curve_attack {name!r} has no threat, so it cannot be measured at other eps")
    able = (
        [name] if name is not None else [n for n, a in attacks.items() if has_eps(a) and roles[n] == COUNTED]
    )
    if not able:
        raise ValueError(
            "a curve over eps needs an attack with a threat inside the evaluation's, such as PGD"
        )
    for attack in (attacks[n] for n in able):
        threat = own_threat(attack)
        assert threat is not None  # it has eps
        for eps in radii:
            attack.with_threat(threat.with_eps(eps))  # type: ignore[attr-defined]


def _radii(curve: Sequence[float] | None) -> list[float]:
    if curve is None:
        return []
    try:
        radii = [float(eps) for eps in curve]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the curve must be a sequence of numbers, such as [0.05, 0.1], got {curve!r}"
        ) from error
    for eps in radii:
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"the curve's eps must be finite and not negative, got {eps:g}")
    return radii


def check_distances(
    nearest: Mapping[str, MinimalNorm], attacks: Mapping[str, Attack], count: int | None, x: Tensor
) -> None:
    """Raise TypeError or ValueError for distances of inputs `x` `[N, ...]` that cannot be measured."""
    if count is not None:
        check_count("distance_samples", count)
    for name, attack in nearest.items():
        if stage_of(name) in attacks:
            raise ValueError(
                f"an attack may not be named {stage_of(name)!r}: distances by {name!r} go by that"
            )
        attack.threat.check_input(x)
