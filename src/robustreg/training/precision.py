"""What Fabric's precisions must and must not do to a step of robust training."""

from __future__ import annotations

from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision


def prepare_precision(fabric: Fabric) -> None:
    """Refuse float16, and keep Fabric from rounding what goes into a step and what comes out.

    Fabric rounds inputs to bfloat16 under "bf16-mixed". Near 1 its steps are 1/256, about as large as an eps of
    interest: the perturbation would be rounded with its pixel and leave its ball. Autocast inside the network is
    what is wanted of mixed precision, and no more. It also rounds the loss to float32 under "64-true", and the
    gradients with it.

    Raises:
        ValueError: "16-mixed".
    """
    plugin = fabric._precision
    if plugin.precision == "16-mixed":
        raise ValueError(
            'precision "16-mixed" scales the loss, which overflows in penalties on gradients; use "bf16-mixed".'
        )
    if isinstance(plugin, MixedPrecision):
        plugin.convert_input = _as_it_is  # type: ignore[method-assign]
    plugin.convert_output = _as_it_is  # type: ignore[method-assign]


def _as_it_is(data: Any) -> Any:
    return data
