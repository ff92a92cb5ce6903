"""The claims, one file a source; those about the four functionals of Guo et al. 2020 one file an idea."""

from robustreg.connections.claim import Claim
from robustreg.connections.claims import (
    arow,
    baselines,
    bounds,
    energy,
    energy_ball,
    energy_shapes,
    identities,
    region_bounds,
    segments,
    single_step,
    two_classes,
)

CLAIMS: tuple[Claim, ...] = (
    *identities.CLAIMS,
    *segments.CLAIMS,
    *bounds.CLAIMS,
    *region_bounds.CLAIMS,
    *two_classes.CLAIMS,
    *energy.CLAIMS,
    *energy_ball.CLAIMS,
    *energy_shapes.CLAIMS,
    *arow.CLAIMS,
    *single_step.CLAIMS,
    *baselines.CLAIMS,
)
