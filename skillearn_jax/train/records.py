"""Floor 4: what the trainings of the evaluation leave, and where they go on from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skillearn_jax.train.checkpoints import Saved
from skillearn_jax.train.console import Update
from skillearn_jax.train.saving import Saver
from skillearn_jax.train.workdir import Workdir


class TrainingRecords(NamedTuple):
    """Where the metrics and the states of the trainings go.

    Attributes:
        workdir: for the metrics.
        saver: for the states.
        update: for the progress bar.
        saved: the checkpoint to go on from.
    """

    workdir: Workdir
    saver: Saver
    update: Update
    saved: Saved | None

    def go_on(self, errors: Mapping[str, Mapping[str, float]]) -> None:
        """Forgets the metrics of what will be done again: after the checkpoint.

        Args:
            errors: of the finished trainings, by network and seed.
        """

        def is_done(row: Mapping[str, Any]) -> bool:
            if row.get("phase") != "evaluate":
                return True
            saved = self.of(row["network"], row["seed"])
            return str(row["seed"]) in errors.get(row["network"], {}) or (
                saved is not None and row["step"] <= saved.note["step"]
            )

        self.workdir.keep_metrics(is_done)

    def of(self, network: str, seed: int) -> Saved | None:
        """Returns the checkpoint if it is one of this training."""
        saved = self.saved
        if saved and (saved.note["network"], saved.note["seed"]) == (network, seed):
            return saved
        return None
