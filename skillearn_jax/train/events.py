"""Floor 4: metrics as TensorBoard event files, for who asks for them."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skillearn_jax.train.json_files import storage

LABELS = ("phase", "step", "epoch", "network", "seed")
"""What a row of metrics says beside its metrics."""

_FLUSH_S = 30.0


class EventFiles:
    """Event files, which `tensorboard --logdir WORKDIR/tensorboard` shows.

    One folder, and so one curve, for the search and one for each training of a random
    search and of the evaluation. A run that goes on hides what was logged after its checkpoint.

    They are written by the thread that steps: tensorboardX's own dies of a disk that
    refuses, and leaves whoever writes next waiting for ever.
    """

    def __init__(self, path: Path) -> None:
        """Notes the folder, which is made with the first row."""
        self._path = path
        self._writers: dict[str, Any] = {}
        self._flushed = time.monotonic()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows of metrics.jsonl: all their numbers, by step.

        Raises:
            StorageError: if the disk does not take them.
        """
        # Here, because a run without event files need not wait for the import.
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event

        with storage(self._path):
            for row in rows:
                writer = self._writer(row)
                for name, value in row.items():
                    if name not in LABELS:
                        scalar = summary.scalar(name, float(value))
                        event = Event(wall_time=time.time(), step=row["step"])
                        event.summary.CopyFrom(scalar)
                        writer.write_event(event)
            if time.monotonic() - self._flushed > _FLUSH_S:
                self._flushed = time.monotonic()
                for writer in self._writers.values():
                    writer.flush()

    def close(self) -> None:
        """Writes what is left.

        Raises:
            StorageError: if the disk does not take it.
        """
        writers, self._writers = self._writers, {}
        with storage(self._path):
            for writer in writers.values():
                writer.close()

    def _writer(self, row: Mapping[str, Any]) -> Any:
        name = "search"
        if "network" in row:
            name = f"{row['phase']}/{row['network']}, seed {row['seed']}"
        if name not in self._writers:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            folder = self._path / name
            folder.mkdir(parents=True, exist_ok=True)
            writer = EventsWriter(str(folder / "events"))
            # TensorBoard hides what an earlier file has of this step and later ones.
            begin = SessionLog(status=SessionLog.START)
            writer.write_event(Event(step=row["step"], session_log=begin))
            self._writers[name] = writer
        return self._writers[name]
