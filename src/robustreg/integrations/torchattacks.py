"""Attacks of torchattacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from robustreg.integrations.borrowed import Borrowed, check_options, parameters_of, plain_box, written
from robustreg.threat import Threat


class TorchattacksAttack(Borrowed):
    """An attack of torchattacks, made anew for each model; see `from_torchattacks`."""

    def __init__(self, attack: Callable[..., Any], threat: Threat, options: dict[str, Any]) -> None:
        super().__init__(f"torchattacks.{getattr(attack, '__name__', type(attack).__name__)}", threat)
        if not isinstance(attack, type):
            raise TypeError(
                f"from_torchattacks takes the class and its options, such as (torchattacks.PGD, threat, steps=50), "
                f"got {attack!r}: an attack that is made already holds one model"
            )
        if plain_box(self.name, threat) != (0.0, 1.0):
            raise ValueError(f"torchattacks works in the box [0, 1], but the threat's is {threat.bounds}")
        known = parameters_of(attack)
        if known is not None:
            check_options(self.name, options, known[1:])
            if "eps" in known:
                options = {"eps": threat.eps, **options}
        self.attack, self.options = attack, options

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Make the attack for this model and run it."""
        attack = self.attack(model, **self.options)
        attack.set_device(x.device)  # it guesses from the parameters, of which there may be none
        points: Tensor = attack(x, y)
        return points

    def content_key(self) -> str:
        """The attack's class and options."""
        return f"{self.name}({written(self.options)[2:]}) within {self.threat!r}"


def from_torchattacks(attack: Callable[..., Any], threat: Threat, **options: Any) -> TorchattacksAttack:
    """Return an attack of torchattacks as one that `rr.evaluate` takes.

        from_torchattacks(torchattacks.PGD, threat, steps=50, alpha=0.01)

    `eps` is the threat's unless given. The library's other defaults are its own: PGD's step is 2/255 whatever the
    radius. Its attacks do not say which norm they keep to, so the points alone tell.

    Args:
        attack: the class, not an instance, which would hold a model already.
        threat: norm, radius, and the box [0, 1], which torchattacks always works in.
        options: of the class.

    Raises:
        TypeError: no class, an option that it does not have, or no threat.
        ValueError: another box.
    """
    return TorchattacksAttack(attack, threat, options)
