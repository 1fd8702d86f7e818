"""Floor 4: the groups of config keys that say where and how a run runs."""

import dataclasses

from skillearn_jax.layers import Axis, PerDevice
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
        tester_optimizer: `sharded`: of n devices each holds 1 / n of the momentum of
            encoder and executor, and more is sent; `replicated`: all of it.
    """

    devices: int = number(0, at_least=0)
    backend: str = choice("pmap", BACKENDS)
    batch_norm: str = choice("synchronized", ("synchronized", "per_device"))
    tester_optimizer: str = choice("replicated", ("replicated", "sharded"))

    def statistics_axis(self, axis_name: str | None) -> Axis:
        """Returns the axis as networks with batch statistics are to be given it."""
        if axis_name is not None and self.batch_norm == "per_device":
            return PerDevice(axis_name)
        return axis_name


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """What a run writes beside metrics.jsonl.

    Attributes:
        tensorboard: the metrics as event files too, in `tensorboard/`.
    """

    tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state of a run is saved, and what stays; the end of a phase always is.

    Attributes:
        every_epochs: save at the end of every n-th epoch; 0 for not.
        every_steps: save every n steps; 0 for not.
        every_minutes: save when the last one is n minutes old; 0 for not.
        keep: checkpoints that stay, the newest.
        keep_best: checkpoints of the search that stay beside those, by `best_metric`.
        best_metric: of metrics.jsonl, the lower the better; its mean since the save
            before. The warm-up has no validation, so none of its checkpoints is a best.
    """

    every_epochs: int = number(1, at_least=0)
    every_steps: int = number(0, at_least=0)
    every_minutes: float = number(10.0, at_least=0)
    keep: int = number(2, at_least=1)
    keep_best: int = number(1, at_least=0)
    best_metric: str = "validation/objective"
