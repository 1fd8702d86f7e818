"""Floor 1: one place that knows whether a step runs on one device or on several."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import jax_utils

from skillearn_jax.errors import InputError
from skillearn_jax.types import Array, PyTree

AXIS_NAME = "devices"
"""The name of the mapped axis that every mean and sum over devices uses."""


@dataclass(frozen=True)
class Devices:
    """The local devices of a run: one under `jit`, several under `pmap`.

    Attributes:
        count: the number of devices that a batch is split over.
    """

    count: int

    @classmethod
    def take(cls, requested: int) -> "Devices":
        """Returns the first `requested` devices; 0 takes all.

        Raises:
            InputError: if there are fewer.
        """
        present = jax.local_device_count()
        if not 0 <= requested <= present:
            raise InputError(
                f"config.parallel.devices is {requested}, but this machine has {present} "
                f"({jax.default_backend()}): set --config.parallel.devices"
            )
        return cls(requested or present)

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step averages; `None` on one device."""
        return AXIS_NAME if self.count > 1 else None

    def share(self, batch_size: int, flag: str) -> int:
        """Returns the part of a batch that one device holds.

        Raises:
            InputError: if the batch cannot be divided; `flag` is the one to change.
        """
        if batch_size % self.count:
            raise InputError(
                f"a batch of {batch_size} cannot be split over {self.count} devices: "
                f"set --{flag} to a multiple of {self.count}, or --config.parallel.devices"
            )
        return batch_size // self.count

    def part(self, indices: Array) -> Array:
        """Returns this device's part of a batch's indices; inside the step only."""
        if self.count == 1:
            return indices
        size = len(indices) // self.count
        start = jax.lax.axis_index(AXIS_NAME) * size
        return jax.lax.dynamic_slice_in_dim(indices, start, size)

    def compile(self, step: Callable[..., Any], *args: PyTree) -> Callable[..., Any]:
        """Returns `step` compiled for these arguments; the first one is donated.

        Args:
            step: a pure function; on several devices it is mapped over `AXIS_NAME`.
            *args: placed by `place`, for their shapes.
        """
        if self.count == 1:
            return jax.jit(step, donate_argnums=0).lower(*args).compile()
        mapped = jax.pmap(step, AXIS_NAME, devices=self._devices(), donate_argnums=(0,))
        return mapped.lower(*args).compile()

    def place(self, tree: PyTree) -> PyTree:
        """Returns a copy on every device: with a leading device axis if several."""
        if self.count == 1:
            return jax.tree.map(jnp.copy, tree)
        return jax_utils.replicate(tree, self._devices())

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns the copy of the first device."""
        if self.count == 1:
            return tree
        return jax.tree.map(lambda leaf: leaf[0], tree)

    def _devices(self) -> list[jax.Device]:
        return jax.local_devices()[: self.count]
