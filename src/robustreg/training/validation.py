"""Clean and robust accuracy on the validation split while training runs. The test set has no place here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor, nn

from robustreg.files import PathLike
from robustreg.modes import running
from robustreg.training.handler import Handler
from robustreg.training.table import Table

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer

Attack = Callable[..., Tensor]  # attack(model, x [B, ...], y [B], generator=...) -> x_adv [B, ...]


class Slices(Protocol):
    """Samples that can be taken by slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> tuple[Tensor, Tensor]: ...


class Validation(Handler):
    """Measures every `every` epochs, and at the end; writes validation.csv and `trainer.scores`.

    The averaged network is measured where there is one. The attack draws from a generator seeded the same way
    each time, so epochs are compared under equal starts, and training's random numbers are not touched.

    Args:
        data: the split, cut from the training data; `data[i:j]` gives `(x [B, ...], y [B])` as the network
            takes them (`ArrayData`, or a torch `TensorDataset`).
        attack: called as `attack(model, x, y, generator=...)`; None measures clean accuracy only.
        path: the CSV file, or None.
    """

    order: ClassVar[int] = 30

    def __init__(
        self,
        data: Slices,
        attack: Attack | None,
        *,
        every: int = 1,
        batch_size: int = 500,
        seed: int = 0,
        path: PathLike | None = None,
    ) -> None:
        for name, value in (
            ("every", every),
            ("batch_size", batch_size),
            ("the number of samples", len(data)),
        ):
            if value < 1:
                raise ValueError(f"validation: {name} must be at least 1, got {value}.")
        self.data, self.attack = data, attack
        self.every, self.batch_size, self.seed = every, batch_size, seed
        self.table = None if path is None else Table(path)

    def start(self, trainer: Trainer) -> None:
        """Open the file, cut back to the step that training goes on from."""
        if self.table is not None and trainer.fabric.is_global_zero:
            # A checkpoint that does not know this step's result was written before it: measure again.
            known = trainer.scores.get("step") == trainer.step
            self.table.begin(trainer.step if known else trainer.step - 1)

    def epoch_end(self, trainer: Trainer) -> None:
        """Measure, every so many epochs."""
        if trainer.epoch % self.every == 0:
            self.measure(trainer)

    def end(self, trainer: Trainer) -> None:
        """Measure the final network unless that was done just now, and close the file."""
        if trainer.status == "finished" and trainer.scores.get("step") != trainer.step:
            self.measure(trainer)
        if self.table is not None:
            self.table.close()

    def saving(self, trainer: Trainer) -> None:
        """Rows before a checkpoint must be as safe as the checkpoint."""
        if self.table is not None:
            self.table.flush()

    def measure(self, trainer: Trainer) -> None:
        """Set `trainer.scores` to epoch, step and accuracies (fractions), and write the row."""
        right = torch.zeros(2, dtype=torch.float64, device=trainer.fabric.device)
        rank, world = trainer.fabric.global_rank, trainer.fabric.world_size
        generator = torch.Generator(device=trainer.fabric.device).manual_seed(self.seed + rank)
        for x, y in self._batches(rank, world):
            x, y = trainer.to_net((x, y))
            right += correct(trainer.eval_net, x, y, self.attack, generator).sum(dim=1)
        clean, robust = (trainer.all_sum(right) / len(self.data)).tolist()
        trainer.scores = {"epoch": trainer.epoch, "step": trainer.step, "clean": clean}
        if self.attack is not None:
            trainer.scores["robust"] = robust
        if self.table is not None and trainer.fabric.is_global_zero:
            self.table.append({"epoch": trainer.epoch, "step": trainer.step, "clean": clean,
                               "robust": trainer.scores.get("robust")})  # fmt: skip

    def _batches(self, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(rank * self.batch_size, len(self.data), world * self.batch_size):
            yield self.data[start : start + self.batch_size]


def correct(
    net: nn.Module, x: Tensor, y: Tensor, attack: Attack | None, generator: torch.Generator
) -> Tensor:
    """`[2, B]` in float64: 1 where the sample is classified rightly as it is, and also under the attack.

    A sample that is wrong as it is counts as wrong under attack, whatever the attack finds.
    """
    with running(net, "eval"), torch.no_grad():
        clean = net(x).argmax(dim=1) == y
    robust = clean.clone()
    if attack is not None and bool(clean.any()):
        x_adv = attack(net, x, y, generator=generator)
        with running(net, "eval"), torch.no_grad():
            robust &= net(x_adv).argmax(dim=1) == y
    return torch.stack([clean, robust]).double()
