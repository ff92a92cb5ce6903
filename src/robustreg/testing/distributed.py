"""Two processes: each gives the mean of the gradients that the two halves of a batch have on their own."""

from __future__ import annotations

import copy
import pickle
import tempfile
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustreg.module import ObjectiveModule
from robustreg.objective import Objective
from robustreg.terms import CrossEntropy, Term
from robustreg.testing import networks
from robustreg.testing.check import ContractError
from robustreg.testing.networks import LINF, Batch, Shape, shape_of
from robustreg.threat import Threat

WORLD = 2
STEPS = 2  # an engine may do something else the first time, and a memory may have changed


def check_distributed(
    terms: Sequence[Term],
    *,
    threat: Threat | None = None,
    shape: Shape | None = None,
    classes: int = 4,
    timeout: float = 600.0,
) -> None:
    """Train a step of every term, beside the cross-entropy, in two processes under DDP.

    Each process has half of the batch. Their common gradient must be the mean of the two that the halves have in one
    process. The processes are started anew (``spawn``) and take seconds to start, so give all terms at once; a script
    calls this under ``if __name__ == "__main__":``.

    Args:
        terms: instances that can be pickled, so of importable classes.
        threat, shape, classes: as for ``term_checks``.
        timeout: seconds that the processes may take.

    Raises:
        ContractError: which term has another gradient or did not finish.
        RuntimeError: this build of torch has no gloo.
    """
    if not (dist.is_available() and dist.is_gloo_available()):
        raise RuntimeError("this build of torch has no gloo, so two processes cannot be tried")
    threats = [t for term in terms for t in term.threats()] or [threat or LINF]
    shape = shape or shape_of(threats)
    batch = networks.samples(shape, classes, threats, 8).to(torch.float64)
    objectives = [(CrossEntropy() + copy.deepcopy(term)).with_threat(threat or threats[0]) for term in terms]
    found = _in_two_processes(objectives, batch, shape, classes, timeout)
    wrong = []
    for number, (term, objective) in enumerate(zip(terms, objectives, strict=True)):
        own = [_module(copy.deepcopy(objective), shape, classes, rank) for rank in range(WORLD)]
        halves = [_gradients(module, _half(batch, rank)) for rank, module in enumerate(own)]
        expected = torch.stack([torch.stack(half) for half in halves]).mean(0)
        for result in found:
            error = float((result[number] - expected).abs().max())
            if not error <= 1e-10 * max(1.0, float(expected.abs().max())):
                wrong.append(f"{term.name}: {error:.1e}")
                break
    if wrong:
        raise ContractError(
            "under DDP two processes give another gradient than the mean of their halves (largest difference): "
            + ", ".join(wrong)
        )


def _in_two_processes(
    objectives: list[Objective], batch: Batch, shape: Shape, classes: int, timeout: float
) -> list[list[Tensor]]:
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, objectives, batch, shape, classes, timeout)
        processes = [context.Process(target=_work, args=(rank, *arguments)) for rank in range(WORLD)]
        try:
            for process in processes:
                _start(process)
            for process in processes:
                process.join(timeout)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        return [_result(Path(folder), rank) for rank in range(WORLD)]


def _start(process: Any) -> None:
    try:
        process.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"two processes need terms that can be pickled, so of importable classes: {error}"
        ) from error


def _work(
    rank: int,
    folder: str,
    objectives: list[Objective],
    batch: Batch,
    shape: Shape,
    classes: int,
    timeout: float,
) -> None:
    """One of the processes: the gradients of every objective at every step, to a file."""
    torch.set_num_threads(1)
    place, found, doing = Path(folder), [], "the start of the processes"
    try:
        dist.init_process_group(
            "gloo",
            init_method=(place / "meeting").as_uri(),
            rank=rank,
            world_size=WORLD,
            timeout=timedelta(seconds=timeout),
        )
        for objective in objectives:
            doing = objective.names[-1]
            module = nn.parallel.DistributedDataParallel(_module(objective, shape, classes, rank))
            found.append(torch.stack(_gradients(module, _half(batch, rank))))
        torch.save(found, place / f"{rank}.pt")
        dist.barrier()
    except Exception:
        (place / f"{rank}.txt").write_text(f"{doing}: {traceback.format_exc().strip().splitlines()[-1]}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _result(folder: Path, rank: int) -> list[Tensor]:
    if not (folder / f"{rank}.pt").is_file():
        notes = [file.read_text() for file in sorted(folder.glob("*.txt"))]
        raise ContractError(f"two processes did not finish: {'; '.join(notes) or 'no reason is known'}")
    found: list[Tensor] = torch.load(folder / f"{rank}.pt", weights_only=True)
    return found


def _module(objective: Objective, shape: Shape, classes: int, rank: int) -> ObjectiveModule:
    return ObjectiveModule(networks.smooth(shape, classes).double(), objective, seed=0, rank=rank)


def _half(batch: Batch, rank: int) -> Batch:
    return batch.rows(torch.arange(len(batch)).chunk(WORLD)[rank])


def _gradients(module: Any, batch: Batch) -> list[Tensor]:
    """The parameter gradient of each step."""
    found = []
    for step in range(STEPS):
        module.zero_grad()
        module(batch.x, batch.y, batch.index, step=step, progress=0.5).backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    return found
