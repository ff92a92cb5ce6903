"""Every module can be the first of the package to be imported."""

from __future__ import annotations

import importlib
import subprocess
import sys

MODULES = (
    "losses numerics threat modes streams points probe terms objective plan module schedules "
    "methods penalties attacks registry"
)


def test_whatever_comes_first() -> None:
    there = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120)
    assert there.returncode == 0, there.stderr


def main() -> None:
    for name in MODULES.split():
        for loaded in [m for m in sys.modules if m.partition(".")[0] == "robustreg"]:
            del sys.modules[loaded]
        importlib.import_module(f"robustreg.{name}")


if __name__ == "__main__":
    main()
