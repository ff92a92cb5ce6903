"""Attacks of foolbox 3."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from robustreg.integrations.borrowed import Borrowed, library, plain_box
from robustreg.threat import Threat


class FoolboxAttack(Borrowed):
    """An attack of foolbox at the threat's radius; see `from_foolbox`."""

    def __init__(self, attack: Any, threat: Threat) -> None:
        super().__init__(f"foolbox.{type(attack).__name__}", threat)
        if isinstance(attack, type) or not callable(attack):
            raise TypeError(
                f"from_foolbox takes an attack such as foolbox.attacks.LinfPGD(steps=50), got {attack!r}"
            )
        norm = getattr(getattr(attack, "distance", None), "p", threat.norm)
        if norm != threat.norm:
            own = Threat(norm, threat.eps).name
            raise ValueError(f"{self.name} keeps to an {own} ball, but the threat is {threat.name}")
        self.attack, self._box = attack, plain_box(self.name, threat)

    def with_threat(self, threat: Threat) -> FoolboxAttack:
        """The same attack at another radius, for curves over eps."""
        return FoolboxAttack(self.attack, threat)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Run it on the model in foolbox's wrapper."""
        wrapped = library("foolbox", "foolbox").PyTorchModel(model, bounds=self._box, device=x.device)
        # Of the raw points, the clipped points and the success, the second are those within eps.
        clipped: Tensor = self.attack(wrapped, x, y, epsilons=self.threat.eps)[1]
        return clipped

    def content_key(self) -> str:
        """The attack with its options, as foolbox writes them."""
        return f"foolbox {self.attack!r} within {self.threat!r}"


def from_foolbox(attack: Any, threat: Threat) -> FoolboxAttack:
    """Return an attack of foolbox as one that `rr.evaluate` takes.

        from_foolbox(foolbox.attacks.LinfPGD(steps=50), threat)

    Radius and box are the threat's; where the attack says which norm it keeps to, the threat's must be the same. Of an
    attack that looks for small perturbations, those within the radius are kept.

    Args:
        attack: an attack of foolbox 3, made with its options.
        threat: norm, radius, and a box of two numbers.

    Raises:
        TypeError: `attack` is no attack, or `threat` no threat.
        ValueError: norms that differ, or a box foolbox does not know.
    """
    return FoolboxAttack(attack, threat)
