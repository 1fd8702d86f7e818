"""What a benchmark's numbers depend on: device, processor, versions."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

import jax


def machine(libraries: Sequence[str] = ("jax", "jaxlib", "flax")) -> dict[str, Any]:
    """Returns the device, the processor and the versions of some libraries."""
    installed = {}
    for library in libraries:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            installed[library] = "absent"
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "cpu": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        "versions": installed,
    }
