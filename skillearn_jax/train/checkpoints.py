"""Floor 4: the state of a search on disk, through Orbax."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from skillearn_jax.errors import InputError
from skillearn_jax.framework import State
from skillearn_jax.parallel import is_first, own, spanning, spanning_sharding


class Checkpoints:
    """The newest state of a run, saved in the background.

    A save is complete or absent: one that a kill interrupts leaves a temporary folder,
    which the next run removes. Orbax does not notice changed bytes, so each checkpoint
    gets a digest of its files, in `digests.json` beside them; it is written once the
    save is complete, and a checkpoint whose run was killed before that is taken as it is.

    Of a run of several processes all save and load together, in a folder that all see.
    """

    def __init__(self, path: Path) -> None:
        """Opens the folder, which need not exist."""
        self._path = path
        self._pending: tuple[int, Any] | None = None
        self._checkpointer = ocp.training.Checkpointer(
            str(path.absolute()),
            cleanup_tmp_directories=True,
            preservation_policy=ocp.training.preservation_policies.LatestN(1),
        )

    def save(self, state: State) -> None:
        """Begins to save the state under its step; waits for the save before it."""
        self._seal()
        step = int(state.step)
        # By default Orbax skips a save, silently, while another is under way.
        response = self._checkpointer.save_async(
            step, spanning(state), force=True, overwrite=True
        )
        self._pending = (step, response)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, if there is one."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def load(self, like: State) -> State:
        """Returns the newest checkpoint.

        Args:
            like: a state of the same structure, shapes and devices.

        Raises:
            InputError: if it is damaged or of another structure; nothing is changed on
                disk.
        """
        step = self.latest_step()
        folder = self._path / str(step)
        digest = self._digests().get(str(step))
        if digest is not None and digest != _digest(folder):
            raise self._unreadable(folder, "its files have changed since it was saved")
        sharding = spanning_sharding()
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            like,
        )
        try:
            return own(self._checkpointer.load(step, abstract))
        except Exception as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise self._unreadable(folder, reason[:200]) from error

    def close(self) -> None:
        """Waits for the save that is under way."""
        self._seal()
        self._checkpointer.close()

    def _seal(self) -> None:
        """Waits for the last save and writes its digest, in one move."""
        if self._pending is None:
            return
        step, response = self._pending
        response.result()
        self._pending = None
        if not is_first():
            return
        # Only the newest is kept, so only its digest is.
        partial = self._path / ".digests.json.partial"
        partial.write_text(json.dumps({str(step): _digest(self._path / str(step))}))
        partial.replace(self._path / "digests.json")

    def _digests(self) -> dict[str, str]:
        try:
            digests = json.loads((self._path / "digests.json").read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise self._unreadable(self._path / "digests.json", "not JSON") from error
        return digests if isinstance(digests, dict) else {}

    def _unreadable(self, path: Path, reason: str) -> InputError:
        return InputError(
            f"the checkpoint {path} cannot be read ({reason}): remove {self._path} to "
            "start again, or set --workdir"
        )


def _digest(folder: Path) -> str:
    """Returns the SHA-256 of the names and contents of all files in a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
