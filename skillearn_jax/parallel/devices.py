"""Floor 1: one place that knows on how many devices a step runs, and in which way."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from skillearn_jax.errors import InputError
from skillearn_jax.parallel.backends import (
    AXIS_NAME,
    Backend,
    OneDevice,
    Pmap,
    ShardMap,
)
from skillearn_jax.tracing import uncollected
from skillearn_jax.types import Array, PyTree

BACKENDS = ("pmap", "shard_map", "none")
"""Ways to run a step on several devices; `"none"`: on one, under `jit`."""


def check_alike() -> None:
    """Raises `InputError` if the processes of a run differ in their number of devices."""
    of_each = Counter(device.process_index for device in jax.devices())
    if len(set(of_each.values())) > 1:
        counts = ", ".join(str(of_each[process]) for process in sorted(of_each))
        raise InputError(
            f"the processes of this run have {counts} devices, and each must have the same "
            "number: start it on hosts that are alike, or let each see as many, by "
            "CUDA_VISIBLE_DEVICES for instance"
        )


@dataclass(frozen=True)
class Devices:
    """The devices of a run, those of all its processes: one under `jit`, or several.

    Attributes:
        count: the number of devices that a batch is split over.
        backend: of `BACKENDS`: how a step is mapped over several.
    """

    count: int
    backend: str = "pmap"

    @classmethod
    def take(cls, requested: int, backend: str = "pmap") -> "Devices":
        """Returns the first `requested` devices; 0 takes all, or one for `"none"`.

        Raises:
            InputError: if there are fewer, if several processes are to share fewer than
                they have or have not as many each, or if `"none"` is to run on several.
        """
        present, processes = jax.device_count(), jax.process_count()
        if not 0 <= requested <= present:
            several = f"these {processes} processes have"
            owner = several if processes > 1 else "this machine has"
            raise InputError(
                f"config.parallel.devices is {requested}, but {owner} {present} "
                f"({jax.default_backend()}): set --config.parallel.devices"
            )
        if backend == "none":
            if requested > 1 or processes > 1:
                raise InputError(
                    "config.parallel.backend is 'none', which runs on one device of one "
                    f"process, not on {requested or present} devices of {processes}: set "
                    "--config.parallel.backend=pmap"
                )
            requested = 1
        count = requested or present
        if processes > 1 and count < present:
            raise InputError(
                f"config.parallel.devices is {requested}, but {processes} processes use "
                f"all their devices, {present}: set --config.parallel.devices=0"
            )
        check_alike()
        return cls(count, backend)

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step averages; `None` on one device."""
        return AXIS_NAME if self.count > 1 else None

    def share(self, batch_size: int, flag: str = "") -> int:
        """Returns how many examples of a batch one device holds.

        Raises:
            InputError: if the batch cannot be divided; `flag` is the one to change.
        """
        if batch_size % self.count:
            change = f"set --{flag} to" if flag else "make it"
            raise InputError(
                f"a batch of {batch_size} cannot be split over {self.count} devices: "
                f"{change} a multiple of {self.count}, or set --config.parallel.devices"
            )
        return batch_size // self.count

    def part(self, indices: Array) -> Array:
        """Returns this device's part of a batch's indices; inside the step only.

        Raises:
            InputError: if the batch cannot be divided.
        """
        if self.count == 1:
            return indices
        size = self.share(len(indices))
        start = jax.lax.axis_index(AXIS_NAME) * size
        return jax.lax.dynamic_slice_in_dim(indices, start, size)

    def compile(self, step: Callable[..., Any], *args: PyTree) -> jax.stages.Compiled:
        """Returns `step` compiled for these arguments; the first one is donated.

        Args:
            step: a pure function; on several devices it is mapped over `AXIS_NAME` and
                returns the same on all of them.
            *args: placed by `place` or `split`, for their shapes.
        """
        with uncollected():
            return self._way().compile(step, *args)

    def place(self, tree: PyTree, *, donated: bool = True) -> PyTree:
        """Returns the tree on every device, as `compile` wants it.

        Args:
            tree: values that are equal in all processes.
            donated: the result shares no memory with the tree, which so outlives the
                first argument of a compiled step; otherwise it may.
        """
        return self._way().place(tree, donated=donated)

    def split(self, tree: PyTree) -> PyTree:
        """Returns a batch whose rows are split over the devices, as `compile` wants it.

        Args:
            tree: the rows of this process, as many as of every other: `[b, ...]` leaves,
                b a multiple of its devices.
        """
        return self._way().split(tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns the copy of this process's first device.

        It may share memory with `tree`, which must not be donated before it is read.
        """
        return self._way().fetch(tree)

    def _way(self) -> Backend:
        if self.count == 1:
            return OneDevice()
        devices = jax.devices()[: self.count]
        return ShardMap(devices) if self.backend == "shard_map" else Pmap(devices)
