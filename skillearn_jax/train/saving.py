"""Floor 4: when the state of a run is saved."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from skillearn_jax.framework import State
from skillearn_jax.parallel import in_any
from skillearn_jax.train import interrupt
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.config import CheckpointConfig


class Saver:
    """Saves a state after the steps that a config names, and before a run is ended.

    Every step is offered; one is taken at the end of every n-th epoch, every n steps,
    every n minutes, at the end of a phase, and when a signal asks the run to end.
    """

    def __init__(
        self, checkpoints: Checkpoints, config: CheckpointConfig, steps_per_epoch: int
    ) -> None:
        """Starts the clock.

        Args:
            checkpoints: where to.
            config: when.
            steps_per_epoch: to know the end of one.
        """
        self._checkpoints, self._config = checkpoints, config
        self._steps_per_epoch = steps_per_epoch
        self._saved_at = time.monotonic()
        self._values: list[float] = []

    def watch(self, metrics: Mapping[str, float]) -> None:
        """Notes what the best checkpoint is told by; its mean since the last save.

        Args:
            metrics: of a step; in the warm-up it is not among them.
        """
        name = self._config.best_metric
        if name in metrics:
            self._values.append(float(metrics[name]))

    def offer(
        self,
        steps: range,
        state: Callable[[], State],
        note: Callable[[], Mapping[str, Any]],
        *,
        offset: int = 0,
        last: bool = False,
    ) -> None:
        """Saves the state if it is due.

        Args:
            steps: that were just taken, counted from 1.
            state: returns the state after them.
            note: returns what else is needed to go on; JSON.
            offset: added to the step, to name the checkpoint.
            last: of its phase.

        Raises:
            Interrupted: after the save, if a signal asked for the end.
            StorageError: if the disk did not take a save.
        """
        # Both are asked at every step: the processes come here together.
        asked, late = in_any(interrupt.requested(), self._is_late())
        if not (last or asked or late or any(map(self._is_due, steps))):
            return
        metric = float(np.mean(self._values)) if self._values else None
        step = steps[-1] + offset
        self._checkpoints.save(step, state(), note(), metric)
        self._saved_at, self._values = time.monotonic(), []
        if asked:
            self._checkpoints.wait()
            interrupt.finish(steps[-1])

    def _is_due(self, step: int) -> bool:
        every = self._config.every_epochs * self._steps_per_epoch
        return any(n and step % n == 0 for n in (every, self._config.every_steps))

    def _is_late(self) -> bool:
        minutes = self._config.every_minutes
        return bool(minutes) and time.monotonic() - self._saved_at >= 60 * minutes
