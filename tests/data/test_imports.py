from __future__ import annotations

import subprocess
import sys


def test_data_and_models_load_no_optional_library():
    optional = {"sklearn", "scipy", "pooch", "torchvision", "PIL", "lightning_fabric", "typer", "pydantic"}
    code = f"import sys, robustreg.data, robustreg.models; print(sorted({optional!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
