"""Penalties on how the network behaves around each sample, one family a file."""

from robustreg.penalties.cross_lipschitz import AnchoredCrossLipschitz, CrossLipschitz, FisherTrace
from robustreg.penalties.curvature import Curvature
from robustreg.penalties.energy import Energies, Energy, energies
from robustreg.penalties.gradient import GradientNorm, Perturbed
from robustreg.penalties.jacobian import JacobianNorm

__all__ = [
    "AnchoredCrossLipschitz",
    "CrossLipschitz",
    "Curvature",
    "Energies",
    "Energy",
    "FisherTrace",
    "GradientNorm",
    "JacobianNorm",
    "Perturbed",
    "energies",
]
