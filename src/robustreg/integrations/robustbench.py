"""Model cards in the format of RobustBench: the JSON file of `model_info/DATASET/THREAT/NAME.json`.

The format is the one its README describes (Croce et al. 2021, arXiv:2010.09670): accuracies are percentages written as
text, eps is text such as "8/255", and the norm is not in the file but the name of its folder, `Linf` or `L2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustreg.files import PathLike, read_json, write_json_atomic
from robustreg.threat import Threat

NORMS = {"Linf": math.inf, "L2": 2.0}
_KEPT = (
    "link",
    "name",
    "authors",
    "venue",
    "architecture",
    "dataset",
    "additional_data",
    "number_forward_passes",
)


@dataclass(frozen=True)
class ModelCard:
    """What RobustBench records of a model.

    Attributes:
        identifier: the model's name in the model zoo, such as Carmon2019Unlabeled: the file's name.
        norm: the folder's name, `Linf` or `L2`; RobustBench has others for corruptions.
        dataset: `cifar10`, `cifar100`, `imagenet`, or any other name.
        architecture: such as WideResNet-28-10.
        eps: the radius in pixel scale 0-1; None for corruptions.
        clean_acc: clean accuracy, a fraction.
        reported: the robust accuracy that the authors claim, a fraction.
        autoattack_acc: the robust accuracy under the standard ensemble, a fraction.
        name: title of the paper. link, authors and venue are the paper's.
        additional_data: whether it was trained on data beyond the data set.
        number_forward_passes: of one prediction.
        footnote: a sentence.
        other: further fields as they stand.
    """

    identifier: str
    norm: str
    dataset: str
    architecture: str
    eps: float | None
    clean_acc: float
    reported: float | None = None
    autoattack_acc: float | None = None
    name: str = ""
    link: str = ""
    authors: str = ""
    venue: str = ""
    additional_data: bool = False
    number_forward_passes: int = 1
    footnote: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    def threat(self) -> Threat:
        """The threat in the box [0, 1].

        Raises:
            ValueError: the card is about corruptions, or its norm is not known.
        """
        if self.eps is None or self.norm not in NORMS:
            raise ValueError(
                f"{self.identifier} is about {self.norm}, which is no ball of a norm with a radius"
            )
        return Threat(NORMS[self.norm], self.eps)

    def to_dict(self) -> dict[str, Any]:
        """The fields of the file; unknown accuracies are left out, other unknown texts are empty."""
        values: dict[str, Any] = {key: getattr(self, key) for key in _KEPT}
        values["eps"] = None if self.eps is None else written_eps(self.eps)
        values["clean_acc"] = _percent(self.clean_acc)
        values["reported"] = "" if self.reported is None else _percent(self.reported)
        if self.autoattack_acc is not None:
            values["autoattack_acc"] = _percent(self.autoattack_acc)
        if self.footnote is not None:
            values["footnote"] = self.footnote
        return {**values, **self.other}

    def check_names(self) -> None:
        """Raise ValueError where identifier, data set or norm cannot be names of files and folders."""
        for key in ("identifier", "dataset", "norm"):
            name = getattr(self, key)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(
                    f"the {key} of a card names a file or folder: letters, digits, . _ -, got {name!r}"
                )

    def write(self, folder: PathLike) -> Path:
        """Write `FOLDER/model_info/DATASET/NORM/IDENTIFIER.json` and return its path."""
        self.check_names()
        target = Path(folder) / "model_info" / self.dataset / self.norm / f"{self.identifier}.json"
        return write_json_atomic(target, self.to_dict())

    @classmethod
    def read(cls, file: PathLike, norm: str | None = None) -> ModelCard:
        """Read a card.

        Args:
            file: the JSON file.
            norm: `Linf` or `L2`; by default the name of the file's folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no card; the message says what is missing or what a field should be.
        """
        path = Path(file)
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path} should hold a JSON object, got {type(values).__name__}")
        missing = [key for key in ("dataset", "architecture", "eps", "clean_acc") if key not in values]
        if missing:
            raise ValueError(f"{path} is no model card of RobustBench: it lacks {', '.join(missing)}")
        try:
            return cls._of(path, values, norm)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{path} is no model card of RobustBench: {error}") from error

    @classmethod
    def _of(cls, path: Path, values: dict[str, Any], norm: str | None) -> ModelCard:
        clean = _fraction("clean_acc", values["clean_acc"])
        if clean is None:
            raise ValueError("clean_acc is not known")
        known = {*_KEPT, "eps", "clean_acc", "reported", "autoattack_acc", "footnote"}
        texts = {key: str(values.get(key) or "") for key in ("name", "link", "authors", "venue")}
        return cls(
            identifier=path.stem,
            norm=path.resolve().parent.name if norm is None else norm,
            dataset=str(values["dataset"]),
            architecture=str(values["architecture"]),
            eps=_eps(values["eps"]),
            clean_acc=clean,
            reported=_fraction("reported", values.get("reported")),
            autoattack_acc=_fraction("autoattack_acc", values.get("autoattack_acc")),
            additional_data=bool(values.get("additional_data", False)),
            number_forward_passes=int(values.get("number_forward_passes", 1)),
            footnote=values.get("footnote"),
            other={key: value for key, value in values.items() if key not in known},
            **texts,
        )


def norm_folder(threat: Threat) -> str:
    """`Linf`, `L2`, or `L1` and so on, which RobustBench does not have."""
    return next((name for name, p in NORMS.items() if p == threat.norm), threat.name.upper())


def written_eps(eps: float) -> str:
    """0.0313725... as 8/255, any other number as it stands."""
    levels = round(eps * 255, 6)
    short = f"{eps:.6g}"
    # Few digits are more likely what was meant than a number of grey levels: 0.2 is 51/255, too.
    whole = levels == int(levels) and levels > 0 and not math.isclose(float(short), eps, rel_tol=1e-9)
    return f"{int(levels)}/255" if whole else short


def _eps(value: Any) -> float | None:
    if value is None:
        return None
    eps = float(Fraction(str(value).replace(" ", "")))
    if not eps >= 0:
        raise ValueError(f"eps should be a radius such as 8/255, got {value!r}")
    return eps


def _percent(accuracy: float) -> str:
    return str(round(100 * accuracy, 2))


def _fraction(key: str, value: Any) -> float | None:
    if value in (None, "", "null"):
        return None
    percent = float(value)
    if not 0 <= percent <= 100:
        raise ValueError(f"{key} should be a percentage, got {value!r}")
    return percent / 100
