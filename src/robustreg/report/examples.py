"""A few images with their perturbations: stored next to a run by `save_examples`, read back for the page.

The picture to look at is the steepest-ascent perturbation, the visual effect that C. Lyu, K. Huang and H.-N.
Liang describe ("A Unified Gradient Regularization Family for Adversarial Examples", ICDM 2015): whether it
looks like noise or like strokes of the digit is something to see rather than to measure.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustreg.threat import Threat

FILE = "examples.safetensors"
_ABOUT = "about"
_IMAGES = ("clean", "adversarial", "gradient")
_CLASSES = ("label", "prediction", "adversarial_prediction")


@dataclass(frozen=True)
class Examples:
    """Images [k, C, H, W] in pixel scale 0-1, their adversarial images and perturbations, and classes [k].

    `about` says in words how they were chosen and attacked; it may be empty.
    """

    clean: NDArray[np.float32]
    adversarial: NDArray[np.float32]
    gradient: NDArray[np.float32]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    adversarial_prediction: NDArray[np.int64]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.label)


def save_examples(
    run_dir: str | Path,
    net: nn.Module,
    data: Any,
    threat: Threat,
    count: int = 10,
    *,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
) -> Path:
    """Attack `count` images and store them with their perturbations in `RUN/examples.safetensors`.

    The images are the first of each class in the order of the data, never chosen by what the network makes of
    them. The adversarial images are those of PGD under `threat`. `gradient` is the steepest-ascent perturbation of
    l2 length 1, which lies along the input gradient of the loss, not clipped to the pixel range: in the other
    norms it keeps little of the gradient's shape (only the signs for linf), and clipping would hide one sign
    on black and on white.

    Args:
        run_dir: the run folder, which must exist.
        net: maps [B, C, H, W] in pixel scale 0-1 to logits [B, K]. Its mode is left as found.
        data: what `evaluate` takes: a pair (x, y), an object with .x and .y, a Dataset, or batches of (x, y).
        threat: geometry and radius of the perturbations.
        count: how many images, at least 1; fewer are stored when the data has fewer.
        steps: steps of PGD.
        restarts: random starts of PGD.
        seed: seed of the random starts.

    Returns:
        The path of the file written.

    Raises:
        FileNotFoundError: when the run folder does not exist.
        ValueError: when there is no labelled sample, or `count` is not positive.
    """
    import torch
    from safetensors.torch import save

    import robustreg as rr
    from robustreg.evaluation.samples import gather
    from robustreg.files import write_bytes_atomic

    folder = Path(run_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"the run folder {folder} does not exist")
    samples = gather(data).as_model_takes(net)
    chosen = _first_of_each_class(samples.y.tolist(), count)
    device = next((p.device for p in net.parameters()), samples.x.device)
    x, y = samples.x[chosen].to(device), samples.y[chosen].to(device)

    attack = rr.PGD(threat, steps=steps, restarts=restarts)
    steepest = rr.Steepest(rr.Threat("l2", 1.0, bounds=None), clip="none")
    generator = torch.Generator(device=device).manual_seed(seed)
    adversarial = attack(net, x, y, generator=generator)
    tensors = {
        "clean": x,
        "label": y,
        "prediction": _predict(net, x),
        "adversarial": adversarial,
        "adversarial_prediction": _predict(net, adversarial),
        "gradient": steepest(net, x, y) - x,
    }
    about = {
        "selection": "the first of each class in the order of the data",
        "attack": f"PGD with {steps} steps and {restarts} {'start' if restarts == 1 else 'starts'}",
        "threat": threat.to_dict(),
        "seed": seed,
    }
    stored = {key: _stored(value) for key, value in tensors.items()}
    # One entry, because safetensors writes several in an order that changes from call to call.
    return write_bytes_atomic(folder / FILE, save(stored, metadata={_ABOUT: json.dumps(about)}))


def load_examples(run_dir: Path) -> tuple[Examples | None, str | None]:
    """The stored examples, or None with the sentence that says why not (None where none were stored)."""
    path = run_dir / FILE
    if not path.is_file():
        return None, None
    try:
        arrays, about = _read(path)
    except Exception as error:  # safetensors raises its own type, which is an Exception and nothing narrower
        return None, f"{FILE} could not be read: {error}."
    missing = [key for key in (*_IMAGES, *_CLASSES) if key not in arrays]
    if missing:
        return None, f"{FILE} lacks {', '.join(missing)}."
    clean = arrays["clean"]
    if clean.ndim != 4 or clean.shape[1] not in (1, 3) or 0 in clean.shape:
        return None, f"The inputs have shape {list(clean.shape[1:])} and cannot be drawn as images."
    if any(arrays[key].shape != clean.shape for key in _IMAGES) or any(
        arrays[key].shape != clean.shape[:1] for key in _CLASSES
    ):
        return None, f"The tensors of {FILE} do not have the same number of images of the same shape."
    fields: dict[str, Any] = {key: arrays[key].astype(np.float32) for key in _IMAGES}
    fields.update({key: arrays[key].astype(np.int64) for key in _CLASSES})
    return Examples(**fields, about=about), None


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return arrays, about if isinstance(about, dict) else {}


def _first_of_each_class(labels: list[int], count: int) -> list[int]:
    """Positions of the first `count` labelled samples, as even over classes as can be, sorted by class."""
    if count < 1:
        raise ValueError(f"the number of examples must be at least 1, got {count}")
    seen: Counter[int] = Counter()
    ranked = []
    for position, label in enumerate(labels):
        if label >= 0:
            ranked.append((seen[label], position, label))
            seen[label] += 1
    if not ranked:
        raise ValueError("there is no labelled sample to make examples of")
    return [
        position for _, position, _ in sorted(sorted(ranked)[:count], key=lambda entry: (entry[2], entry[1]))
    ]


def _predict(net: nn.Module, x: Tensor) -> Tensor:
    """Classes [B] in evaluation mode."""
    import torch

    from robustreg.modes import running

    with running(net, "eval"), torch.no_grad():
        classes: Tensor = net(x).argmax(dim=1)
    return classes


def _stored(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.float() if value.is_floating_point() else value
