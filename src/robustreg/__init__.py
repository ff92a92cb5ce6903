"""robustreg: adversarially robust classifiers trained through regularisation.

>>> import robustreg as rr
>>> threat = rr.Threat("linf", eps=8 / 255)
>>> objective = rr.CrossEntropy() + 0.1 * rr.GradientNorm(threat)

``objective(model, x, y)`` is the loss for any PyTorch loop. Training, data, evaluation and reports live in
``robustreg.training``, ``robustreg.data``, ``robustreg.evaluation`` and ``robustreg.report``, which are imported only
when asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustreg import losses, methods, numerics, penalties
from robustreg.attacks import PGD
from robustreg.losses import SmoothedCrossEntropy
from robustreg.module import ObjectiveModule
from robustreg.objective import Detailed, Objective
from robustreg.penalties import GradientNorm, Perturbed
from robustreg.plan import Plan
from robustreg.points import FGSM, Along, Clean, Gaussian, Point, Steepest, Uniform
from robustreg.probe import Probe
from robustreg.registry import register
from robustreg.schedules import Cosine, Ramp
from robustreg.terms import CrossEntropy, LossAt, Term, Vulnerability, Weighted, weighted
from robustreg.threat import Threat

if TYPE_CHECKING:
    from robustreg.evaluation import evaluate

__version__ = "0.1.0.dev0"

__all__ = [
    "FGSM",
    "PGD",
    "Along",
    "Clean",
    "Cosine",
    "CrossEntropy",
    "Detailed",
    "Gaussian",
    "GradientNorm",
    "LossAt",
    "Objective",
    "ObjectiveModule",
    "Perturbed",
    "Plan",
    "Point",
    "Probe",
    "Ramp",
    "SmoothedCrossEntropy",
    "Steepest",
    "Term",
    "Threat",
    "Uniform",
    "Vulnerability",
    "Weighted",
    "evaluate",
    "losses",
    "methods",
    "numerics",
    "penalties",
    "register",
    "weighted",
]

_LATER = {"evaluate": "robustreg.evaluation"}


def __getattr__(name: str) -> Any:
    """Load what is heavier than torch only when it is asked for."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'robustreg' has no attribute {name!r}")
