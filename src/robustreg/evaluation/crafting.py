"""Attacks as an evaluation takes them: named, compared with the threat, called, their points checked."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.points import Found, Point, Steepest, draw_per_sample
from robustreg.streams import content_key, derive_seed, global_seed
from robustreg.threat import Threat

Attack = Callable[..., Tensor]

COUNTED = "counted"  # lies in the evaluation's threat: enters the worst case
NO_THREAT = "no threat"  # noise and other points that claim no ball: reported only
OTHER = "other threat"  # may leave the evaluation's threat: held to its own, reported only
INVALID = "invalid"  # broke the threat it claims: reported only

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def named(attacks: Mapping[str, Attack] | Iterable[Attack] | Attack) -> dict[str, Attack]:
    """Return the attacks by name; names of a sequence derive from class or function, with -2, -3 for repeats.

    Raises:
        TypeError: when something in it cannot be called.
        ValueError: for a name that is empty or not printable.
    """
    given: Any = attacks  # whatever it is said to be
    if isinstance(attacks, Mapping):
        result = dict(attacks)
    elif callable(attacks):
        result = {_name(attacks): attacks}
    elif isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(
            f"the attacks must be one attack, a sequence of them or a mapping from names, got {given!r}"
        )
    else:
        result = {}
        for attack in attacks:
            base = name = _name(attack)
            count = 1
            while name in result:
                count += 1
                name = f"{base}-{count}"
            result[name] = attack
    for name, attack in result.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"every attack needs a name, got {name!r}")
        if not name.isprintable():  # it would break tables, and half a surrogate pair the evidence
            raise ValueError(f"an attack's name must be printable text on one line, got {name!r}")
        if not callable(attack) or isinstance(attack, type):
            raise TypeError(f"attack {name!r} must be callable as (model, x, y) -> x_adv, got {attack!r}")
    return result


def describe(attack: Attack) -> str:
    """Return a text that names the attack and its options, the same in every process."""
    if inspect.isroutine(attack):
        return f"{attack.__module__}.{attack.__qualname__}"
    return _ADDRESS.sub("", repr(attack))


def content(attack: Attack) -> str | None:
    """Return a text that is equal only for equal attacks, None where nothing tells them apart for sure.

    A function is known by its name only, and may do something else tomorrow; so may one inside a point.
    """
    known = isinstance(attack, Point) or callable(getattr(attack, "content_key", None))
    if known and _ADDRESS.search(repr(attack)) is None:
        return content_key(attack)
    return None


def role(attack: Attack, threat: Threat, x: Tensor) -> str:
    """Return COUNTED, NO_THREAT or OTHER for an attack in an evaluation under `threat`, inputs x `[N, ...]`.

    A function without a `threat` attribute claims to stay in the evaluation's threat and is held to it.
    """
    own = own_threat(attack)
    if own is not None:
        return COUNTED if lies_within(own, threat, x[0].numel()) else OTHER
    says_none = getattr(attack, "threat", threat) is None
    return NO_THREAT if says_none or isinstance(attack, Point) else COUNTED


def lies_within(inner: Threat, outer: Threat, features: int) -> bool:
    """Tell whether the ball of `inner` is inside that of `outer` in a space of `features` dimensions.

    For p <= q, ||d||_q <= ||d||_p; for p > q, ||d||_q <= D^(1/q - 1/p) ||d||_p. Both bounds are reached.
    Boxes are not compared: every point is checked against the evaluation's box anyway.
    """
    p, q = inner.norm, outer.norm
    grow = 1.0 if p <= q else float(features) ** (1.0 / q - 1.0 / p)
    return inner.eps * grow <= outer.eps * (1.0 + 1e-7)


def warn_if_it_covers_the_box(threat: Threat, x: Tensor) -> None:
    """Warn when eps reaches across the whole box of x `[N, ...]`, which is most likely a wrong unit."""
    if threat.bounds is None:
        return
    low, high = (
        torch.as_tensor(side, dtype=torch.float64).cpu().expand(x.shape[1:]) for side in threat.bounds
    )
    across = float(threat.length((high - low)[None]))
    if math.isfinite(across) and threat.eps >= across:
        warnings.warn(
            f"the threat is as wide as the box: within {threat.name} eps = {threat.eps:g} any input can become any "
            f"other (the box is {across:g} across); eps is in the inputs' scale, such as 8/255 in the scale 0-1",
            stacklevel=3,
        )


def own_threat(attack: Attack) -> Threat | None:
    """Return the threat that the attack declares, None when it declares none."""
    own = getattr(attack, "threat", None)
    return own if isinstance(own, Threat) else None


class Crafter:
    """Calls one attack batch by batch, with random numbers that belong to the samples, not to the batches.

    A `Point` gets its draws sample by sample from the stream (seed, name, sample index), so that what it
    finds does not depend on the batch size. Any other attack gets a generator if it takes one, and a seeded
    global random state, both a batch's own; the global state is as found afterwards.
    """

    def __init__(self, name: str, attack: Attack, seed: int) -> None:
        self._name, self._attack, self._seed = name, attack, seed
        self._takes_generator = not isinstance(attack, Point) and _takes(attack, "generator")
        self.refills = isinstance(attack, Point) and attack.refills

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        indices: Tensor,
        found: Found | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """Return the adversarial points for x `[B, ...]`, y `[B]`; `indices` `[B]` number the samples.

        A long search of this library calls `found` with rows and points as soon as it has fooled the model there.
        A point takes `at_once` samples through the model together; where it `refills`, the next as those leave.

        Raises:
            TypeError: when the attack returns no tensor or one of another dtype.
            ValueError: when it returns another shape.
        """
        x_adv: Any
        seed = derive_seed(self._seed, self._name, int(indices[0]))
        if isinstance(self._attack, Point):
            # The generator is for what is no draw, such as random layers that stay active in eval mode.
            generator = torch.Generator().manual_seed(seed)
            noise = self._draws(self._attack, x, indices)
            x_adv = self._attack(
                model,
                x,
                y,
                generator=generator,
                noise=noise,
                found=found,
                at_once=at_once,
            )
            return self._checked(x_adv, x)
        with global_seed(x.device, seed):
            if self._takes_generator:
                generator = torch.Generator(device=x.device).manual_seed(seed)
                x_adv = self._attack(model, x, y, generator=generator)
            else:
                x_adv = self._attack(model, x, y)
        return self._checked(x_adv, x)

    def _draws(self, point: Point, x: Tensor, indices: Tensor) -> dict[Point, Tensor]:
        # Drawn on the CPU: the same numbers whatever the device.
        seeds = [derive_seed(self._seed, self._name, index) for index in indices.tolist()]
        return {p: draw.to(x.device) for p, draw in draw_per_sample(point, x.cpu(), seeds).items()}

    def _checked(self, x_adv: Any, x: Tensor) -> Tensor:
        if not isinstance(x_adv, Tensor):
            raise TypeError(f"attack {self._name!r} must return a tensor, got {type(x_adv).__name__}")
        if x_adv.shape != x.shape:
            raise ValueError(
                f"attack {self._name!r} returned shape {list(x_adv.shape)} "
                f"for inputs of shape {list(x.shape)}"
            )
        if x_adv.dtype != x.dtype:
            raise TypeError(f"attack {self._name!r} returned {x_adv.dtype} for inputs of {x.dtype}")
        return x_adv.detach().to(x.device)


def problem(x_adv: Tensor, x: Tensor, threat: Threat | None) -> tuple[int, str] | None:
    """Return (row, what is wrong) for the first point that is not finite or not in the threat, else None."""
    bad = ~x_adv.flatten(1).isfinite().all(dim=1)
    if bad.any():
        return int(bad.nonzero()[0]), "has NaN or infinite values"
    if threat is None:
        return None
    bad = ~threat.contains(x_adv, x)
    if not bad.any():
        return None
    row = int(bad.nonzero()[0])
    return row, _outside(x_adv[row : row + 1], x[row : row + 1], threat)


def _outside(x_adv: Tensor, x: Tensor, threat: Threat) -> str:
    ball = Threat(threat.norm, threat.eps, bounds=None)
    if not bool(ball.contains(x_adv, x)):
        distance = float(ball.length(x_adv - x))
        return f"lies at {threat.name} distance {distance:.6g} from its input, outside eps = {threat.eps:.6g}"
    over = float((x_adv - threat.clip(x_adv)).abs().max())
    return f"leaves the box of allowed values by {over:.6g}"


def _name(attack: Attack) -> str:
    if isinstance(attack, type) or inspect.isroutine(attack):
        name = attack.__name__
        return "attack" if name == "<lambda>" else name
    if isinstance(attack, Steepest) and attack.clip == "threat":
        return "fgsm"  # the function FGSM makes these
    own = getattr(attack, "name", None)
    return own if isinstance(own, str) and own else type(attack).__name__.lower()


def _takes(attack: Attack, keyword: str) -> bool:
    try:
        parameters = inspect.signature(attack).parameters
    except (TypeError, ValueError):  # some builtins and extension callables have no signature
        return False
    return keyword in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
