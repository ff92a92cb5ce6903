"""The heap keeps what a step will want again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from robustreg.heap import keep_heap
from robustreg.models import build

torch.set_num_threads(1)
if {keep}:
    keep_heap()
net = build("small_conv", shape=(1, 8, 8), width=16, activation="gelu", seed=0)
x = torch.rand(400, 1, 8, 8)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    u = x.clone().requires_grad_()
    torch.autograd.grad(net(u).logsumexp(1).sum(), u)

for _ in range(5):
    step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""


def pages_asked_for(keep: bool) -> int:
    """From the system, by twenty steps of a small network."""
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's heap that is kept")
def test_a_step_does_not_ask_the_system_for_memory_again() -> None:
    before = pages_asked_for(keep=False)
    if before < 2000:
        pytest.skip("this heap keeps its memory by itself: another allocator, or limits from the environment")
    assert pages_asked_for(keep=True) < 0.1 * before
