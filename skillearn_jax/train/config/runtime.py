"""Floor 4: the groups of config keys that say where and how a run runs."""

import dataclasses

from skillearn_jax.layers import PerDevice
from skillearn_jax.parallel import BACKENDS
from skillearn_jax.train.fields import choice, number


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """Devices.

    Attributes:
        devices: how many to split a batch over; 0 takes all, those of other processes
            included.
        backend: how a step is mapped over several: `pmap` or `shard_map`; `none` runs
            on one device.
        batch_norm: `synchronized`: statistics are those of the whole batch, whatever the
            number of devices; `per_device`: each device's of its own part, as on most
            GPUs elsewhere: less is sent, and the number of devices matters.
    """

    devices: int = number(0, at_least=0)
    backend: str = choice("pmap", BACKENDS)
    batch_norm: str = choice("synchronized", ("synchronized", "per_device"))

    def statistics_axis(self, axis_name: str | None) -> str | None:
        """Returns the axis name as networks with batch statistics are to be given it."""
        if axis_name is not None and self.batch_norm == "per_device":
            return PerDevice(axis_name)
        return axis_name
