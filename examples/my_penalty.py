"""A penalty of your own, outside the package: logit squeezing (Kannan, Kurakin & Goodfellow 2018).

Small logits keep a network from being confident about points it has never seen. The decorator makes the class
usable in recipes as `term: logit_squeezing`:

    robustreg train examples/my_recipe.yaml
    robustreg compare plain examples/my_recipe.yaml --seeds 3
    robustreg train plain 'objective.terms=[cross_entropy, logit_squeezing]' --import examples/my_penalty.py
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import robustreg as rr

CLEAN = rr.Clean()


@rr.register("term")
@dataclass(frozen=True)
class LogitSqueezing(rr.Term):
    """Mean squared logit per sample, at any point: `LogitSqueezing(at=rr.Uniform(threat))`."""

    at: rr.Point = CLEAN

    def __call__(self, probe: rr.Probe) -> Tensor:
        """Values `[B]`; the probe shares the forward with every other term that looks at this point."""
        return probe.logits(self.at).square().mean(dim=1)
