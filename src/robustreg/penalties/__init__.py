"""Penalties on how the network behaves around each sample, one family a file."""

from robustreg.penalties.abnormal import AbnormalExamples
from robustreg.penalties.alignment import PertAlign, SoraLoss
from robustreg.penalties.boosted import BoostedCrossEntropy
from robustreg.penalties.class_gap import ClassWeightedGap
from robustreg.penalties.consistency import Confidence, Consistency
from robustreg.penalties.cross_lipschitz import AnchoredCrossLipschitz, CrossLipschitz, FisherTrace
from robustreg.penalties.curvature import Curvature
from robustreg.penalties.edges import EdgeAlignment
from robustreg.penalties.energy import Energies, Energy, energies
from robustreg.penalties.geometry import Geometry
from robustreg.penalties.gradient import AdaptiveGradientNorm, GradientNorm, Perturbed
from robustreg.penalties.jacobian import JacobianNorm
from robustreg.penalties.linearity import ELLE, AdaptiveELLE, FirstOrderChange, GradAlign, LinearityGap
from robustreg.penalties.single_step import JointLoss, SatR1, SatR2, SatR3
from robustreg.penalties.targets import PseudoLabelled, Rectified
from robustreg.penalties.teacher import AdaptiveWeight, Distillation, TeacherCrossEntropy
from robustreg.penalties.weight_average import WeightAverage

__all__ = [
    "ELLE",
    "AbnormalExamples",
    "AdaptiveELLE",
    "AdaptiveGradientNorm",
    "AdaptiveWeight",
    "AnchoredCrossLipschitz",
    "BoostedCrossEntropy",
    "ClassWeightedGap",
    "Confidence",
    "Consistency",
    "CrossLipschitz",
    "Curvature",
    "Distillation",
    "EdgeAlignment",
    "Energies",
    "Energy",
    "FirstOrderChange",
    "FisherTrace",
    "Geometry",
    "GradAlign",
    "GradientNorm",
    "JacobianNorm",
    "JointLoss",
    "LinearityGap",
    "PertAlign",
    "Perturbed",
    "PseudoLabelled",
    "Rectified",
    "SatR1",
    "SatR2",
    "SatR3",
    "SoraLoss",
    "TeacherCrossEntropy",
    "WeightAverage",
    "energies",
]
