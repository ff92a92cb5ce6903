"""robustreg: adversarially robust classifiers trained through regularisation.

>>> import robustreg as rr
>>> threat = rr.Threat("linf", eps=8 / 255)
>>> objective = rr.CrossEntropy() + 0.1 * rr.GradientNorm(threat)

``objective(model, x, y)`` is the loss for any PyTorch loop. Training, data, networks and reports live in
``robustreg.training``, ``robustreg.data``, ``robustreg.models`` and ``robustreg.report``, which are imported only when
asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustreg._api import *  # noqa: F403
    from robustreg.auditing import audit as audit
    from robustreg.evaluation import evaluate as evaluate

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    """Load the public names when the first of them is used: ``robustreg --help`` must not wait for torch."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'robustreg' has no attribute {name!r}")
    if name == "evaluate":  # a room of its own, which the core does not load
        return importlib.import_module("robustreg.evaluation").evaluate
    if name == "audit":
        return importlib.import_module("robustreg.auditing").audit
    # "from robustreg import numerics" inside the package asks here first, while the public names are still being loaded
    if importlib.util.find_spec(f"robustreg.{name}") is not None:
        return importlib.import_module(f"robustreg.{name}")
    api = importlib.import_module("robustreg._api")
    if name == "__all__":
        return [*api.__all__, "audit", "evaluate"]
    if name not in api.__all__:
        raise AttributeError(f"module 'robustreg' has no attribute {name!r}")
    globals().update({public: getattr(api, public) for public in api.__all__})
    return globals()[name]


def __dir__() -> list[str]:
    return [*importlib.import_module("robustreg._api").__all__, "audit", "evaluate", "__version__"]
