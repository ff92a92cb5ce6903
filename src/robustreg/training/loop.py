"""The training loop, whole, on Lightning Fabric.

One step is one call of the wrapped `ObjectiveModule`: attack, penalties and loss happen inside its forward
pass, the one form that is exact under DDP, FSDP and mixed precision. Everything that is not the loop
(checkpoints, weight averaging, logging, validation, guards, Ctrl-C) is a `Handler` that listens to its
events.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from robustreg.heap import keep_heap
from robustreg.module import ObjectiveModule
from robustreg.training import random_state
from robustreg.training.batches import Batches
from robustreg.training.handler import Handler
from robustreg.training.precision import prepare_precision


class Trainer:
    """Trains an `ObjectiveModule` on batches `(x [B, ...], y [B])` for a number of epochs or of steps.

    Args:
        module: the objective on the bare network; not wrapped by Fabric or DDP yet.
        optimizer: any torch optimiser over the network's parameters.
        loader: gives one epoch of batches each time it is iterated; with the samples' places in the data as a
            third tensor `index [B]` where a term asks for them. With `state_dict` and `load_state_dict`
            it is asked for its position; without, a resume replays the epoch up to the position.
        epochs, steps: how long; give one of them. `epochs` needs a loader with a length.
        scheduler: stepped after every update.
        fabric: device, precision and strategy; by default one device, 32-bit.
        handlers: who listens; heard in the order of their `order`.
        run_dir: folder that handlers write to.

    Attributes:
        step, epoch: completed so far. total: all steps of the run. status: "new", "running", "finished",
            "interrupted" or "failed".
        batch: of the step in hand. loss, values: scalar tensors of the last step, detached. lr, seconds: its learning
            rate and duration.
        eval_net: the network to validate and to save as the result; the live one unless a handler averages.
        scores: the last validation's results, if something validates.
    """

    def __init__(
        self,
        module: ObjectiveModule,
        optimizer: torch.optim.Optimizer,
        loader: Iterable[tuple[Tensor, ...]],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        scheduler: LRScheduler | None = None,
        fabric: Fabric | None = None,
        handlers: Sequence[Handler] = (),
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.fabric = Fabric(devices=1) if fabric is None else fabric
        prepare_precision(self.fabric)
        self.module, self.optimizer, self.scheduler = module, optimizer, scheduler
        self.batches = Batches(loader)
        self.total = _total_steps(epochs, steps, self.batches)
        self.handlers = sorted(handlers, key=lambda handler: handler.order)
        self.run_dir = None if run_dir is None else Path(run_dir)

        self.step = self.epoch = 0
        self.status = "new"
        self.error: BaseException | None = None
        self.stopping = False
        self.batch: tuple[Tensor, ...] = ()
        self.loss = torch.tensor(math.nan)
        self.values: dict[str, Tensor] = {}
        self.lr = self.seconds = math.nan
        self.scores: dict[str, float] = {}

        self.wrapped, self.wrapped_optimizer = self.fabric.setup(module, optimizer)
        module.rank = self.fabric.global_rank  # processes draw different random points
        self.eval_net: nn.Module = module.net
        self.emit("setup")

    # The loop

    def fit(self) -> Trainer:
        """Train until done or until `stop` is called. Handlers hear of an error before it passes through."""
        self.status = "running"
        keep_heap()
        try:
            self.emit("start")
            while self.step < self.total and not self._asked_to_stop():
                self._train_epoch()
            self.status = "interrupted" if self.step < self.total else "finished"
            if self.status == "interrupted":
                self.emit("interrupt")
        except BaseException as error:
            self.status, self.error = "failed", error
            self.emit("exception")
            raise
        finally:
            self.emit("end")
        return self

    def _train_epoch(self) -> None:
        self.emit("epoch_start")
        self.module.train()
        for batch in self.batches:  # after a resume: the rest of the epoch
            self._train_step(*batch)
            if self.step == self.total and self.batches.at_end:
                continue  # the loader ends by itself, and the epoch with it
            if self.step == self.total or self._asked_to_stop():
                return
        self.epoch += 1
        self.emit("epoch_end")

    def _train_step(self, *batch: Tensor) -> None:
        started = time.perf_counter()
        self.batch = self.fabric.to_device(batch)
        self.emit("step_start")
        with ExitStack() as around:
            for handler in self.handlers:
                around.enter_context(handler.around_gradients(self))
            self.find_gradients()
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.emit("gradients")
        self.wrapped_optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.emit("updated")
        self.seconds = time.perf_counter() - started
        self.step += 1
        self.emit("step_end")

    def find_gradients(self) -> None:
        """Loss, values and gradients of the step's batch at the weights that the network has now."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.wrapped(*self.batch, step=self.step, progress=self.step / self.total)
        self.fabric.backward(loss * self._share(len(self.batch[0])))
        self.loss, self.values = loss.detach(), dict(self.module.values)

    def stop(self) -> None:
        """Ask for a clean end after the step in hand; may be called from a signal handler."""
        self.stopping = True

    def emit(self, event: str) -> None:
        """Tell every handler, in order."""
        for handler in self.handlers:
            getattr(handler, event)(self)

    # Exact resume

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on: tensors and JSON-able values. All processes must call it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "total": self.total,
            "seed": torch.initial_seed() if self.module.seed is None else self.module.seed,
            "network": self.module.net.state_dict(),
            "objective": self.module.objective.state_dict(),
            "optimizer": {type(self.optimizer).__name__: self.optimizer.state_dict()},
            "schedule": None if self.scheduler is None else self.scheduler.state_dict(),
            "batches": self.batches.state_dict(),
            "scores": self.scores,
            "handlers": {type(h).__name__: state for h in self.handlers if (state := h.state_dict())},
            "random": self._from_all(random_state.capture()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken, before `fit`. `checkpoint.resume` checks that it fits."""
        self.step, self.epoch, self.scores = state["step"], state["epoch"], dict(state["scores"])
        self.module.seed = state["seed"]
        self.module.net.load_state_dict(state["network"])
        self.module.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"][type(self.optimizer).__name__])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["schedule"])
        self.batches.load_state_dict(state["batches"])
        for handler in self.handlers:
            if type(handler).__name__ in state["handlers"]:
                handler.load_state_dict(state["handlers"][type(handler).__name__])
        random_state.restore(state["random"][self.fabric.global_rank])

    # Several devices, precisions and processes

    def to_net(self, batch: Any) -> Any:
        """Tensors on the network's device, floating ones in the precision that its inputs have."""
        return self.fabric._precision.convert_input(self.fabric.to_device(batch))

    def all_sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in each of them."""
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value.clone().to(self.fabric.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _share(self, rows: int) -> float | Tensor:
        """Weight that makes the mean over processes the mean over all rows, when batches differ in size."""
        world = self.fabric.world_size
        if world == 1:
            return 1.0
        return rows * world / self.all_sum(torch.tensor(rows, dtype=torch.float64))

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop: all must leave at the same step, or the rest hang."""
        if self.fabric.world_size > 1:
            self.stopping = bool(self.all_sum(torch.tensor(float(self.stopping))) > 0)
        return self.stopping

    def _from_all(self, item: Any) -> list[Any]:
        """The item of every process, in the order of their ranks."""
        items = [item] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(items, item)
        return items


def _total_steps(epochs: int | None, steps: int | None, batches: Batches) -> int:
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"give either epochs or steps, not both or neither (epochs={epochs}, steps={steps})."
        )
    if steps is not None:
        total = steps
    elif batches.length is None:
        raise ValueError(
            "the loader has no length, so an epoch has no known end: give steps instead of epochs."
        )
    else:
        total = epochs * batches.length if epochs is not None else 0
    if total < 1:
        raise ValueError(
            f"training needs at least one step (epochs={epochs}, steps={steps}, batches={batches.length})."
        )
    return total
