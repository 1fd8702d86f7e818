"""Floor 4: metrics as TensorBoard event files, for who asks for them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LABELS = ("phase", "step", "epoch", "network", "seed")
"""What a row of metrics says beside its metrics."""


class EventFiles:
    """Event files, which `tensorboard --logdir WORKDIR/tensorboard` shows.

    One folder, and so one curve, for the search and one for each training of the
    evaluation. A run that goes on hides what was logged after its checkpoint.
    """

    def __init__(self, path: Path) -> None:
        """Notes the folder, which is made with the first row."""
        self._path = path
        self._writers: dict[str, Any] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows of metrics.jsonl: all their numbers, by step."""
        for row in rows:
            writer = self._writer(row)
            for name, value in row.items():
                if name not in LABELS:
                    writer.add_scalar(name, float(value), row["step"])

    def close(self) -> None:
        """Writes what is left."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _writer(self, row: Mapping[str, Any]) -> Any:
        name = "search"
        if "network" in row:
            name = f"evaluate/{row['network']}, seed {row['seed']}"
        if name not in self._writers:
            # Here, because a run without event files need not wait for the import.
            from tensorboardX import SummaryWriter

            self._writers[name] = SummaryWriter(
                str(self._path / name), purge_step=row["step"], flush_secs=30
            )
        return self._writers[name]
