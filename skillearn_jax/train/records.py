"""Floor 4: what trainings of fixed networks leave, and where they go on from."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from skillearn_jax.parallel import check_same
from skillearn_jax.train.checkpoints import Checkpoints, Saved
from skillearn_jax.train.config import CheckpointConfig
from skillearn_jax.train.console import Console, Update
from skillearn_jax.train.saving import Saver
from skillearn_jax.train.workdir import Workdir

_FOLDERS = {"search": "search", "evaluate": "evaluation"}


class TrainingRecords(NamedTuple):
    """Where the metrics and the states of the trainings go.

    Attributes:
        phase: of the run, `search` or `evaluate`: a name in metrics.jsonl.
        workdir: for the metrics.
        saver: for the states.
        update: for the progress bar.
        saved: the checkpoint to go on from.
    """

    phase: str
    workdir: Workdir
    saver: Saver
    update: Update
    saved: Saved | None

    def go_on(self, done: Mapping[str, Mapping[str, Any]]) -> None:
        """Forgets the metrics of what will be done again: after the checkpoint.

        Args:
            done: the finished trainings, by network and seed.
        """

        def is_done(row: Mapping[str, Any]) -> bool:
            if row.get("phase") != self.phase:
                return True
            saved = self.of(row["network"], row["seed"])
            return str(row["seed"]) in done.get(row["network"], {}) or (
                saved is not None and row["step"] <= saved.note["step"]
            )

        self.workdir.keep_rows(is_done)

    def of(self, network: str, seed: int) -> Saved | None:
        """Returns the checkpoint if it is one of this training."""
        saved = self.saved
        if saved and (saved.note["network"], saved.note["seed"]) == (network, seed):
            return saved
        return None


@contextlib.contextmanager
def open_records(
    phase: str,
    config: CheckpointConfig,
    workdir: Workdir,
    console: Console,
    steps_per_epoch: int,
    total: int,
) -> Iterator[TrainingRecords]:
    """Opens the checkpoints of a phase and its progress bar.

    Args:
        phase: `search` or `evaluate`.
        config: when to save, and what stays.
        workdir: of the run.
        console: for the bar.
        steps_per_epoch: of one training.
        total: steps of all trainings.
    """
    checkpoints = Checkpoints(
        workdir.path / "checkpoints" / _FOLDERS[phase],
        keep=config.keep,
        beside=workdir.path,
        say=console.message,
    )
    saver = Saver(checkpoints, config, steps_per_epoch)
    with contextlib.closing(checkpoints), console.progress(phase, total) as update:
        saved = checkpoints.newest()
        check_same(saved and saved.step, "the newest checkpoint")
        yield TrainingRecords(phase, workdir, saver, update, saved)
