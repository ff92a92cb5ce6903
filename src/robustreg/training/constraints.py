"""Hard constraints on the weights, such as the largest column norm of maxout networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class Constraints(Handler):
    """Calls `net.constrain_()` after every update where the network has it."""

    order: ClassVar[int] = 10

    @torch.no_grad()
    def updated(self, trainer: Trainer) -> None:
        """Put the weights back into their set."""
        constrain = getattr(trainer.module.net, "constrain_", None)
        if constrain is not None:
            constrain()
