"""Floor 4: the groups of config keys that say where and how a run runs."""

import dataclasses

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
    """

    devices: int = number(0, at_least=0)
    backend: str = choice("pmap", BACKENDS)
