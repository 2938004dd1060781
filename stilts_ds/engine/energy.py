"""Energy that a rank's GPU uses, from the counter of NVIDIA's driver (NVML; Volta and newer).

What host processors, memory and network use is not in it. A GPU that is cut into instances (MIG) has no such counter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch

log = logging.getLogger(__name__)


@cache  # asked for every phase, told once
def energy_counter(device: torch.device) -> Callable[[], float | None]:
    """A function that returns joules since the driver was loaded; None wherever they cannot be read."""
    if device.type != "cuda":
        return lambda: None
    try:
        import pynvml
    except ImportError:
        log.info("the energy of GPUs is not counted: pip install 'stilts-ds[energy]'")
        return lambda: None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as problem:
        log.info("the energy of this GPU is not counted: %s", problem)
        return lambda: None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # it counts millijoules
