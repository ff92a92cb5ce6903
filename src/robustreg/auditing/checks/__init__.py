"""The checks, one file a family; importing this registers them in the order in which they run, the summary last."""

from __future__ import annotations

from robustreg.auditing.checks import blackbox, calls, geometry, gradients, outputs, strength, summary

__all__ = ["blackbox", "calls", "geometry", "gradients", "outputs", "strength", "summary"]
