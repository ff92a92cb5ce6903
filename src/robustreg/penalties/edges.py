"""Edge alignment: the network's input gradient should look like the edges of the image.

A. Rodriguez-Munoz, T. Wang, A. Torralba, "Characterizing Model Robustness via Natural Input Gradients", ECCV 2024, and
their code. No norm is penalised and no label read: only the shape of the gradient counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustreg import numerics
from robustreg.losses import RowLoss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term


@dataclass(frozen=True)
class EdgeAlignment(Term):
    """``mean (s / rms(s) - e / rms(e))^2`` per image: the gradient ``s`` of a sampled logit against the edges ``e``.

    The class is drawn from ``softmax(z / temperature)`` and is a constant. The root mean squares are of the whole
    batch, and that of the gradient is differentiated.

    Args:
        temperature: of the class's draw.
        sigma: of the blur, before and after the edge filter; its variance, as in the code.
        at: where the gradient is taken.
        mode: the mode in which the network is run.
    """

    temperature: float = 0.5
    sigma: float = 1.0
    at: Point = CLEAN
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if not self.temperature > 0 or not self.sigma > 0:
            raise ValueError(
                f"temperature and sigma must be positive, got {self.temperature} and {self.sigma}"
            )

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` for images ``[B, C, H, W]``."""
        loss = SampledLogit(self.temperature)
        s = numerics.upcast(probe.grad(self.at, loss, self.mode, differentiable=True))
        e = edges(numerics.upcast(probe.at(self.at)), self.sigma)
        return numerics.flatten(_normalised(s) - _normalised(e)).square().mean(1)


@dataclass(frozen=True)
class SampledLogit:
    """The logit of a class drawn from ``softmax(z / temperature)``, sample by sample."""

    temperature: float = 0.5
    number: int = 0
    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """``(logits [b, C], rows) -> [b]``."""
        normal = probe.normal((probe.x.shape[0], 1), "sampled logit", self.number)

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            level = torch.special.ndtr(normal if rows is None else normal[rows])  # uniform in [0, 1]
            with torch.no_grad():
                shares = (logits / self.temperature).softmax(1).cumsum(1)
                k = (shares < level).sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
            return logits.gather(1, k).squeeze(1)

        return of


def edges(images: Tensor, sigma: float = 1.0) -> Tensor:
    """How strong the edges are at each pixel, ``[B, C, H, W]`` to the same shape, equal in every channel; a constant.

    Blur, the length of the two Sobel derivatives of all channels together, and a second blur that centres it.
    """
    blur = gaussian(sigma).to(images)
    needed = len(blur) // 2 + 1
    if images.ndim != 4 or min(images.shape[2:]) < needed:
        raise ValueError(
            f"edges need images [B, C, H, W] of at least {needed} x {needed} pixels, got {list(images.shape)}"
        )
    smooth, ramp = torch.tensor([0.5, 1.0, 0.5]).to(images), torch.tensor([-1.0, 0.0, 1.0]).to(images)
    with torch.no_grad():
        soft = _filtered(images, blur, blur)
        across, down = _filtered(soft, smooth, ramp), _filtered(soft, ramp, smooth)
        strength = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
        return _filtered(strength, blur, blur).expand_as(images)


def gaussian(variance: float) -> Tensor:
    """The discrete Gaussian kernel ``exp(-t) I_n(t)`` for ``|n| <= ceil(3 t)``, normalised (Lindeberg 1990)."""
    reach = math.ceil(3 * variance)
    angles = torch.arange(64, dtype=torch.float64) * (
        2 * math.pi / 64
    )  # the sum is exact for periodic functions
    n = torch.arange(-reach, reach + 1, dtype=torch.float64).unsqueeze(1)
    kernel = (torch.exp(variance * (angles.cos() - 1)) * (n * angles).cos()).mean(1)
    return kernel / kernel.sum()


def _filtered(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """A separable filter on every channel, the image mirrored at its borders."""
    channels, (h, w) = images.shape[1], (len(down) // 2, len(across) // 2)
    padded = functional.pad(images, (w, w, h, h), mode="reflect")
    columns = functional.conv2d(padded, down.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(columns, across.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _normalised(v: Tensor) -> Tensor:
    """``v`` over the root of its mean square in the whole batch; 0 where everything is."""
    size = numerics.norm(v.reshape(1, -1), 2.0) / math.sqrt(max(v.numel(), 1))
    return v / torch.where(size > 0, size, 1.0)
