"""Two gloo processes perturb the weights alike, and step as one process does on the joined batch.

This file is also the program of the two processes: ``python test_weight_perturbation_ddp.py RANK FOLDER``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

import robustreg as rr
from robustreg.training import AWP, Handler, Trainer
from robustreg.training.weight_perturbation import perturbed, perturbed_weights, same_buffers

GAMMA, STEPS = 0.05, 3
THREAT = rr.Threat("l2", 0.5)


def objective() -> rr.Objective:
    attack = rr.PGD(THREAT, steps=2, start=rr.Clean())
    return rr.CrossEntropy() + 0.5 * rr.GradientNorm(THREAT) + rr.CrossEntropy(at=attack)


def data(rank: int = 0, world: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Batches of 11; two processes get 6 and 5 of them."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(STEPS, 11, 1, 6, 6, generator=g, dtype=torch.float64), torch.arange(11) % 3
    return [(batch[rank::world], y[rank::world]) for batch in x]


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 3)).double()


class Moved(Handler):
    """The weights that the loss is evaluated at, pass by pass."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def setup(self, trainer: Trainer) -> None:
        trainer.module.net.register_forward_pre_hook(self.note)

    def note(self, net: nn.Module, inputs: object) -> None:
        self.seen.append(torch.cat([p.detach().flatten() for p in net.parameters()]))


def trained(fabric: Fabric) -> dict[str, Tensor]:
    net, moved = make_net(), Moved()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    loader = data(fabric.global_rank, fabric.world_size)
    trainer = Trainer(
        rr.ObjectiveModule(net, objective(), seed=3),
        optimizer,
        loader,
        steps=STEPS,
        fabric=fabric,
        handlers=[AWP(GAMMA), moved],
    ).fit()
    return {
        **{name: p.detach().clone() for name, p in trainer.module.net.named_parameters()},
        "moved": torch.stack(moved.seen),
    }


def by_contexts(module: rr.ObjectiveModule, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The same steps in a loop of one's own."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for step, (x, y) in enumerate(batches):
        with module.holding_points():
            with same_buffers(module.net):
                module(x, y, step=step).backward()
            with perturbed(perturbed_weights(module.net), GAMMA):
                optimizer.zero_grad()
                module(x, y, step=step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat(
        [getattr(p, "full_tensor", lambda p=p: p)().detach().flatten() for p in module.parameters()]
    )


def main(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # so that Fabric takes the processes that are there
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    fabric.launch()
    found = trained(fabric)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    sharded = fully_shard(rr.ObjectiveModule(make_net(), objective(), seed=3), mesh=mesh)
    even = [(x[:10][rank::2], y[:10][rank::2]) for x, y in data()]
    found["fsdp"] = by_contexts(sharded, even)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # without the interpreter's own tidying up, in which torch's threads sometimes abort


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What the two processes found."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("awp")
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output.decode()[-4000:]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_step_as_one_on_the_joined_batch(processes: list[dict[str, Tensor]]) -> None:
    """Attack, double backward and momentum on shards of 6 and 5 samples, in float64."""
    one = trained(Fabric(accelerator="cpu", devices=1, precision="64-true"))
    for found in processes:
        for name, value in one.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_the_perturbation_is_the_same_bits_in_each(processes: list[dict[str, Tensor]]) -> None:
    assert torch.equal(processes[0]["moved"], processes[1]["moved"])
    assert len(processes[0]["moved"].unique(dim=0)) == 2 * STEPS  # the weights, and the perturbed ones


def test_sharded_at_the_root(processes: list[dict[str, Tensor]]) -> None:
    one = by_contexts(
        rr.ObjectiveModule(make_net(), objective(), seed=3), [(x[:10], y[:10]) for x, y in data()]
    )
    for found in processes:
        torch.testing.assert_close(found["fsdp"], one, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
