"""Floor 4: the state of a search on disk, through Orbax."""

import logging
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from skillearn_jax.errors import InputError
from skillearn_jax.framework import State

# Orbax reports every save at INFO, which would drown a run's own output.
logging.getLogger("absl").setLevel(logging.WARNING)


class Checkpoints:
    """The newest state of a run, saved in the background.

    A save is complete or absent: one that a kill interrupts leaves a temporary folder,
    which the next run removes.
    """

    def __init__(self, path: Path) -> None:
        """Opens the folder, which need not exist."""
        self._path = path
        self._checkpointer = ocp.training.Checkpointer(
            str(path.absolute()),
            cleanup_tmp_directories=True,
            preservation_policy=ocp.training.preservation_policies.LatestN(1),
        )

    def save(self, state: State) -> None:
        """Begins to save the state under its step."""
        # By default Orbax skips a save, silently, while another is under way.
        self._checkpointer.save_async(
            int(state.step), state, force=True, overwrite=True
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, if there is one."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def load(self, like: State) -> State:
        """Returns the newest checkpoint.

        Args:
            like: a state of the same structure, shapes and devices.

        Raises:
            InputError: if it cannot be read; nothing is changed on disk.
        """
        step = self.latest_step()
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            like,
        )
        try:
            return self._checkpointer.load(step, abstract)
        except Exception as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(
                f"the checkpoint {self._path / str(step)} cannot be read ({reason}): "
                "remove it to start again, or set --workdir"
            ) from error

    def close(self) -> None:
        """Waits for the save that is under way."""
        self._checkpointer.close()
