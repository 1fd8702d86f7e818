"""Floor 4: the groups of config keys that say where and how a run runs."""

import dataclasses

from skillearn_jax.train.fields import number


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """Devices.

    Attributes:
        devices: how many to split a batch over; 0 takes all that this process sees.
    """

    devices: int = number(0, at_least=0)
