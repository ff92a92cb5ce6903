"""Points that search: attacks."""

from robustreg.attacks.largest_gradient import LargestGradient
from robustreg.attacks.pgd import PGD
from robustreg.attacks.virtual import Virtual

__all__ = ["PGD", "LargestGradient", "Virtual"]
