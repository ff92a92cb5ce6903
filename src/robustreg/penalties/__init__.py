"""Penalties on how the network behaves around each sample, one family a file."""

from robustreg.penalties.gradient import GradientNorm, Perturbed

__all__ = ["GradientNorm", "Perturbed"]
