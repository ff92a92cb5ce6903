"""Evasion attacks of the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.integrations.borrowed import Borrowed, check_options, library, plain_box, written
from robustreg.threat import Threat

_PACKAGE = "adversarial-robustness-toolbox"


class ArtAttack(Borrowed):
    """An attack of ART, made anew for each model; see `from_art`."""

    def __init__(self, attack: Any, threat: Threat, options: dict[str, Any]) -> None:
        super().__init__(f"art.{getattr(attack, '__name__', type(attack).__name__)}", threat)
        known = list(getattr(attack, "attack_params", ()))
        if not isinstance(attack, type) or not hasattr(attack, "generate"):
            raise TypeError(
                f"from_art takes the class of an evasion attack and its options, such as "
                f"(ProjectedGradientDescent, threat, max_iter=50), got {attack!r}"
            )
        check_options(self.name, options, known)
        if options.get("targeted"):
            raise ValueError(
                f"{self.name}: targeted=True takes the labels for targets; here they are the truth"
            )
        self._box = plain_box(self.name, threat)
        norm = (
            math.inf if threat.norm == math.inf else int(threat.norm) if threat.norm % 1 == 0 else threat.norm
        )
        supplied = {"eps": threat.eps, "norm": norm, "targeted": False, "verbose": False}
        self.attack = attack
        self.options = {**{key: value for key, value in supplied.items() if key in known}, **options}
        self._takes_batch_size = "batch_size" in known and "batch_size" not in options

    def craft(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Wrap the model as ART's classifier, make the attack for it, and run it."""
        if x.dtype != torch.float32:
            raise TypeError(
                f"{self.name} computes in float32, but the inputs are {x.dtype}: use model.float()"
            )
        estimators = library("art.estimators.classification", _PACKAGE)
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        classifier = estimators.PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=self._box,
            device_type="gpu" if x.device.type == "cuda" else "cpu",
        )
        batch = {"batch_size": len(x)} if self._takes_batch_size else {}
        attack = self.attack(classifier, **self.options, **batch)
        labels = (
            nn.functional.one_hot(y, classes).float().cpu().numpy()
        )  # with two classes, numbers mean another thing
        points = attack.generate(x=x.cpu().numpy(), y=labels)
        return torch.as_tensor(points, dtype=x.dtype, device=x.device)

    def content_key(self) -> str:
        """The attack's class and options."""
        return f"{self.name}({written(self.options)[2:]}) within {self.threat!r}"


def from_art(attack: Any, threat: Threat, **options: Any) -> ArtAttack:
    """Return an evasion attack of ART as one that `rr.evaluate` takes.

        from_art(art.attacks.evasion.ProjectedGradientDescent, threat, max_iter=50, eps_step=0.01)

    `eps` and `norm` are the threat's where the attack has such options and they are not given; it is untargeted and
    draws no progress bars. ART works on NumPy arrays in float32.

    Args:
        attack: the class of an attack whose estimator is a classifier.
        threat: norm, radius, and a box of two numbers.
        options: of the class.

    Raises:
        TypeError: no class, an option that it does not have, or no threat.
        ValueError: a targeted attack, or a box ART does not know.
    """
    return ArtAttack(attack, threat, options)
