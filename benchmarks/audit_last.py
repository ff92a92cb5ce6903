"""A third round of masked and sound models, written after the audit was changed for the second and not looked at since.

No check and no threshold was changed because of what the audit said of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from audit_later import Around, Material, after, before, mean_logits, several, straight
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.testing.planted import _Backward


class NearestImage(nn.Module):
    """Every input replaced by the training image that is nearest to it."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("known", x[:1000])

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self.net(self.known.to(x)[torch.cdist(x.flatten(1), self.known.to(x).flatten(1)).argmin(1)])


class Cleaned(nn.Module):
    """Principal components of the training images, of which the gradient sees a tenth, and that as the whole input."""

    def __init__(self, net: nn.Module, x: Tensor, rank: int = 20) -> None:
        super().__init__()
        self.net = net
        rows = x.flatten(1)
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("axes", torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:rank])

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        rows = x.detach().flatten(1) - self.mean
        seen = (rows @ self.axes.T @ self.axes + self.mean).reshape(x.shape)
        return self.net(0.9 * seen + 0.1 * x)


def stairs(x: Tensor) -> Tensor:
    """A staircase with rounded edges, flat at each of eight levels."""
    turn = 2 * math.pi * 8
    for _ in range(3):
        x = x - torch.sin(turn * x) / turn
    return x


def random_gamma(x: Tensor) -> Tensor:
    """Brightness and contrast drawn anew at every call."""
    return x.clamp(min=1e-3) ** (0.4 + 1.6 * torch.rand(len(x), *[1] * (x.dim() - 1)).to(x))


class FixedVotes(nn.Module):
    """Votes of copies with noise that is the same at every call, and a little of what they say."""

    def __init__(self, net: nn.Module, shape: torch.Size, votes: int = 9) -> None:
        super().__init__()
        self.net = net
        self.register_buffer(
            "noise", 0.2 * torch.randn(votes, *shape, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z = torch.stack([self.net(x + noise) for noise in self.noise])
        return 5 * F.one_hot(z.argmax(2), z.shape[2]).to(z).mean(0) + 0.01 * z.mean(0)


class Branched(nn.Module):
    """One of three networks answers, by the last decimals of the image's mean."""

    def __init__(self, nets: nn.ModuleList) -> None:
        super().__init__()
        self.nets = nets

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        chosen = (3000 * x.detach().flatten(1).mean(1)).long() % len(self.nets)
        said = torch.stack([net(x) for net in self.nets], 1)
        return said[torch.arange(len(x)), chosen]


class TurnedBack(nn.Module):
    """At every second backward the gradient comes back with the wrong sign."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.signs = net, itertools.cycle((1.0, -1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self.net(_Backward.apply(x, lambda g: next(self.signs) * g))  # type: ignore[no-any-return, no-untyped-call]


def coarse_floats(x: Tensor) -> Tensor:
    """Half precision far from zero: a rounding to sixteenths that automatic differentiation does not see."""
    return ((x.half() + 64) - 64).to(x)


def only_the_largest(z: Tensor) -> Tensor:
    """The largest logit above the mean, and nothing for the other classes."""
    z = z - z.mean(1, keepdim=True)
    return z * F.one_hot(z.argmax(1), z.shape[1])


def twice_softmax(z: Tensor) -> Tensor:
    """The logarithm of a softmax of a sharp softmax."""
    return (5 * (5 * z).softmax(1)).log_softmax(1)


class TopPixels(nn.Module):
    """Only the quarter of the pixels that the network's own gradient says matter least."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        u = x.detach().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.net(u).amax(1).sum(), u)
        rows = g.flatten(1).abs()
        kept = (rows <= rows.quantile(0.75, dim=1, keepdim=True)).reshape(x.shape)
        return self.net(x * kept)


class Lattice(nn.Module):
    """Inputs moved to the nearest point of a lattice turned at random, with the gradient left as it was."""

    def __init__(self, net: nn.Module, shape: torch.Size, pitch: float = 0.5) -> None:
        super().__init__()
        self.net, self.pitch = net, pitch
        n = math.prod(shape)
        turned = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0))).Q
        self.register_buffer("turned", turned)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        rows = x.detach().flatten(1) @ self.turned.to(x) / self.pitch
        return self.net(straight(x, ((rows.round() * self.pitch) @ self.turned.to(x).T).reshape(x.shape)))


LAST: dict[str, Callable[[Material], nn.Module]] = {
    "nearest_image": lambda m: NearestImage(m.net, m.x),
    "cleaned": lambda m: Cleaned(m.net, m.x),
    "stairs": lambda m: before(m, stairs),
    "random_gamma": lambda m: before(m, random_gamma),
    "fixed_votes": lambda m: FixedVotes(m.net, m.x.shape[1:]),
    "branched": lambda m: Branched(several(m, 3)),
    "turned_back": lambda m: TurnedBack(m.net),
    "coarse_floats": lambda m: before(m, coarse_floats),
    "only_the_largest": lambda m: after(m, only_the_largest),
    "twice_softmax": lambda m: after(m, twice_softmax),
    "levelled": lambda m: after(m, lambda z: 3 * (z - z.mean(1, keepdim=True)).atan()),
    "least_pixels": lambda m: TopPixels(m.net),
    "lattice": lambda m: Lattice(m.net, m.x.shape[1:]),
}


class Normalised(nn.Module):
    """Convolutions with GroupNorm and SiLU and a way around them."""

    def __init__(self, seed: int, slope: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.start = nn.Conv2d(1, 16, 3, padding=1, stride=2)
            self.body = nn.Sequential(
                nn.GroupNorm(4, 16), nn.PReLU() if slope else nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1)
            )
            self.read = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        h = self.start((x - 0.3) / 0.35)
        z: Tensor = self.read(h + self.body(h))
        return z


def flipped_mean(net: nn.Module, x: Tensor) -> Tensor:
    """The mean over an image and small shifts of it."""
    return torch.stack([net(torch.roll(x, i, -1)) for i in (-1, 0, 1)]).mean(0)


def half_precision(net: nn.Module, x: Tensor) -> Tensor:
    """In bfloat16, as for speed."""
    with torch.autocast("cpu", torch.bfloat16):
        z: Tensor = net(x)
    return z.float()


def cosines(net: nn.Module, x: Tensor) -> Tensor:
    """Outputs of one length, at a scale that is harmless."""
    return 10 * F.normalize(net(x))


SOUND_LAST: dict[str, Callable[[Material], nn.Module]] = {
    "group_norm": lambda m: m.fit(Normalised(m.seed, slope=False), rr.CrossEntropy(), 30),
    "group_norm_trades": lambda m: m.fit(
        Normalised(m.seed, slope=True), rr.methods.trades(m.threat, steps=5), 30
    ),
    "shifts": lambda m: Around(m.net, flipped_mean),
    "bfloat16": lambda m: Around(m.net, half_precision),
    "cosines": lambda m: m.fitted(lambda net: Around(net, cosines)),
    "several_pgd": lambda m: Around(
        nn.ModuleList(
            [m.fit(m.other(m.arch, m.seed + i), rr.methods.pgd_at(m.threat, steps=5), 0) for i in range(3)]
        ),
        mean_logits,
    ),
    "plain_long": lambda m: m.fit(m.other(m.arch, m.seed), rr.CrossEntropy(), 60),
    "gradient_strong": lambda m: m.fit(
        m.other(m.arch, m.seed), rr.CrossEntropy() + 1.0 * rr.GradientNorm(m.threat), 0
    ),
}
