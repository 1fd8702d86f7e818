"""Floor 4: the folder of a run of several processes: one of them reads and writes it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from skillearn_jax.parallel import check_same, is_first, on_first
from skillearn_jax.train.config import Config
from skillearn_jax.train.lock import locked
from skillearn_jax.train.resume import Difference
from skillearn_jax.train.workdir import Workdir


def open_workdir(
    path: str | Path, config: Config, data: Mapping[str, str] | None = None
) -> Workdir:
    """Returns the folder of a run with this config, shared between its processes.

    Args:
        path: of the folder.
        config: of the run.
        data: their `fingerprint`; `None` if they are not read.

    Raises:
        InputError: as `Workdir`; and if the processes do not have one config, or other
            data.
    """
    if jax.process_count() == 1:
        return Workdir(path, config, data)
    check_same(config.to_dict(), "the config")
    check_same(str(Path(path).absolute()), "the workdir")
    check_same(data, "the content of --config.data.dir")
    return SharedWorkdir(path, config, data)


@contextlib.contextmanager
def locked_by_first(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a workdir for this run: the first process does, for all.

    Raises:
        InputError: in all processes, if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(locked(folder, say)))
        yield


class SharedWorkdir(Workdir):
    """A run's folder as all processes see it through the first.

    The first process opens it, with all refusals and locks. What the others write is
    dropped, as the first writes the same; what they read the first has read for them.
    All come to each read together.
    """

    def __init__(
        self, path: str | Path, config: Config, data: Mapping[str, str] | None
    ) -> None:
        """Opens or makes the folder, in the first process."""
        self.path = Path(path)
        self._first: Workdir | None = None

        def open_first() -> list[Difference]:
            self._first = Workdir(path, config, data)
            return self._first.changes

        self.changes = [Difference(*change) for change in on_first(open_first)]

    def write_config(self, program: str) -> None:
        """Writes `config.json`."""
        if self._first is not None:
            self._first.write_config(program)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file in one move."""
        if self._first is not None:
            self._first.write_json(name, value)

    def read_json(self, name: str, like: Any = None) -> Any:
        """Returns the content of a JSON file of the form `like`; `None` if there is none."""
        return on_first(lambda: self._of_first().read_json(name, like))

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Returns the readable lines of a file of lines."""
        return on_first(lambda: self._of_first().read_rows(name))

    def append_metrics(
        self, rows: Iterable[Mapping[str, Any]], name: str = "metrics.jsonl"
    ) -> None:
        """Adds lines to metrics.jsonl, or to another file of lines."""
        if self._first is not None:
            self._first.append_metrics(rows, name)

    def close(self) -> None:
        """Writes what is left of the event files."""
        if self._first is not None:
            self._first.close()

    def keep_metrics(
        self, keep: Callable[[dict[str, Any]], bool], name: str = "metrics.jsonl"
    ) -> None:
        """Drops lines for which `keep(row)` is false."""
        if self._first is not None:
            self._first.keep_metrics(keep, name)

    def _of_first(self) -> Workdir:
        assert self._first is not None
        assert is_first()
        return self._first
