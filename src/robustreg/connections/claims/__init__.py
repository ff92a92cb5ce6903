"""The claims, one file a source."""

from robustreg.connections.claim import Claim
from robustreg.connections.claims import arow, baselines, connections, energy, single_step

CLAIMS: tuple[Claim, ...] = (
    *connections.CLAIMS,
    *energy.CLAIMS,
    *arow.CLAIMS,
    *single_step.CLAIMS,
    *baselines.CLAIMS,
)
