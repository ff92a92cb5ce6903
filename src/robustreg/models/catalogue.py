"""Models by name, and the user's own by `module:function`."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..registry import closest
from .initialisation import construction
from .maxout import maxout_conv, maxout_mlp
from .mlp import mlp
from .normalize import Statistics, normalization
from .resnet import preact_resnet18, resnet18, wide_resnet
from .small import four_conv, lenet_plus, small_conv, strided_conv

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "maxout_mlp": maxout_mlp,
    "small_conv": small_conv,
    "lenet_plus": lenet_plus,
    "strided_conv": strided_conv,
    "four_conv": four_conv,
    "maxout_conv": maxout_conv,
    "resnet18": resnet18,
    "preact_resnet18": preact_resnet18,
    "wide_resnet": wide_resnet,
    "wrn28_10": partial(wide_resnet, depth=28, width=10),
    "wrn34_10": partial(wide_resnet, depth=34, width=10),
}
NAMES = tuple(BUILDERS)


def build(
    name: str,
    *,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    normalize: Statistics = None,
    allow_modules: Collection[str] = (),
    channels_last: bool = False,
    **options: Any,
) -> nn.Module:
    """A network by name.

    Args:
        name: one of `NAMES`, or `"module:function"` for a function of the user's that returns a module.
        shape: of one sample, [C, H, W] or [D]: gives `in_features`, `in_channels` and `image_size` to the
            networks that have them, unless they are among the options.
        seed: of the initial weights. The global random state is left as it is. A user's function that takes
            no `seed` still starts from this seed, in whatever it draws from the CPU's global generator.
        normalize: statistics of the first layer: a data set's name, a pair (mean, std), or None. A user's
            function that takes no `normalize` is preceded by that layer.
        allow_modules: the modules that the user has declared as his own; no other module is imported.
        channels_last: keep the weights of convolutions with the channels last, and so what they compute. Numbers and
            shapes are the same; many convolutions are faster, most of all in bfloat16.
        **options: of that network, see its function.

    Returns:
        A network of `x` [B, *shape] in pixel scale 0-1 to logits [B, K].

    Raises:
        ValueError: an unknown name or option, a sample shape that the network cannot take, or a module that
            was not declared; in one sentence.
        TypeError: a user's function that returns no module.
    """
    if not isinstance(channels_last, bool):
        raise ValueError(f"channels_last must be true or false, got {channels_last!r}")
    if ":" in name:
        net = _own(name, shape, seed, normalize, allow_modules, options)
    else:
        net = _named(name, shape, seed, normalize, options)
    if channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
    return net


def _named(
    name: str, shape: Sequence[int] | None, seed: int, normalize: Statistics, options: dict[str, Any]
) -> nn.Module:
    if name not in BUILDERS:
        near = closest(name, NAMES)
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(
            f"unknown model {name!r}; {hint}there are {', '.join(NAMES)}, and module:function of your own"
        )
    builder = BUILDERS[name]
    known = inspect.signature(builder).parameters
    for option in options:
        if option not in known:
            near = closest(option, known)
            hint = f"did you mean {near!r}? " if near else ""
            raise ValueError(f"the model {name} has no option {option!r}; {hint}it takes {', '.join(known)}")
    given = {**_context(name, known, shape, options), **options}
    return builder(seed=seed, normalize=normalize, **given)


def count_parameters(net: nn.Module) -> int:
    """Trainable numbers of a network; buffers such as running statistics do not count."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _context(
    name: str, known: Mapping[str, Any], shape: Sequence[int] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a sample's shape says about the sizes of a network."""
    if shape is None:
        return {}
    found: dict[str, Any] = {"in_features": math.prod(shape)}
    if "in_channels" in known:
        if len(shape) != 3:
            raise ValueError(f"the model {name} takes images [C, H, W], samples have the shape {list(shape)}")
        if "image_size" in known and shape[1] != shape[2]:
            raise ValueError(f"the model {name} takes square images, samples have the shape {list(shape)}")
        found.update(in_channels=shape[0], image_size=shape[1])
    return {key: value for key, value in found.items() if key in known and key not in options}


def _own(
    name: str,
    shape: Sequence[int] | None,
    seed: int,
    normalize: Statistics,
    allow_modules: Collection[str],
    options: dict[str, Any],
) -> nn.Module:
    module, _, function = name.partition(":")
    if module not in allow_modules:
        declared = f"declared are {', '.join(sorted(allow_modules))}" if allow_modules else "none is declared"
        raise ValueError(
            f"the model {name!r} needs the module {module!r} to be declared as an import; {declared}"
        )
    if not function.isidentifier() or function.startswith("_"):
        raise ValueError(
            f"the model {name!r} must be written module:function, with a public function's plain name"
        )
    factory = getattr(importlib.import_module(module), function, None)
    if isinstance(factory, nn.Module):
        raise ValueError(
            f"the model {name!r} is a network already: name a function that makes and returns it"
        )
    if not callable(factory):
        raise ValueError(f"the model {name!r}: {module} has no function {function!r}")
    known = _signature(factory)
    context = {"shape": None if shape is None else tuple(shape), "seed": seed, "normalize": normalize}
    context.update(_context(name, known, shape, options))
    given = {key: value for key, value in context.items() if key in known}
    if "num_classes" not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        options = {key: value for key, value in options.items() if key != "num_classes"}
    arguments = {**given, **options}
    needed = [
        key
        for key, p in known.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if missing := [key for key in needed if key not in arguments]:
        raise ValueError(
            f"the model {name!r} needs {', '.join(missing)}: set the model's option {missing[0]}, or name a function "
            "that needs no argument"
        )
    with construction(seed):
        net = _made(name, factory, arguments)
    if not isinstance(net, nn.Module):
        raise TypeError(f"the model {name!r} must return a torch.nn.Module, got {type(net).__name__}")
    return net if "normalize" in known or normalize is None else nn.Sequential(normalization(normalize), net)


def _made(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What the user's function returns; what goes wrong within it is told as its own."""
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:  # a script's function may read a command line and end there
        raise ValueError(
            f"the model {name!r} fails when it is made: {type(error).__name__}: {error}"
        ) from error


def _signature(factory: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some callables written in C have none
        return {}
