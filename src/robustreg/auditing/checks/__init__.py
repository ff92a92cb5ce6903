"""The checks, one file a family; importing this registers them in the order in which they run, the summary last."""

from __future__ import annotations

from robustreg.auditing.checks import (
    bent,
    blackbox,
    calls,
    geometry,
    gradients,
    memory,
    outputs,
    paths,
    strength,
    summary,
)

__all__ = [
    "bent",
    "blackbox",
    "calls",
    "geometry",
    "gradients",
    "memory",
    "outputs",
    "paths",
    "strength",
    "summary",
]
