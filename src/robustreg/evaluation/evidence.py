"""Evidence: the adversarial points and a manifest of what is claimed about them, for `verify` to re-check.

EVIDENCE/points.safetensors holds for each attack NAME

* `NAME.points` `[K, ...]`: the points that fool the model, in the dtype in which they were found,
* `NAME.index` `[K]`: their samples, and `NAME.label` `[K]`: the labels of those,
* with `survivors=True` also `NAME.survivor_points` and `NAME.survivor_index`,

and for each attack NAME whose distances were measured `distance NAME.points`, `.index` and `.label`: the nearest
misclassified points.

EVIDENCE/manifest.json holds versions, the hashes of model, data and points, threat, seed, the attacks, the
outcome of every sample (base64, one bit a sample), counts and accuracies.

What a tensor is follows from what comes after the last dot, so that no two attacks share one, whatever their names.

It proves an upper bound: robust accuracy is at most what is claimed, because the points that say so are
there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import robustreg
from robustreg.evaluation.crafting import INVALID
from robustreg.evaluation.results import Evaluation
from robustreg.evaluation.samples import Samples
from robustreg.evaluation.work import Work, joined, write_tensors_atomic
from robustreg.files import sha256_file, write_json_atomic

FORMAT = 1
MANIFEST = "manifest.json"
POINTS = "points.safetensors"


def write_evidence(
    folder: Path,
    evaluation: Evaluation,
    works: dict[str, Work],
    samples: Samples,
    fingerprint: dict[str, str],
) -> None:
    """Write points and manifest into the folder; `fingerprint` has the hashes "model" and "data"."""
    manifest = folder / MANIFEST
    # A stop between the two files must leave no manifest that speaks of other points.
    manifest.unlink(missing_ok=True)
    tensors: dict[str, Tensor] = {}
    # Points of an attack that broke its threat prove nothing.
    for result in evaluation.attacks:
        if result.status != INVALID:
            tensors.update(_points(result.name, works[result.name], samples))
    for distances in evaluation.distances:
        if distances.problem is None:
            tensors.update(_points(distances.stage, works[distances.stage], samples))
    write_tensors_atomic(folder / POINTS, tensors, {"format": f"robustreg evidence {FORMAT}"})
    write_json_atomic(manifest, _manifest(folder, evaluation, tensors, samples, fingerprint))


def _points(name: str, work: Work, samples: Samples) -> dict[str, Tensor]:
    index, points = joined(work.fooled, samples.x)
    tensors = {
        f"{name}.points": points,
        f"{name}.index": index,
        f"{name}.label": samples.y.cpu()[index],
    }
    if work.survivors:
        kept_index, kept = joined(work.survivors, samples.x)
        tensors[f"{name}.survivor_points"] = kept
        tensors[f"{name}.survivor_index"] = kept_index
    return tensors


def _manifest(
    folder: Path,
    evaluation: Evaluation,
    tensors: dict[str, Tensor],
    samples: Samples,
    fingerprint: dict[str, str],
) -> dict[str, Any]:
    claims = evaluation.to_dict()
    # Not claims about points: curve and calibration come without evidence, classes follow from the outcomes.
    for key in ("format", "complete", "curve", "calibration", "per_class"):
        del claims[key]
    for row in claims["distances"]:
        del row["seconds"]
    for row, result in zip(claims["attacks"], evaluation.attacks, strict=True):
        del row["seconds"]
        row["fooled"] = int(result.fooled.sum())
        row["stored"] = len(tensors.get(f"{result.name}.index", ()))
    return {
        "format": FORMAT,
        "robustreg": robustreg.__version__,
        "torch": torch.__version__,
        "model": {"sha256": fingerprint["model"]},
        "data": {
            "sha256": fingerprint["data"],
            "shape": list(samples.x.shape),
            "dtype": str(samples.x.dtype),
        },
        "points": {"file": POINTS, "sha256": sha256_file(folder / POINTS)},
        **claims,
    }
