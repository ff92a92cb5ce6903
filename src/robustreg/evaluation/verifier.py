"""Re-checking an evaluation from its evidence, point by point and with no attack code.

What can be checked is that every sample counted as fooled has a point inside the threat that the model gets
wrong, and that all accuracies follow. What cannot: that a stronger attack would not fool more samples.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robustreg.evaluation.claims import Accuracy, AttackClaim, Claims, read_claims
from robustreg.evaluation.crafting import INVALID
from robustreg.evaluation.distances import Distances
from robustreg.evaluation.evidence import MANIFEST, POINTS
from robustreg.evaluation.hashes import data_sha256, model_sha256
from robustreg.evaluation.packing import fractions
from robustreg.evaluation.per_class import class_scores
from robustreg.evaluation.point_checks import Predictor, check_inside, check_predictions, stored_points
from robustreg.evaluation.predict import Snapshot, as_found, correct, device_for, logits_of
from robustreg.evaluation.results import FILE
from robustreg.evaluation.samples import Samples, gather
from robustreg.evaluation.steadiness import unsteady
from robustreg.evaluation.verification import Verification
from robustreg.files import PathLike, read_json, sha256_file
from robustreg.streams import global_seed


def verify(
    evidence_dir: PathLike,
    model: nn.Module,
    data: Any,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    noise: float | None = None,
) -> Verification:
    """Re-check the evidence that `evaluate` wrote against the model and the data it is about.

    Checks the hashes of model, data and points; that every stored point is finite, inside ball and box, of
    the right sample and label, and misclassified; that exactly the samples recorded as fooled have a point;
    that the clean outcomes are the model's; that worst case and accuracies follow from the outcomes; and that
    an evaluation.json in the folder above says the same, of the classes too. Where distances were measured, every one
    must be that of a stored misclassified point. A prediction that hangs on a gap between two logits
    below floating-point noise between machines fails nothing; such predictions are counted as undecided.

    Args:
        evidence_dir: the folder with manifest.json and points.safetensors.
        model: the model, `[B, ...]` to logits `[B, C]`; left as found.
        data: the samples in any form that `evaluate` takes.
        batch_size: points per call of the model.
        device: where to run; the model's own device by default.
        noise: the gap that counts as noise, as a fraction of the mean size of the largest clean logit; by default
            1e-4 for float32 logits, 1e-10 for float64, 3e-2 for half precision.

    Returns:
        A `Verification`, true when everything holds. Damaged, cut or missing files are findings in it.

    Raises:
        TypeError, ValueError: when model or data themselves make no sense.
    """
    folder = Path(evidence_dir)
    found = Verification()
    where = device_for(model, device)
    samples = gather(data).as_model_takes(model)
    try:
        claims = read_claims(folder)
    except (OSError, ValueError) as error:
        found.fail("files", str(error))
        return found
    _check_hashes(found, claims, model, samples)
    if len(samples) != claims.n:
        found.fail("hashes", f"the evidence is about {claims.n} samples, the data have {len(samples)}")
        return found
    tensors = _read_points(found, folder / POINTS, claims)

    def predict(x: Tensor) -> Tensor:
        return torch.cat([logits_of(model, part.to(where)).cpu() for part in torch.split(x, batch_size)])

    predictor = Predictor(predict, noise)
    with as_found(model, where), global_seed(where, 0), ExitStack() as afterwards:
        afterwards.callback(Snapshot(model).undo)
        clean = _check_clean(found, claims, samples, predictor)
        _check_outcomes(found, claims)
        for claim in claims.attacks:
            if claim.status == INVALID:
                found.notes.append(
                    f"{claim.name} was invalid when it ran: it has no points and counts nowhere."
                )
            elif tensors is not None:
                _check_points(found, claim, tensors, samples, predictor)
        for distances in claims.distances:
            if distances.problem is not None:
                found.notes.append(f"The distances of {distances.name} prove nothing: {distances.problem}.")
            elif tensors is not None:
                _check_distances(found, distances, claims, tensors, samples, predictor)
        first = samples.x[:batch_size].to(where)
        if why := unsteady(model, first, clean[:batch_size]):
            found.notes.append(
                f"Here {why}: a point that fooled it once need not do so again, and none is proof."
            )
    _check_summary(found, claims, samples, folder.parent / FILE)
    if found.undecided:
        found.notes.append(
            f"{found.undecided} predictions have two logits closer than floating-point noise between "
            "machines: they are neither confirmed nor refuted."
        )
    found.notes.append("Verified is an upper bound of the robust accuracy: a stronger attack may lower it.")
    return found


def _check_hashes(found: Verification, claims: Claims, model: nn.Module, samples: Samples) -> None:
    if model_sha256(model) != claims.hashes["model"]:
        found.fail("hashes", "the model's weights are not those that were evaluated (other sha256)")
    if data_sha256(samples) != claims.hashes["data"]:
        found.fail("hashes", "the data are not those that were evaluated (other sha256)")


def _read_points(found: Verification, file: Path, claims: Claims) -> dict[str, Tensor] | None:
    if not file.is_file():
        found.fail("files", f"{file} is missing: no point can be checked")
        return None
    if sha256_file(file) != claims.hashes["points"]:
        found.fail("files", f"{file} was changed after it was written (other sha256)")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        found.fail("files", f"{file} cannot be read, it is damaged or cut short: {error}")
        return None


def _check_clean(found: Verification, claims: Claims, samples: Samples, model: Predictor) -> Tensor:
    """The clean logits `[N, C]`, held against what is recorded."""
    logits, y = model.logits(samples.x), samples.y.cpu()
    model.learn_gap(logits)
    differ = correct(logits, y) != claims.clean.outcomes
    undecided = differ & model.too_close(logits, y)
    found.undecided += int(undecided.sum())
    found.fail_where(differ & ~undecided, "clean", "is not classified as recorded without any attack")
    _check_accuracy(found, claims.clean, claims.clean.outcomes, "the clean accuracy", None)
    return logits


def _check_outcomes(found: Verification, claims: Claims) -> None:
    for claim, standing in claims.in_order():
        if claim is None:
            continue
        name, outcomes = claim.name, claim.score.outcomes
        expected = standing if claims.sequential else claims.clean.outcomes
        what = "is recorded as attacked though it was wrong before, or was left out"
        found.fail_where(claim.attacked != expected, "outcomes", what, name)
        found.fail_where(outcomes & ~claim.attacked, "outcomes", "counts as right but was not attacked", name)
        _check_accuracy(found, claim.score, outcomes, "the accuracy", name)
        fooled = int((claim.attacked & ~outcomes).sum())
        if claim.fooled != fooled:
            found.fail(
                "outcomes", f"{claim.fooled} fooled samples are recorded, the outcomes say {fooled}", name
            )
    expected_worst = claims.worst_case_outcomes()
    if (claims.worst_case is None) != (expected_worst is None):
        found.fail("accuracy", "there is a worst case without an attack that counts, or none with one")
    elif claims.worst_case is not None and expected_worst is not None:
        differ = claims.worst_case.outcomes != expected_worst
        found.fail_where(differ, "outcomes", "has another outcome in the worst case than the attacks give it")
        _check_accuracy(found, claims.worst_case, expected_worst, "the worst case", None)


def _check_accuracy(
    found: Verification, recorded: Accuracy, outcomes: Tensor, what: str, attack: str | None
) -> None:
    right = int(outcomes.sum())
    for key, value in {"correct": right, **fractions(right, len(outcomes))}.items():
        # Another machine's sqrt may round the interval otherwise; a changed digit is far above 1e-9.
        if not math.isclose(recorded.numbers[key], value, rel_tol=0.0, abs_tol=1e-9):
            got = recorded.numbers[key]
            found.fail("accuracy", f"{what} has {key} {got:.6g}, but its outcomes give {value:.6g}", attack)
            return


def _check_points(
    found: Verification, claim: AttackClaim, tensors: dict[str, Tensor], samples: Samples, model: Predictor
) -> None:
    name, fooled = claim.name, claim.attacked & ~claim.score.outcomes
    stored = stored_points(found, tensors, name, samples, ("points", "index", "label"))
    if stored is None:
        return
    points, index, label = stored
    has_point = torch.zeros(len(samples), dtype=torch.bool)
    has_point[index] = True
    found.fail_where(fooled & ~has_point, "points", "is recorded as fooled but has no point", name)
    found.fail_where(has_point & ~fooled, "points", "has a point but is not recorded as fooled", name)
    found.fail_where(
        label != samples.y.cpu()[index], "points", "has another label than in the data", name, index
    )
    check_inside(found, name, claim.threat, points, index, samples)
    check_predictions(found, name, points, index, samples, model, fooled=True)
    found.points_checked += len(index)
    if f"{name}.survivor_points" in tensors:
        kept = stored_points(found, tensors, name, samples, ("survivor_points", "survivor_index"))
        if kept is not None:
            check_inside(found, name, claim.threat, kept[0], kept[1], samples)
            check_predictions(found, name, kept[0], kept[1], samples, model, fooled=False)


def _check_distances(
    found: Verification,
    claim: Distances,
    claims: Claims,
    tensors: dict[str, Tensor],
    samples: Samples,
    model: Predictor,
) -> None:
    """Check that every finite distance is that of a misclassified point, and that quantiles follow."""
    name = claim.stage
    stored = stored_points(found, tensors, name, samples, ("points", "index", "label"))
    if stored is None:
        return
    points, index, label = stored
    y, x = samples.y.cpu()[index], samples.x.cpu()[index]
    found.fail_where(label != y, "points", "has another label than in the data", name, index)
    check_inside(found, name, claim.threat, points, index, samples)
    check_predictions(found, name, points, index, samples, model, fooled=True)
    found.points_checked += len(index)
    measured = torch.zeros(len(samples), dtype=torch.float64)
    measured[claims.clean.outcomes] = math.inf
    measured[index] = claim.threat.length(points.double() - x.double())
    recorded = torch.full_like(measured, math.nan)
    recorded[claim.chosen] = claim.values
    # Seven digits are recorded; an infinite distance equals itself.
    same = (measured == recorded) | ((measured - recorded).abs() <= 1e-6 * recorded + 1e-12)
    what = "is recorded at another distance than its point is at"
    found.fail_where(claim.chosen & ~same, "distances", what, name)
    row = next(row for row in claims.manifest["distances"] if row["name"] == claim.name)
    follows = claim.to_dict()
    differ = [key for key in ("n", "found", "median", "low", "high", "quantiles") if row[key] != follows[key]]
    if differ:
        found.fail("distances", f"{', '.join(differ)} do not follow from the distances", name)


def _check_summary(found: Verification, claims: Claims, samples: Samples, file: Path) -> None:
    """Check that the evaluation.json above the evidence, which is what people read, says the same."""
    if not file.is_file():
        return
    manifest = claims.manifest
    try:
        values = read_json(file)
        rows = {row["name"]: row for row in values["attacks"]}
        recorded = {row["name"]: row for row in manifest["attacks"]}
        differ = [key for key in ("n", "seed", "threat", "sequential") if values[key] != manifest[key]]
        differ += [key for key in ("clean", "worst_case") if values[key] != manifest[key]]
        differ += [name for name, row in recorded.items() if not _agree(rows.get(name), row)]
        if rows.keys() != recorded.keys():
            differ.append("the list of attacks")
        measured = [{k: v for k, v in row.items() if k != "seconds"} for row in values.get("distances", ())]
        if measured != manifest.get("distances", []):
            differ.append("distances")
        scores = class_scores(samples.y.cpu(), claims.clean.outcomes, claims.worst_case_outcomes())
        if values.get("per_class") not in (None, [score.to_dict() for score in scores]):
            differ.append("per_class")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found.fail("summary", f"{file} is damaged: {type(error).__name__} {error}")
        return
    if differ:
        found.fail("summary", f"{file} and {MANIFEST} disagree on: {', '.join(differ)}")


def _agree(summary: dict[str, Any] | None, recorded: dict[str, Any]) -> bool:
    """Compare two rows of an attack in what both have."""
    if summary is None:
        return False
    return all(summary[key] == value for key, value in recorded.items() if key not in ("fooled", "stored"))
