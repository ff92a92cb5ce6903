"""Points that search: attacks."""

from robustreg.attacks.adaptive import LpFGSM, LpNoise
from robustreg.attacks.adaptive_step import SoraStep
from robustreg.attacks.apgd import APGD, APGDT
from robustreg.attacks.carlini_wagner import CarliniWagner
from robustreg.attacks.class_start import ClassStart
from robustreg.attacks.deepfool import DeepFool
from robustreg.attacks.ensemble import StandardEnsemble
from robustreg.attacks.fab import FAB
from robustreg.attacks.gama import GAMA
from robustreg.attacks.guided import Guided
from robustreg.attacks.largest_gradient import LargestGradient
from robustreg.attacks.linearity import Between, LeastLinear, ThroughClamp
from robustreg.attacks.minimal import MinimalNorm
from robustreg.attacks.momentum import MIFGSM
from robustreg.attacks.multi_targeted import MultiTargeted
from robustreg.attacks.pgd import PGD
from robustreg.attacks.prior import PriorStart, PriorStep
from robustreg.attacks.single_step import IFGSM, N_FGSM, R_FGSM, RS_FGSM, MultiGrad, Rademacher, ZeroGrad
from robustreg.attacks.square import Square
from robustreg.attacks.stack import Stack, stacked_logits
from robustreg.attacks.staged import Grown, Staged
from robustreg.attacks.virtual import Virtual

__all__ = [
    "APGD",
    "APGDT",
    "FAB",
    "GAMA",
    "IFGSM",
    "MIFGSM",
    "N_FGSM",
    "PGD",
    "RS_FGSM",
    "R_FGSM",
    "Between",
    "CarliniWagner",
    "ClassStart",
    "DeepFool",
    "Grown",
    "Guided",
    "LargestGradient",
    "LeastLinear",
    "LpFGSM",
    "LpNoise",
    "MinimalNorm",
    "MultiGrad",
    "MultiTargeted",
    "PriorStart",
    "PriorStep",
    "Rademacher",
    "SoraStep",
    "Square",
    "Stack",
    "Staged",
    "StandardEnsemble",
    "ThroughClamp",
    "Virtual",
    "ZeroGrad",
    "stacked_logits",
]
