"""Floor 4: the folder of a run: what is in it, and how nothing in it gets lost."""

import errno
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from skillearn_jax.errors import InputError, cannot_write
from skillearn_jax.parallel import check_same, is_first, on_first
from skillearn_jax.train.config import Config
from skillearn_jax.train.events import EventFiles
from skillearn_jax.train.fingerprint import check_fingerprint
from skillearn_jax.train.json_files import (
    fits,
    read_json,
    read_rows,
    storage,
    write_json,
    write_text,
)
from skillearn_jax.train.lock import LOCK
from skillearn_jax.train.resume import Difference, differences, told

SUMMARY = "summary.json"
"""What a run has found; it is there when nothing is left to do."""

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "skillearn-jax")


class Workdir:
    """A run's folder: JSON files that a person or the report reads.

    Objects, as in `config.json` and `summary.json`, are replaced in one move, so that a
    run that is killed leaves either the old one or the new one. Files of lines, such as
    `metrics.jsonl`, grow by rows.

    Of several processes, the first opens it, with all refusals. What the others write is
    dropped, as the first writes the same; what they read the first has read for them. All
    come to each read together.

    Attributes:
        path: of the folder.
        changes: keys of the config that differ from the run that is there, all of them
            such that it may go on.
    """

    def __init__(
        self, path: str | Path, config: Config, data: Mapping[str, str] | None = None
    ) -> None:
        """Opens or makes the folder of a run with this config.

        Args:
            path: of the folder.
            config: of the run.
            data: their `fingerprint`; `None` if they are not read.

        Raises:
            InputError: if the folder cannot be written, holds something else, or holds a
                run with a config that this one cannot go on from, or of other data; and if
                the processes do not have one config and workdir, and the same data.
            StorageError: if the disk is full, or can only be read.
        """
        self.path = Path(path)
        self._config, self._data = _plain(config), data
        self._history: list[dict[str, Any]] = []
        self._environment: dict[str, str] = {}
        self._events: EventFiles | None = None
        if config.logging.tensorboard:
            self._events = EventFiles(self.path / "tensorboard")
        check_same(self._config, "the config")
        check_same(str(self.path.absolute()), "the workdir")
        check_same(data, "the content of --config.data.dir")
        self.changes = [Difference(*change) for change in on_first(self._open)]

    def _open(self) -> list[Difference]:
        """Opens or makes the folder, in the first process; returns what has changed."""
        present = open_folder(self.path)
        if (self.path / "checkpoints").is_file():
            raise InputError(
                f"{self.path / 'checkpoints'} is a file, but a folder is needed there: "
                "set --workdir to a new folder"
            )
        if "config.json" in present:
            return self._compared()
        if present:
            raise InputError(
                f"the workdir {self.path} is not empty and holds no run "
                f"({present[0]}, ...): set --workdir to a new folder"
            )
        return []

    def write_config(self, program: str) -> None:
        """Writes what is run, with which versions and on which devices.

        What was summed up of less is removed before: a run that is ended from here on is
        known to be unfinished, although nothing of its config differs any more.
        """
        if any(change.more for change in self.changes) and is_first():
            with storage(self.path / SUMMARY):
                (self.path / SUMMARY).unlink(missing_ok=True)
        versions = _environment()
        device = versions.pop("device")
        record: dict[str, Any] = {
            "config": self._config,
            "versions": versions,
            "device": device,
            "program": program,
            "data": dict(self._data or {}),
        }
        changed = {other.path: [other.old, other.new] for other in self.changes}
        changed |= self.moved()
        if self._history or changed:  # with which it began and went on
            record["changes"] = [*self._history, *([changed] if changed else [])]
        self.write_json("config.json", record)

    def moved(self) -> dict[str, list[str]]:
        """Returns the versions and the device that the run had last and has now.

        Only those that differ, and in the first process: with them numbers may.
        """
        now = _environment()
        before = self._environment
        return {
            name: [before[name], now[name]]
            for name in now
            if before.get(name, now[name]) != now[name]
        }

    def write_json(self, name: str, value: Any, indent: int | None = 2) -> None:
        """Writes a JSON file in one move."""
        if is_first():
            write_json(self.path / name, value, indent)

    def read_json(self, name: str, like: Any = None) -> Any:
        """Returns the content of a JSON file of the form `like`; `None` if there is none."""
        return on_first(lambda: read_json(self.path / name, like))

    def read_object(
        self, name: str, like: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns the object in a JSON file; empty if there is none.

        Args:
            name: of the file.
            like: an example of it, see `json_files.fits`; by default any object.

        Raises:
            InputError: if it holds something else.
        """
        return self.read_json(name, {} if like is None else like) or {}

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Returns the readable lines of a file of lines."""
        return on_first(lambda: read_rows(self.path / name)[0])

    def append_rows(
        self, rows: Iterable[Mapping[str, Any]], name: str = "metrics.jsonl"
    ) -> None:
        """Adds lines to metrics.jsonl, or to another file of lines."""
        rows = list(rows)
        if not rows or not is_first():
            return
        path, text = self.path / name, _lines(rows)
        with storage(path), path.open("ab+") as file:
            if file.tell():  # a line that a full disk has cut would take one with it
                file.seek(-1, os.SEEK_END)
                text = text if file.read() == b"\n" else f"\n{text}"
            file.write(text.encode())
        if self._events is not None and name == "metrics.jsonl":
            self._events.add(rows)

    def close(self) -> None:
        """Writes what is left of the event files."""
        if self._events is not None:
            self._events.close()

    def keep_rows(
        self, keep: Callable[[dict[str, Any]], bool], name: str = "metrics.jsonl"
    ) -> None:
        """Drops lines for which `keep(row)` is false, and broken ones.

        A run that goes on from a checkpoint writes the steps since then again. A line
        without what `keep` reads in it is broken.
        """

        def stays(row: dict[str, Any]) -> bool:
            try:
                return keep(row)
            except (KeyError, TypeError):
                return False

        path = self.path / name
        if is_first() and path.exists():
            write_text(path, _lines(row for row in read_rows(path)[0] if stays(row)))

    def _compared(self) -> list[Difference]:
        """Returns in what this config differs from that of the run that is there."""
        if holds_comparison(self.path):
            raise InputError(
                f"the workdir {self.path} holds a comparison of hypergradients, not a "
                "run: set --workdir to a new folder"
            )
        record = read_json(self.path / "config.json", {"config": {}, "data": {"": ""}})
        evaluated = any(
            os.path.exists(self.path / name)  # False too where it may not look
            for name in ("evaluation.json", "checkpoints/evaluation", "tasks")
        )
        accepted, refused = differences(
            record["config"],
            self._config,
            _plain(Config()),
            evaluated,
            data_compared=self._data is not None,
        )
        if refused:
            raise InputError(
                f"the workdir {self.path} holds a run with {told(refused)}"
            )
        if self._data is None:
            self._data = record["data"]
        check_fingerprint(self.path, self._config, record["data"], self._data)
        self._history = record.get("changes", [])
        known = {"versions": {"": ""}, "device": ""}
        if fits(record, known):
            self._environment = record["versions"] | {"device": record["device"]}
        return accepted


def open_folder(folder: Path) -> list[str]:
    """Makes a workdir, or returns the names in one, without what a run killed at once leaves.

    Raises:
        InputError: if it cannot be written.
        StorageError: if the disk is full, or can only be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in folder.iterdir()}
        _check_writable(folder)
    except OSError as error:
        advice = "set --workdir to another folder"
        raise cannot_write(f"the workdir {folder}", error, advice) from error
    return sorted(names - {".config.json.partial", LOCK})


def holds_comparison(folder: Path) -> bool:
    """Returns whether a folder is that of a comparison, by its `config.json`."""
    return fits(read_json(folder / "config.json"), {"problem": None})


def _environment() -> dict[str, str]:
    """Returns the versions of what computes, and the devices, those of all processes.

    With them how exact its products are, where `JAX_DEFAULT_MATMUL_PRECISION` says:
    on GPUs and TPUs those of float32 are not, by default.
    """
    device = f"{jax.device_count()} x {jax.local_devices()[0].device_kind}"
    precision = jax.default_matmul_precision.value
    if precision is not None:
        device += f", products {precision}"
    return {
        **{name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "device": device,
    }


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _check_writable(folder: Path) -> None:
    """Raises the `OSError` that writing into a folder would."""
    if not os.access(folder, os.W_OK):
        only_read = os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if only_read else errno.EACCES
        raise OSError(number, os.strerror(number))


def _plain(config: Config) -> dict[str, Any]:
    """Returns a config as JSON gives it back."""
    return json.loads(json.dumps(config.to_dict()))
