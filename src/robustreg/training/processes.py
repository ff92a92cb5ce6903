"""Several processes, one a device: started here on one machine, or by torchrun on several."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric

_INTERRUPTED = 130


def of_many() -> bool:
    """Whether this is one of several processes that `start` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this is the process that writes files and prints: the only one, or that of rank 0."""
    return not of_many() or int(os.environ["RANK"]) == 0


def joined(accelerator: str, precision: str) -> Fabric:
    """A launched Fabric of all these processes, under DDP."""
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // here
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=nodes,
        strategy="ddp",
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def leave() -> None:
    """End this process's part in what they do together."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start(processes: int, module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module arguments` in so many processes on this machine; returns the first bad exit status, or 0.

    Ctrl-C reaches all of them, and this waits until they have saved what they have. One that fails ends the others.
    """
    world = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    command = [sys.executable, "-m", module, *arguments]
    jobs = [
        subprocess.Popen(command, env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # after they began: they would inherit it
    try:
        bad = 0
        while True:
            statuses = [job.poll() for job in jobs]
            bad = bad or next((status for status in statuses if status), 0)
            if None not in statuses:
                return bad
            if bad and bad != _INTERRUPTED:
                for job in jobs:
                    job.terminate()
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
