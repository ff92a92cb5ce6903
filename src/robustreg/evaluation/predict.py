"""The model as an evaluation sees it: in eval mode, checked, and left as it was found."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.modes import running
from robustreg.streams import global_seed


@contextmanager
def as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Lend the model to attacks nobody here has written, in eval mode on `device`.

    Flags, device, `requires_grad` and `.grad` of every parameter are as found afterwards. The gradients are
    taken away meanwhile, because an attack that calls `loss.backward()` would add to them in place.
    """
    home = model_device(model)
    # An optimiser may hold these very parameters: `.to` keeps the objects, so moving there and back is
    # invisible.
    parameters = list(model.parameters())
    kept = [(p.grad, p.requires_grad) for p in parameters]
    # All flags, not only those that eval mode changes: an attack may have called `model.train()`.
    flags = [(module, module.training) for module in model.modules()]
    for parameter in parameters:
        parameter.grad = None
    try:
        if device != home:
            model.to(device)
        with running(model, "eval"):
            yield
    finally:
        for module, training in flags:
            module.training = training
        if device != home:
            model.to(home)
        for parameter, (grad, requires_grad) in zip(parameters, kept, strict=True):
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer, the CPU when it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def device_for(model: nn.Module, asked: torch.device | str | None) -> torch.device:
    """Return the device to run the model on: the one asked for, the model's own by default.

    Raises:
        ValueError: there is no such device here, or the model's tensors hold no numbers.
    """
    home = model_device(model)
    if home.type == "meta":
        raise ValueError(
            "the model is on the device 'meta', where tensors have no values: load its weights first"
        )
    if asked is None:
        return home
    try:
        where = torch.device(asked)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device should be one such as 'cpu' or 'cuda', got {asked!r}") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = f"finds {count} of them" if count else "finds no CUDA device"
        raise ValueError(f"device {str(where)!r} was asked for, but torch {there}")
    try:
        torch.zeros(1, device=where).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {str(where)!r} was asked for, but torch cannot use it here") from error
    return where


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits `[B, C]` at x `[B, ...]` in eval mode, without a graph.

    Raises:
        RuntimeError: when the model fails.
        TypeError: when the model returns anything but a floating-point tensor.
        ValueError: when the shape is not `[B, C]` with at least two classes, or the model changes its inputs.
    """
    with running(model, "eval"), torch.no_grad():
        with torch.inference_mode(False):  # in it tensors would not count how often they were changed
            given = x.clone()
        version = given._version
        try:
            out: Any = model(given)
        except Exception as error:
            got = f"{list(x.shape)} {x.dtype}".replace("torch.", "")
            said = _other_dtype(model, x) or (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RuntimeError(f"the model fails on inputs of {got}: {said}") from error
    if given._version != version:
        raise ValueError(
            "the model changes its inputs in place, but an attack goes on from them: let it compute others, "
            "such as x = (x - mean) / std"
        )
    if not isinstance(out, Tensor):
        size = f" of {len(out)}" if isinstance(out, (tuple, list, dict)) else ""
        raise TypeError(
            f"the model must return its logits as one tensor [B, C], got {type(out).__name__}{size}; "
            "wrap it in a module that returns only the logits"
        )
    if not out.is_floating_point():
        raise TypeError(f"the model must return floating-point logits, got {out.dtype} (class numbers?)")
    if out.ndim != 2 or out.shape[0] != x.shape[0] or out.shape[1] < 2:
        raise ValueError(
            f"the model must return logits of shape [{x.shape[0]}, C] with C >= 2 for {x.shape[0]} samples, "
            f"got {list(out.shape)}"
        )
    return out


def _other_dtype(model: nn.Module, x: Tensor) -> str | None:
    """A sentence where no weight of the model has the dtype of its inputs."""
    weights = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if not weights or x.dtype in weights:
        return None
    # Inputs are not cast here: in half precision a pixel would move by more than many an eps.
    named = " and ".join(sorted(f"{dtype}".replace("torch.", "") for dtype in weights))
    return f"its weights are {named}; take model.float(), or a forward that casts its inputs itself"


def logits_by_batch(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return `logits_of` with at most so many samples in a call."""
    return torch.cat([logits_of(model, part) for part in torch.split(x, batch_size)])


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Tell whether the largest logit is the label's, `[B]` bool; NaN logits are never right."""
    return (logits.argmax(dim=1) == y) & ~logits.isnan().any(dim=1)


def check_clean_logits(logits: Tensor, first: int = 0) -> None:
    """Raise ValueError when the model is NaN or infinite on clean samples; `first` is the index of row 0."""
    bad = logits.isnan().any(dim=1).nonzero()
    if len(bad):
        raise ValueError(
            f"the model gives NaN logits for the clean sample {first + int(bad[0])}: is it trained?"
        )
    # Minus infinity rules a class out, but not all of them.
    bad = (logits.isposinf().any(dim=1) | logits.isneginf().all(dim=1)).nonzero()
    if len(bad):
        raise ValueError(
            f"the model gives infinite logits for the clean sample {first + int(bad[0])}: its prediction is no number"
        )


def warn_if_probabilities(logits: Tensor) -> None:
    """Warn when all outputs `[N, C]` look like softmax outputs: attacks on them look weaker than they are."""
    sums_to_one = (logits.double().sum(dim=1) - 1.0).abs() < 1e-3
    if bool(((logits >= 0) & (logits <= 1)).all()) and bool(sums_to_one.all()):
        warnings.warn(
            "the model's outputs look like probabilities (all in [0, 1], rows sum to 1), but logits are "
            "expected: a second softmax flattens the loss, so attacks get weaker and the model looks more "
            "robust than it is",
            stacklevel=3,
        )


def warn_if_gradients_fail(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Warn when input gradients `[B, ...]` are NaN or infinite: attacks by gradients then find nothing."""
    with running(model, "eval"), global_seed(x.device, 0), torch.enable_grad():
        try:
            at = x.detach().clone().requires_grad_()
            loss = nn.functional.cross_entropy(model(at).float(), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, at)
        except (RuntimeError, NotImplementedError):  # no gradient at all: attacks will say so, or need none
            return
    bad = int((~gradient.flatten(1).isfinite().all(dim=1)).sum())
    if bad:
        warnings.warn(
            f"the input gradient is NaN or infinite for {bad} of {len(x)} samples: attacks by gradients find nothing "
            "there, so the model looks more robust than it is (`robustreg.audit` tells more)",
            stacklevel=4,
        )


class Snapshot:
    """A copy of the model's parameters and buffers, to see and undo what an attack did to them."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies = [tensor.detach().clone() for tensor in self._tensors()]
        self._of_the_model: set[int] = set()

    def learn(self) -> bool:
        """Restore what running the model alone has changed, and lay it on no attack from now on; True when it had."""
        changed = self._restore()
        self._of_the_model |= changed
        return bool(changed)

    def undo(self) -> bool:
        """Restore the copied values; True when anything had changed that the model does not change by itself."""
        return bool(self._restore() - self._of_the_model)

    def _restore(self) -> set[int]:
        changed = set()
        with torch.no_grad():
            for number, (tensor, copy) in enumerate(zip(self._tensors(), self._copies, strict=True)):
                # Compared as bytes: a NaN equals itself and 0.0 differs from -0.0.
                if not torch.equal(_bytes(tensor), _bytes(copy)):
                    tensor.copy_(copy)
                    changed.add(number)
        return changed

    def _tensors(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
