"""Robust accuracy with intervals, and evidence that others can re-check.

`evaluate` attacks a model and returns an `Evaluation`; `verify` re-checks the evidence it left, with no
attack code.
"""

from __future__ import annotations

from robustreg.evaluation.calibration import Calibration, measure_calibration
from robustreg.evaluation.distances import Distances
from robustreg.evaluation.hashes import data_sha256, model_sha256
from robustreg.evaluation.intervals import Interval, wilson
from robustreg.evaluation.per_class import ClassScore
from robustreg.evaluation.progress import Progress
from robustreg.evaluation.results import AttackResult, CurvePoint, Evaluation, Score
from robustreg.evaluation.runner import EvaluationInterrupted, evaluate
from robustreg.evaluation.verification import Finding, Verification
from robustreg.evaluation.verifier import verify

__all__ = [
    "AttackResult",
    "Calibration",
    "ClassScore",
    "CurvePoint",
    "Distances",
    "Evaluation",
    "EvaluationInterrupted",
    "Finding",
    "Interval",
    "Progress",
    "Score",
    "Verification",
    "data_sha256",
    "evaluate",
    "measure_calibration",
    "model_sha256",
    "verify",
    "wilson",
]
