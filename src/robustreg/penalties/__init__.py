"""Penalties on how the network behaves around each sample, one family a file."""

from robustreg.penalties.boosted import BoostedCrossEntropy
from robustreg.penalties.class_gap import ClassWeightedGap
from robustreg.penalties.consistency import Confidence, Consistency
from robustreg.penalties.cross_lipschitz import AnchoredCrossLipschitz, CrossLipschitz, FisherTrace
from robustreg.penalties.curvature import Curvature
from robustreg.penalties.edges import EdgeAlignment
from robustreg.penalties.energy import Energies, Energy, energies
from robustreg.penalties.gradient import GradientNorm, Perturbed
from robustreg.penalties.jacobian import JacobianNorm
from robustreg.penalties.linearity import ELLE, AdaptiveELLE, FirstOrderChange, GradAlign, LinearityGap
from robustreg.penalties.single_step import JointLoss, SatR1, SatR2, SatR3
from robustreg.penalties.teacher import TeacherCrossEntropy

__all__ = [
    "ELLE",
    "AdaptiveELLE",
    "AnchoredCrossLipschitz",
    "BoostedCrossEntropy",
    "ClassWeightedGap",
    "Confidence",
    "Consistency",
    "CrossLipschitz",
    "Curvature",
    "EdgeAlignment",
    "Energies",
    "Energy",
    "FirstOrderChange",
    "FisherTrace",
    "GradAlign",
    "GradientNorm",
    "JacobianNorm",
    "JointLoss",
    "LinearityGap",
    "Perturbed",
    "SatR1",
    "SatR2",
    "SatR3",
    "TeacherCrossEntropy",
    "energies",
]
