"""The claims, one file a source; those about the four functionals of Guo et al. 2020 one file an idea."""

from robustreg.connections.claim import Claim
from robustreg.connections.claims import (
    arow,
    baselines,
    bounds,
    energy,
    identities,
    segments,
    single_step,
    two_classes,
)

CLAIMS: tuple[Claim, ...] = (
    *identities.CLAIMS,
    *segments.CLAIMS,
    *bounds.CLAIMS,
    *two_classes.CLAIMS,
    *energy.CLAIMS,
    *arow.CLAIMS,
    *single_step.CLAIMS,
    *baselines.CLAIMS,
)
