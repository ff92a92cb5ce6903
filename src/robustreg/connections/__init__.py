"""The theory executed: claims about regularisers, checked on a network of yours, with conditions that are measured.

from robustreg.connections import Case, CLAIMS

case = Case(model, x, y, radius=1e-2)
for claim in CLAIMS:
    print(claim.key, claim.residual(case).verdict)
"""

from robustreg.connections.case import Case
from robustreg.connections.certificates import Sandwich, distance_bounds
from robustreg.connections.claim import Claim, Condition, Residual
from robustreg.connections.claims import CLAIMS
from robustreg.connections.regions import border_distance, fitting_radius, telling_residual

__all__ = [
    "CLAIMS",
    "Case",
    "Claim",
    "Condition",
    "Residual",
    "Sandwich",
    "border_distance",
    "distance_bounds",
    "fitting_radius",
    "telling_residual",
]
