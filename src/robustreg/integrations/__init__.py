"""Doors to other libraries: their attacks in evaluations of this one, and model cards of RobustBench.

The libraries are optional and imported when an attack runs; nothing here installs or needs them.
"""

from __future__ import annotations

from robustreg.integrations.art import from_art
from robustreg.integrations.borrowed import Borrowed
from robustreg.integrations.exporting import FromUnitInterval, Network, export_model, load_exported
from robustreg.integrations.foolbox import from_foolbox
from robustreg.integrations.robustbench import ModelCard
from robustreg.integrations.torchattacks import from_torchattacks

__all__ = [
    "Borrowed",
    "FromUnitInterval",
    "ModelCard",
    "Network",
    "export_model",
    "from_art",
    "from_foolbox",
    "from_torchattacks",
    "load_exported",
]
