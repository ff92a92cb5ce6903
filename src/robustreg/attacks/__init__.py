"""Points that search: attacks."""

from robustreg.attacks.guided import Guided
from robustreg.attacks.largest_gradient import LargestGradient
from robustreg.attacks.linearity import Between, LeastLinear
from robustreg.attacks.pgd import PGD
from robustreg.attacks.single_step import IFGSM, N_FGSM, R_FGSM, RS_FGSM, MultiGrad, Rademacher, ZeroGrad
from robustreg.attacks.stack import Stack, stacked_logits
from robustreg.attacks.virtual import Virtual

__all__ = [
    "IFGSM",
    "N_FGSM",
    "PGD",
    "RS_FGSM",
    "R_FGSM",
    "Between",
    "Guided",
    "LargestGradient",
    "LeastLinear",
    "MultiGrad",
    "Rademacher",
    "Stack",
    "Virtual",
    "ZeroGrad",
    "stacked_logits",
]
