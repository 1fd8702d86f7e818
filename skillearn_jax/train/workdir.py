"""Floor 4: the folder of a run: what is in it, and how nothing in it gets lost."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from skillearn_jax.errors import InputError
from skillearn_jax.train.config import Config

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "skillearn-jax")


class Workdir:
    """A run's folder: JSON files that a person or the report reads.

    `config.json`, `metrics.jsonl`, `genotype.json`, `evaluation.json`, `summary.json`,
    `checkpoints/` and `report/`. Files are replaced in one move, so that a run that is
    killed leaves either the old one or the new one.
    """

    def __init__(self, path: str | Path, config: Config) -> None:
        """Opens or makes the folder of a run with this config.

        Raises:
            InputError: if the folder cannot be written, holds something else, or holds a
                run with another config.
        """
        self.path = Path(path)
        self._config = json.loads(json.dumps(config.to_dict()))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            present = {entry.name for entry in self.path.iterdir()}
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise InputError(
                f"cannot write the workdir {self.path}: {error.strerror}: set --workdir"
            ) from error
        if (self.path / "checkpoints").is_file():
            raise InputError(
                f"{self.path / 'checkpoints'} is a file, but a folder is needed there: "
                "set --workdir to a new folder"
            )
        if "config.json" in present:
            self._refuse_other_config()
        elif present - {".config.json.partial"}:  # of a run killed at once
            raise InputError(
                f"the workdir {self.path} is not empty and holds no run "
                f"({sorted(present)[0]}, ...): set --workdir to a new folder"
            )

    def write_config(self, program: str) -> None:
        """Writes what was run, with which versions and on which devices."""
        device = jax.local_devices()[0]
        self.write_json(
            "config.json",
            {
                "config": self._config,
                "versions": {name: metadata.version(name) for name in _PACKAGES}
                | {"python": platform.python_version()},
                "device": f"{jax.local_device_count()} x {device.device_kind}",
                "program": program,
            },
        )

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file in one move."""
        partial = self.path / f".{name}.partial"
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.path / name)

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON file; `None` if there is none."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{self.path / name} is not readable JSON ({error}): restore it, or set "
                "--workdir to a new folder"
            ) from error

    def append_metrics(
        self, rows: Iterable[Mapping[str, Any]], name: str = "metrics.jsonl"
    ) -> None:
        """Adds lines to metrics.jsonl, or to another file of lines."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def keep_metrics(
        self, keep: Any, name: str = "metrics.jsonl"
    ) -> list[dict[str, Any]]:
        """Drops lines of metrics.jsonl for which `keep(row)` is false, and broken ones.

        A run that goes on from a checkpoint writes the steps since then again.

        Returns:
            The rows that stay.
        """
        path = self.path / name
        if not path.exists():
            return []
        kept, rows = [], []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and keep(row):
                kept.append(line + "\n")
                rows.append(row)
        partial = self.path / f".{name}.partial"
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
        return rows

    def _refuse_other_config(self) -> None:
        record = self.read_json("config.json")
        old = record.get("config") if isinstance(record, dict) else None
        if not isinstance(old, dict):
            raise InputError(
                f"{self.path / 'config.json'} holds no config: restore it, or set "
                "--workdir to a new folder"
            )
        for path, before, after in _differences(old, self._config):
            raise InputError(
                f"the workdir {self.path} holds a run with {path} = {before!r}, not "
                f"{after!r}: set --workdir to a new folder, or --{path}={before}"
            )


def _differences(
    old: Any, new: Any, path: str = "config"
) -> Iterable[tuple[str, Any, Any]]:
    """Yields `(path, old, new)` for every leaf in which two nested dicts differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*new, *old)):
            yield from _differences(old.get(name), new.get(name), f"{path}.{name}")
    elif old != new:
        yield path, old, new
