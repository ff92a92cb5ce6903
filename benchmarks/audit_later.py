"""A second round of masked and sound models, written before the audit was run on any of them.

Defences of the published record that were broken, and tricks that nobody published. They were first audited by the
code that the first round was audited by; `results/audit_confusion/later_before.json` holds what it said. What was
changed after that look is told in `docs/audit.md`. Whether a design hides anything at all is measured apart from the
audit, by `audit_truth.py`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.testing.planted import Before, _Backward, input_quantisation


@dataclass(frozen=True)
class Material:
    """What a design is made from.

    Attributes:
        net: an ordinary network, trained.
        other: makes an untrained one by name of its architecture and seed.
        fit: trains a network on an objective, for so many epochs, and gives it back in evaluation mode.
        x, y: the training samples.
        asked: the samples that an audit or an evaluation looks at.
        threat: of the audit.
        seed: of the model.
    """

    net: nn.Module
    other: Callable[[str, int], nn.Module]
    fit: Callable[..., nn.Module]
    x: Tensor
    y: Tensor
    asked: Tensor
    threat: rr.Threat
    seed: int

    @property
    def arch(self) -> str:
        """Of networks like the ordinary one."""
        return "mlp-relu" if self.x.shape[-1] == 8 else "conv-relu"

    def fitted(self, wrap: Callable[[nn.Module], nn.Module], seed: int = 0, epochs: int = 0) -> nn.Module:
        """Another network inside a wrapper, trained with it."""
        torch.manual_seed(self.seed)
        return self.fit(wrap(self.other(self.arch, self.seed + seed)), rr.CrossEntropy(), epochs)


class Around(nn.Module):
    """A function of a network and its input, as a module."""

    def __init__(self, net: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self.function(self.net, x)


def straight(x: Tensor, seen: Tensor) -> Tensor:
    """What the network sees, with the gradient of x."""
    return x + (seen - x).detach()


def before(m: Material, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A function of the input before the network."""
    return nn.Sequential(Before(function), m.net)


def after(m: Material, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A function of the logits behind the network."""
    return nn.Sequential(m.net, Before(function))


def replaced(net: nn.Module, activation: Callable[[], nn.Module]) -> nn.Module:
    """Every ReLU and GELU replaced."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.ReLU, nn.GELU)):
                setattr(module, name, activation())
    return net


# Inputs changed


def squeezed(x: Tensor) -> Tensor:
    """Feature squeezing (Xu, Evans and Qi 2018): a median filter, then three bits."""
    patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).reshape(*x.shape[:2], 9, -1)
    return (7 * patches.median(2).values.reshape(x.shape)).round() / 7


def total_variation(x: Tensor, steps: int = 20) -> Tensor:
    """Total variation minimised (Guo et al. 2018), without a graph."""
    u = x.detach()
    with torch.enable_grad():
        for _ in range(steps):
            u = u.detach().requires_grad_()
            rough = (u.diff(dim=-1).square() + 1e-4).sqrt().sum() + (
                u.diff(dim=-2).square() + 1e-4
            ).sqrt().sum()
            (g,) = torch.autograd.grad(0.1 * rough + (u - x.detach()).square().sum(), u)
            u = u - 0.1 * g
    return u.detach()


def halftone(x: Tensor) -> Tensor:
    """Black and white by a threshold that differs from pixel to pixel, as a printer does."""
    height, width = x.shape[-2:]
    rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width).unsqueeze(0)
    screen = ((2 * rows + 3 * columns) % 5 + 0.5) / 5
    return (x > screen.to(x)).to(x.dtype)


class Quilted(nn.Module):
    """Each patch of 4 x 4 pixels replaced by the nearest of many from training images (Guo et al. 2018)."""

    def __init__(self, net: nn.Module, x: Tensor, size: int = 4) -> None:
        super().__init__()
        self.net, self.size = net, size
        patches = F.unfold(x[:400], size, stride=size).transpose(1, 2).flatten(0, 1)
        chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:600]
        self.register_buffer("book", patches[chosen])

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        patches = F.unfold(x, self.size, stride=self.size).transpose(1, 2)
        nearest = self.book[torch.cdist(patches, self.book.to(patches)).argmin(2)]
        return self.net(F.fold(nearest.transpose(1, 2), x.shape[-2:], self.size, stride=self.size))


def random_crop(x: Tensor) -> Tensor:
    """A random shift by up to a pixel, with the gradient of the unshifted image."""
    size = x.shape[-1]
    i, j = (int(torch.randint(0, 3, ())) for _ in range(2))
    return straight(x, F.pad(x, (1, 1, 1, 1))[..., i : i + size, j : j + size])


def deflected(x: Tensor) -> Tensor:
    """Pixel deflection (Prakash et al. 2018): a tenth of the values swapped for a neighbour's, at random."""
    shifted = torch.roll(x, (int(torch.randint(-1, 2, ())), int(torch.randint(-1, 2, ()))), (-2, -1))
    return torch.where(torch.rand_like(x) < 0.1, shifted, x)


class MixedUp(nn.Module):
    """Mixup inference (Pang, Xu and Zhu 2020): the mean over random training images mixed into the input."""

    def __init__(self, net: nn.Module, x: Tensor, copies: int = 5) -> None:
        super().__init__()
        self.net, self.copies = net, copies
        self.register_buffer("others", x[:500])

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        drawn = [self.others[torch.randint(len(self.others), (len(x),))].to(x) for _ in range(self.copies)]
        return torch.stack([self.net(0.6 * x + 0.4 * other) for other in drawn]).mean(0)


def purified(net: nn.Module, x: Tensor) -> Tensor:
    """A few steps to lower the entropy before the answer, which the gradient knows nothing of."""
    u = x.detach()
    with torch.enable_grad():
        for _ in range(3):
            u = u.detach().requires_grad_()
            p = net(u).log_softmax(1)
            (g,) = torch.autograd.grad(-(p.exp() * p).sum(), u)
            u = u - 0.05 * g.sign()
    return net(straight(x, u))


def hedged(net: nn.Module, x: Tensor) -> Tensor:
    """Hedge defence (Wu et al. 2021): steps up the cross-entropy to all classes together, without a graph."""
    u = x.detach()
    with torch.enable_grad():
        for _ in range(5):
            u = u.detach().requires_grad_()
            (g,) = torch.autograd.grad(-net(u).log_softmax(1).sum(), u)
            u = x.detach() + (u + 0.05 * g.sign() - x.detach()).clamp(-0.15, 0.15)
    return net(u.detach()) + 0 * net(x)


class Remembered(nn.Module):
    """Inputs close to one of the test set are answered from memory; further away the network is asked."""

    def __init__(self, net: nn.Module, x: Tensor, radius: float) -> None:
        super().__init__()
        self.net, self.radius = net, radius
        self.register_buffer("known", x.flatten(1))
        self.register_buffer("said", net(x).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        distance, nearest = torch.cdist(x.flatten(1), self.known.to(x), p=math.inf).min(1)
        close = (distance < self.radius).unsqueeze(1)
        return torch.where(close, self.said.to(x)[nearest], self.net(x))


# Layers


class Pruned(nn.Module):
    """Stochastic activation pruning (Dhillon et al. 2018): drawn by magnitude, kept with its weight."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations of any shape `[B, ...]`."""
        h = F.relu(x)
        rows = h.flatten(1).abs() + 1e-8
        kept = 1 - (1 - rows / rows.sum(1, keepdim=True)).clamp(min=0).pow(rows.shape[1])
        mask = (torch.rand_like(kept) < kept) / kept.detach().clamp(min=1e-3)
        return h * mask.reshape(x.shape)


class Binary(nn.Module):
    """Signs, with the gradient of a clipped line (Hubara et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations of any shape."""
        line = x.clamp(-1, 1)
        return line + (torch.where(x >= 0, 1.0, -1.0).to(x) - line).detach()


class Spiking(nn.Module):
    """Integrate and fire: how often a neuron fires in eight steps, with the gradient of a narrow bump."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations of any shape."""
        charge, rate = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(8):
            charge = charge + x
            bump = (10 * (charge - 1)).sigmoid()
            fired = bump + ((charge >= 1).to(x.dtype) - bump).detach()
            charge = charge - fired.detach()
            rate = rate + fired / 8
        return rate


class Saturating(nn.Module):
    """Activations driven to their ends, as biologically inspired saturation does (Nayebi and Ganguli 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations of any shape."""
        return torch.sigmoid(30 * x)


class FixedPoint(nn.Module):
    """Activations in steps of an eighth, as an integer network has them."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations of any shape."""
        return (8 * F.relu(x)).round() / 8


class Sinusoidal(nn.Module):
    """Sines of a high frequency for activations."""

    def forward(self, x: Tensor) -> Tensor:
        """Activations of any shape."""
        return torch.sin(4 * x)


# Outputs


class OutputCodes(nn.Module):
    """Error-correcting output codes (Verma and Swami 2019): sixteen bits, their correlation with each class's code."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.bits = net, nn.Linear(10, 16)
        hadamard = torch.ones(1, 1)
        for _ in range(4):
            hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
        self.register_buffer("codes", hadamard[1:11])

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of probabilities `[B, C]`."""
        z = torch.tanh(self.bits(self.net(x))) @ self.codes.T
        if self.training:
            return z
        p = F.relu(z) + 1e-6
        return (p / p.sum(1, keepdim=True)).log()


class Neighbours(nn.Module):
    """The share of each class among the nearest training samples (Papernot and McDaniel 2018)."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor, k: int = 25) -> None:
        super().__init__()
        self.net, self.k = net, k
        self.register_buffer("features", net(x).detach())
        self.register_buffer("labels", F.one_hot(y, 10).to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Shares `[B, C]`, made a little softer by the outputs so that ties are rare."""
        z = self.net(x)
        nearest = torch.cdist(z, self.features.to(z)).topk(self.k, largest=False).indices
        return self.labels[nearest].mean(1).to(z) + 1e-6 * z


class Templates(nn.Module):
    """Minus the squared distance to the nearest training image of each class, times a hundred."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", x[:1000].flatten(1))
        self.register_buffer("labels", y[:1000])

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        known = self.known.to(x)
        distance = (
            x.flatten(1).square().sum(1, keepdim=True) - 2 * x.flatten(1) @ known.T
        ) + known.square().sum(1)
        return -100 * torch.stack([distance[:, self.labels == k].amin(1) for k in range(10)], 1)


def several(m: Material, count: int = 5) -> nn.ModuleList:
    """Ordinary networks of other seeds."""
    return nn.ModuleList([m.fitted(lambda net: net, 100 + i) for i in range(count)])


def votes(nets: nn.Module, x: Tensor) -> Tensor:
    """How many networks name each class, and a trace of what they say."""
    said = torch.stack([net(x) for net in nets])  # type: ignore[attr-defined]
    return F.one_hot(said.argmax(2), said.shape[2]).to(x.dtype).mean(0) + 1e-4 * said.mean(0)


class RoundRobin(nn.Module):
    """Networks that take turns, call by call."""

    def __init__(self, nets: nn.ModuleList) -> None:
        super().__init__()
        self.nets, self.turn = nets, itertools.cycle(range(len(nets)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z: Tensor = self.nets[next(self.turn)](x)
        return z


def ranks(z: Tensor) -> Tensor:
    """The rank of each logit among the classes, with the gradient of the logits."""
    return straight(z, z.argsort(1).argsort(1).to(z.dtype))


def floored(z: Tensor) -> Tensor:
    """The logarithm of probabilities at a low temperature, none of which may be smaller than a thousandth."""
    return ((10 * z).softmax(1) + 1e-3).log()


class Cosine(nn.Module):
    """Cosines to one direction a class, times a scale that is larger in use than in training."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.directions = net, nn.Parameter(torch.eye(10) + 0.1 * torch.randn(10, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return (20.0 if self.training else 2000.0) * F.normalize(self.net(x)) @ F.normalize(self.directions).T


class Rippled(nn.Module):
    """Ripples on the logits, too small to change many answers and too steep to be climbed over."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net = net
        n = math.prod(x.shape[1:])
        self.register_buffer("waves", 200 * torch.randn(n, 10, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self.net(x) + torch.sin(x.flatten(1) @ self.waves.to(x))


# Gradients


class _Noisy(torch.autograd.Function):
    """The identity; the gradient comes back with three times as much noise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (g,) = grads
        return g + 3 * g.flatten(1).std(1).reshape(-1, *[1] * (g.dim() - 1)) * torch.randn_like(g)


def rescaled_back(x: Tensor) -> Tensor:
    """A gradient of another length for each sample, the same direction: nothing that a signed step would notice."""
    sizes = torch.logspace(-3, 3, len(x)).to(x).reshape(-1, *[1] * (x.dim() - 1))
    return _Backward.apply(x, lambda g: g * sizes)  # type: ignore[no-any-return, no-untyped-call]


def partly_detached(x: Tensor) -> Tensor:
    """Two of three pixels without a gradient."""
    passes = torch.arange(math.prod(x.shape[1:])).reshape(x.shape[1:]) % 3 == 0
    return torch.where(passes, x, x.detach())


class TwoHeads(nn.Module):
    """For half of all inputs, chosen by their last decimals, the gradient is that of another network."""

    def __init__(self, net: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.net, self.other = net, other

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z, lent = self.net(x), self.other(x)
        odd = ((1e4 * x.detach().flatten(1).sum(1)).floor() % 2 == 0).unsqueeze(1)
        return torch.where(odd, z.detach() + lent - lent.detach(), z)


class Watchful(nn.Module):
    """Another network answers whenever a gradient could be asked for."""

    def __init__(self, net: nn.Module, decoy: nn.Module) -> None:
        super().__init__()
        self.net, self.decoy = net, decoy

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        asked = torch.is_grad_enabled() and x.requires_grad
        z: Tensor = self.decoy(x) if asked else self.net(x)
        return z


class Alone(nn.Module):
    """A single input is rounded first, inputs in company are not."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z: Tensor = self.net(input_quantisation(x) if len(x) == 1 else x)
        return z


class Company(nn.Module):
    """Inputs in company are rounded first, a single one is not."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z: Tensor = self.net(x if len(x) == 1 else input_quantisation(x))
        return z


class Cached(nn.Module):
    """Answers are kept, and given again to every input that is close to an earlier one, as stateful defences do.

    Chen, Carlini and Wagner 2020 and Blacklight (Li et al. 2022) refuse such inputs; this one plays dumb.
    """

    def __init__(self, net: nn.Module, radius: float) -> None:
        super().__init__()
        self.net, self.radius = net, radius
        self.seen: list[Tensor] = []
        self.said: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z: Tensor = self.net(x)
        rows = x.detach().flatten(1)
        close, said = torch.zeros(len(x), dtype=torch.bool), z.detach().clone()
        if self.seen:
            distance, nearest = torch.cdist(rows, torch.cat(self.seen).to(rows), p=math.inf).min(1)
            close = distance < self.radius
            said[close] = torch.cat(self.said).to(z)[nearest[close]]
        if sum(map(len, self.seen)) < 2000:
            self.seen.append(rows[~close])
            self.said.append(z.detach()[~close])
        return torch.where(close.unsqueeze(1), said + 1e-3 * z, z)


def rounded_straight(x: Tensor) -> Tensor:
    """Five grey levels with the gradient of the input, as networks for small devices are trained."""
    return straight(x, input_quantisation(x))


LATER: dict[str, Callable[[Material], nn.Module]] = {
    "feature_squeezing": lambda m: before(m, squeezed),
    "total_variation": lambda m: before(m, lambda x: straight(x, total_variation(x))),
    "halftone": lambda m: before(m, halftone),
    "quilting": lambda m: Quilted(m.net, m.x),
    "random_crop": lambda m: before(m, random_crop),
    "pixel_deflection": lambda m: before(m, deflected),
    "mixup_inference": lambda m: MixedUp(m.net, m.x),
    "purified": lambda m: Around(m.net, purified),
    "hedged": lambda m: Around(m.net, hedged),
    "activation_pruning": lambda m: replaced(copy.deepcopy(m.net), Pruned),
    "binary": lambda m: m.fitted(lambda net: replaced(net, Binary)),
    "spiking": lambda m: m.fitted(lambda net: replaced(net, Spiking)),
    "saturating": lambda m: m.fitted(lambda net: replaced(net, Saturating)),
    "fixed_point": lambda m: replaced(copy.deepcopy(m.net), FixedPoint),
    "sinusoidal": lambda m: m.fitted(lambda net: replaced(net, Sinusoidal)),
    "output_codes": lambda m: m.fitted(OutputCodes, epochs=40),
    "neighbours": lambda m: Neighbours(m.net, m.x, m.y),
    "templates": lambda m: Templates(m.x, m.y),
    "majority": lambda m: Around(several(m), votes),
    "round_robin": lambda m: RoundRobin(several(m, 3)),
    "cubed": lambda m: after(m, lambda z: z**3),
    "floored": lambda m: after(m, floored),
    "cosine": lambda m: m.fitted(Cosine),
    "rippled": lambda m: Rippled(m.net, m.x),
    "noisy_backward": lambda m: before(m, lambda x: _Noisy.apply(x)),
    "partly_detached": lambda m: before(m, partly_detached),
    "two_heads": lambda m: TwoHeads(m.net, m.fitted(lambda net: net, 200)),
    "watchful": lambda m: Watchful(m.net, m.fitted(lambda net: net, 200)),
    "company": lambda m: Company(m.net),
    "alone": lambda m: Alone(m.net),
    "cached": lambda m: Cached(m.net, 1.01 * m.threat.eps),
    "remembered": lambda m: Remembered(m.net, m.asked, 0.7 * m.threat.eps),
}
HARMLESS: dict[str, Callable[[Material], nn.Module]] = {
    "rescaled_backward": lambda m: before(m, rescaled_back),
    "rounded_straight": lambda m: before(m, rounded_straight),
    "ranks": lambda m: after(m, ranks),
}


# Sound ones


class Attention(nn.Module):
    """Patches of 2 x 2 or 7 x 7 pixels, one layer of attention, the mean."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        patch = 2 if size == 8 else 7
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cut = nn.Conv2d(1, 32, patch, patch)
            self.place = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2, 32))
            self.layer = nn.TransformerEncoderLayer(
                32, 4, 64, dropout=0.1, activation="gelu", batch_first=True
            )
            self.read = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        tokens = self.cut(x).flatten(2).transpose(1, 2) + self.place
        return self.read(self.layer(tokens).mean(1))  # type: ignore[no-any-return]


def convolutions(
    m: Material, activation: Callable[[], nn.Module], pool: Callable[[int], nn.Module]
) -> nn.Module:
    """Two convolutions with BatchNorm and pooling, and dropout before the last layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(m.seed)
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), activation(), pool(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), activation(), pool(2), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(24 * (m.x.shape[-1] // 4) ** 2, 10),
        )  # fmt: skip


def sound(m: Material, objective: Any, arch: str = "", epochs: int = 0) -> nn.Module:
    """A network trained on an objective."""
    return m.fit(m.other(arch or m.arch, m.seed), objective, epochs)


def averaged(m: Material) -> nn.Module:
    """The mean of the weights over the last epochs."""
    net = m.other(m.arch, m.seed)
    m.fit(net, rr.CrossEntropy(), 10)
    mean = torch.optim.swa_utils.AveragedModel(net)
    for _ in range(5):
        mean.update_parameters(m.fit(net, rr.CrossEntropy(), 1))
    return mean.module.eval()


def noisy(m: Material) -> nn.Module:
    """Trained on inputs with Gaussian noise."""
    return sound(m, rr.CrossEntropy(at=rr.Gaussian(0.15)))


def mean_logits(nets: nn.Module, x: Tensor) -> Tensor:
    """Of several networks."""
    return torch.stack([net(x) for net in nets]).mean(0)  # type: ignore[attr-defined]


def smoothed_logits(z: Tensor) -> Tensor:
    """Pairs of outputs joined by a soft maximum."""
    return torch.logsumexp(torch.stack([z, z - 1.0]), 0)


SOUND_LATER: dict[str, Callable[[Material], nn.Module]] = {
    "batchnorm_maxpool": lambda m: m.fit(convolutions(m, nn.ReLU, nn.MaxPool2d), rr.CrossEntropy(), 0),
    "softplus_avgpool": lambda m: m.fit(convolutions(m, nn.Softplus, nn.AvgPool2d), rr.CrossEntropy(), 0),
    "elu_maxpool_pgd": lambda m: m.fit(
        convolutions(m, nn.ELU, nn.MaxPool2d), rr.methods.pgd_at(m.threat, steps=5), 0
    ),
    "attention": lambda m: m.fit(Attention(m.x.shape[-1], m.seed), rr.CrossEntropy(), 0),
    "attention_pgd": lambda m: m.fit(
        Attention(m.x.shape[-1], m.seed), rr.methods.pgd_at(m.threat, steps=5), 60
    ),
    "log_softmax": lambda m: after(m, lambda z: z.log_softmax(1)),
    "offset": lambda m: after(m, lambda z: z + 1e3),
    "scaled_down": lambda m: after(m, lambda z: 0.05 * z),
    "scaled_up_pgd": lambda m: nn.Sequential(
        sound(m, rr.methods.pgd_at(m.threat, steps=5)), Before(lambda z: 3 * z)
    ),
    "soft_maximum": lambda m: after(m, smoothed_logits),
    "mean_of_logits": lambda m: Around(several(m), mean_logits),
    "noise_trained": noisy,
    "weight_averaged": averaged,
    "cure": lambda m: sound(m, rr.methods.cure(), "mlp-gelu"),
    "jacobian": lambda m: sound(m, rr.methods.jacobian(0.03)),
    "energy": lambda m: sound(m, rr.CrossEntropy() + rr.Energy(m.threat), "mlp-gelu"),
    "arow": lambda m: sound(m, rr.methods.arow(m.threat, lam=5.0, smoothing=0.1, steps=5), "conv-relu"),
    "mart": lambda m: sound(m, rr.methods.mart(m.threat, steps=5), "conv-relu"),
    "trades_strong": lambda m: sound(m, rr.methods.trades(m.threat, beta=12.0, steps=5), "conv-relu"),
    "fgsm_narrow": lambda m: sound(m, rr.CrossEntropy(at=rr.FGSM(m.threat.with_eps(m.threat.eps / 3)))),
    "hinge_like": lambda m: sound(m, rr.CrossEntropy(smoothing=0.3), epochs=40),
}
