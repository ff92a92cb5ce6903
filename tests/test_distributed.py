"""Two gloo processes give the gradients of one process on the joined batch, penalties and attacks included.

This file is also the program of the two processes: ``python test_distributed.py RANK FOLDER``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import robustreg as rr

LINF, L2 = rr.Threat("linf", 0.1), rr.Threat("l2", 0.3)

OBJECTIVES = {
    "penalty": rr.CrossEntropy() + 0.5 * rr.GradientNorm(LINF),
    "squared": rr.CrossEntropy() + 5 * rr.GradientNorm(L2, squared=True),
    "difference": rr.CrossEntropy() + rr.GradientNorm(L2, estimator="central"),
    "perturbed": rr.Objective.of(rr.Perturbed(L2)),
    "one backward": rr.CrossEntropy() + rr.Perturbed(L2) + 0.1 * rr.GradientNorm(L2, estimator="forward"),
    "everything": rr.CrossEntropy()
    + rr.GradientNorm(L2)
    + rr.CrossEntropy(at=rr.PGD(LINF, 2, start=rr.Clean()))
    + rr.weighted(rr.GradientNorm(LINF), by=rr.Vulnerability(rr.FGSM(LINF)))
    + 0 * rr.Perturbed(LINF),
}


def joined_batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(8, 1, 4, 4, generator=g, dtype=torch.float64), torch.arange(8) % 3


def module_of(objective: rr.Objective, rank: int = 0) -> rr.ObjectiveModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)).double()
    return rr.ObjectiveModule(net, objective, seed=0, rank=rank)


def gradient(module: nn.Module) -> Tensor:
    grads = [p.grad for p in module.parameters()]
    return torch.cat([getattr(g, "full_tensor", lambda g=g: g)().flatten() for g in grads])


def main(rank: int, folder: Path) -> None:
    """One of two processes: the gradient of each objective under each engine, to a file."""
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    x, y = (t.chunk(2)[rank] for t in joined_batch())
    engines = {
        "ddp": DistributedDataParallel,
        "ddp_static": lambda m: DistributedDataParallel(m, static_graph=True),
        "ddp_unused": lambda m: DistributedDataParallel(m, find_unused_parameters=True),
        "fsdp": lambda m: fully_shard(m, mesh=mesh),
    }
    found = {}
    for engine, wrap in engines.items():
        for name, objective in OBJECTIVES.items():
            module = wrap(module_of(objective, rank))
            for step in range(2):  # an engine may do something else the first time
                module.zero_grad()
                module(x, y, step=step).backward()
            found[f"{engine} {name}"] = gradient(module)
    uniform = module_of(rr.Objective.of(rr.CrossEntropy(at=rr.Uniform(LINF))), rank)
    found["random"] = uniform(joined_batch()[0], joined_batch()[1], step=0).detach()
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What the two processes found."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("distributed")
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output.decode()
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("engine", ["ddp", "ddp_static", "ddp_unused", "fsdp"])
def test_two_processes_give_the_gradient_of_one(
    engine: str, name: str, results: list[dict[str, Tensor]]
) -> None:
    single = module_of(OBJECTIVES[name])
    single(*joined_batch(), step=0).backward()
    for found in results:
        torch.testing.assert_close(found[f"{engine} {name}"], gradient(single), rtol=0, atol=1e-12)


def test_processes_draw_numbers_of_their_own(results: list[dict[str, Tensor]]) -> None:
    assert results[0]["random"] != results[1]["random"]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
