"""Stand-ins that follow the documented interfaces of foolbox, ART and torchattacks, which are not installed here."""

from __future__ import annotations

import random
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustreg.threat import Threat


class Net(nn.Module):
    """A small network with BatchNorm, dropout and a layer that its owner froze; [B, 1, 4, 4], three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net()
    made.train()
    made.body[2].eval()
    return made


@pytest.fixture
def batch(net: Net) -> tuple[Tensor, Tensor]:
    """Samples in the box, most of them right."""
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    flags = [m.training for m in net.modules()]
    y = net.eval()(x).argmax(1)
    for module, flag in zip(net.modules(), flags, strict=True):
        module.training = flag
    y[::10] = (y[::10] + 1) % 3
    return x, y


@pytest.fixture
def threat() -> Threat:
    return Threat("linf", 0.1)


def climb(model: Any, x: Tensor, y: Tensor, eps: float, steps: int, noise: Tensor) -> Tensor:
    """A plain linf PGD, as any library has it."""
    z = (x + eps * noise).clamp(0, 1)
    for _ in range(steps):
        z.requires_grad_()
        loss = nn.functional.cross_entropy(model(z), y)
        (g,) = torch.autograd.grad(loss, z)
        z = (x + (z.detach() + eps / 2 * g.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return z.detach()


class FoolboxPGD:
    """foolbox: attack(fmodel, inputs, labels, epsilons=...) gives raw points, clipped points and success."""

    def __init__(self, *, steps: int = 5, too_far: float = 0.0) -> None:
        self.steps, self.too_far = steps, too_far
        self.distance = SimpleNamespace(p=float("inf"))

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, epsilons: float) -> tuple[Tensor, Tensor, Tensor]:
        low, high = model.bounds
        assert x.min() >= low
        assert x.max() <= high
        noise = torch.empty_like(x).uniform_(-1, 1)
        found = climb(model, x, y, epsilons + self.too_far, self.steps, noise)
        return found + 1, found, model(found).argmax(1) != y

    def __repr__(self) -> str:
        return f"FoolboxPGD(steps={self.steps})"


class FoolboxModel:
    """foolbox.PyTorchModel: the model with its box on a device."""

    def __init__(self, model: nn.Module, bounds: tuple[float, float], device: Any = None) -> None:
        assert not model.training, "foolbox warns about models in training mode"
        self.model, self.bounds = model.to(device), bounds

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


class TorchattacksPGD:
    """torchattacks: made with the model, called as attack(inputs, labels); leaves the whole model in one mode."""

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
    ) -> None:
        self.model, self.eps, self.steps, self.device = model, eps, steps, None

    def set_device(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        assert self.device == x.device
        self.model.train()  # as `set_model_training_mode` makes it do
        noise = torch.empty_like(x).uniform_(-1, 1)
        self.model.eval()
        found = climb(self.model, x, y, self.eps, self.steps, noise)
        nn.functional.cross_entropy(self.model(found), y).backward()  # gradients left on the weights
        self.model.train()
        return found


class ArtPGD:
    """ART: made with an estimator, generate(x, y) on NumPy arrays, options listed in attack_params."""

    attack_params = ("norm", "eps", "max_iter", "targeted", "batch_size", "verbose")

    def __init__(
        self,
        estimator: Any,
        norm: float = np.inf,
        eps: float = 0.3,
        max_iter: int = 100,
        targeted: bool = False,
        batch_size: int = 32,
        verbose: bool = True,
    ) -> None:
        assert not targeted
        assert not verbose
        assert norm == np.inf
        self.estimator, self.eps, self.max_iter, self.batch_size = estimator, eps, max_iter, batch_size

    def generate(self, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        assert x.dtype == np.float32
        assert y is not None
        assert y.shape == (len(x), self.estimator.nb_classes)
        assert self.batch_size == len(x)
        noise = np.random.uniform(-1, 1, size=x.shape) * random.random()
        labels = torch.tensor(y).argmax(1)
        noise = torch.tensor(noise, dtype=torch.float32)
        model = self.estimator.model.train(False)
        return climb(model, torch.tensor(x), labels, self.eps, self.max_iter, noise).numpy()


class ArtClassifier:
    """art.estimators.classification.PyTorchClassifier, by keywords."""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        input_shape: tuple[int, ...],
        nb_classes: int,
        clip_values: tuple[float, float],
        device_type: str,
    ) -> None:
        assert isinstance(loss, nn.CrossEntropyLoss)
        assert clip_values == (0.0, 1.0)
        assert device_type == "cpu"
        self.model, self.input_shape, self.nb_classes = model, input_shape, nb_classes


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The stand-ins where `import foolbox` and `import art...` would find the libraries."""
    foolbox, classification = ModuleType("foolbox"), ModuleType("art.estimators.classification")
    foolbox.PyTorchModel = FoolboxModel  # type: ignore[attr-defined]
    classification.PyTorchClassifier = ArtClassifier  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "foolbox", foolbox)
    for name in ("art", "art.estimators"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "art.estimators.classification", classification)
    return SimpleNamespace(foolbox=FoolboxPGD, torchattacks=TorchattacksPGD, art=ArtPGD)
