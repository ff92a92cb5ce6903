"""Points that search: attacks."""

from robustreg.attacks.pgd import PGD

__all__ = ["PGD"]
