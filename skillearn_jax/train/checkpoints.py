"""Floor 4: states of a run on disk: saved in the background, verified when read."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from skillearn_jax.errors import InputError, first_line
from skillearn_jax.parallel import is_first, on_first
from skillearn_jax.paths import sync
from skillearn_jax.train.config import CheckpointConfig
from skillearn_jax.train.json_files import storage, unreadable, why_refused
from skillearn_jax.train.manifest import (
    FORMAT,
    Arrays,
    DamagedError,
    read_manifest,
    to_arrays,
    to_tree,
    verify,
    verify_files,
    write_manifest,
)
from skillearn_jax.types import PyTree

_FULL = re.compile("No space left|RESOURCE_EXHAUSTED|File too large|quota", re.I)
_CODE = re.compile(r"os_error_code='(\d+)'")  # as TensorStore notes an `errno`


class Saved(NamedTuple):
    """A checkpoint that was read and is as it was saved.

    Attributes:
        path: its folder.
        step: that it was taken at.
        note: what was saved beside the state; JSON.
        arrays: the leaves of the state, by path.
        lines: bytes of each file of lines beside, as they were; of an earlier version none.
    """

    path: Path
    step: int
    note: Any
    arrays: Arrays
    lines: Mapping[str, int]

    def restore(self, like: PyTree) -> PyTree:
        """Returns the state, on this machine's first device, whatever saved it.

        Args:
            like: a state of the same structure and shapes.

        Raises:
            InputError: if it is the state of another program.
        """
        try:
            return to_tree(self.arrays, like)
        except DamagedError as error:
            raise _unreadable(self.path, error) from error


class Checkpoints:
    """The last states of a run, and the best ones, each in a folder named by its step.

    A folder is complete or absent: it is written under another name, then moved. It holds
    `arrays/`, written by Orbax, and `manifest.json`: the format, a digest of every array,
    what else the run needs, and a digest of all that. Orbax itself notices no changed
    bytes. A checkpoint that is not what was saved is passed over for the one before it.
    Of several processes the first writes, and all read and save together, in a folder that
    all see; what the first cannot write, all raise.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: int = 2,
        keep_best: int = 0,
        best_metric: str = CheckpointConfig().best_metric,
        beside: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Opens the folder, which need not exist.

        Args:
            path: of the folder.
            keep: how many of the newest stay.
            keep_best: how many more stay for their metric.
            best_metric: its name. One with a value of another is not among the best.
            beside: a folder whose files of lines must be on the disk before a checkpoint
                is: the metrics up to it, and the alphas and exams.
            say: is told in one line of each checkpoint that is passed over, and of each
                file of lines that is shorter than it was.
        """
        self._path, self._keep, self._keep_best = path, keep, keep_best
        self._best_metric = best_metric
        self._beside, self._say = beside, say
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._pending: Future[None] | None = None
        self._damaged: set[int] = set()
        self._last: int | None = None

    def save(
        self, step: int, state: PyTree, note: Any = None, metric: float | None = None
    ) -> None:
        """Begins to save a state; waits for the save before it.

        Args:
            step: names the checkpoint. Saving one again does nothing: a run that goes on
                from it has the same.
            state: is copied at once, so that the next step may overwrite it.
            note: what else is needed to go on; JSON.
            metric: the lower the better; without one it is never among the best.

        Raises:
            StorageError: if the disk did not take the save before; of several processes,
                this one.
        """
        self.wait()
        if step == self._last:
            return
        self._last = step
        arrays = to_arrays(state)
        # Copied like the state: a run may change its lists while they are written.
        note = json.loads(json.dumps(note))
        with self._storage(step):
            lines = {path.name: size for path, size in self._lines().items()}
        if jax.process_count() > 1:
            # Here and now: the processes talk through the devices while they save, and in
            # the background that could come between the messages of a step.
            self._write(step, arrays, note, metric, lines)
            return
        self._pending = self._writer.submit(
            self._write, step, arrays, note, metric, lines
        )

    def wait(self) -> None:
        """Waits for the save that is under way.

        Raises:
            StorageError: if the disk does not take it; the ones before are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits, and ends the thread that writes."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are there, damaged or not.

        Raises:
            InputError: if the folder may not be read: nothing in it is not nothing there.
        """
        try:
            names = os.listdir(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(self._path, error) from error
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self) -> Saved | None:
        """Returns the newest checkpoint that is as it was saved; `None` if none exist.

        Raises:
            InputError: if there are some and all are damaged, or the newest is of another
                format; nothing is changed on disk.
        """
        reason: tuple[Path, DamagedError] | None = None
        for step in reversed(self.steps()):
            folder = self._folder(step)
            try:
                saved = _read(folder, step)
            except DamagedError as error:
                self._say(f"the checkpoint {folder} is passed over: {error}")
                self._damaged.add(step)
                reason = reason or (folder, error)
                continue
            self._last = step
            self._say_shorter(saved)
            return saved
        if reason is not None:
            raise _unreadable(*reason) from reason[1]
        return None

    def at(self, step: int) -> Saved:
        """Returns the checkpoint of one step.

        Raises:
            InputError: if it is damaged, or of another format.
        """
        folder = self._folder(step)
        try:
            return _read(folder, step)
        except DamagedError as error:
            raise InputError(
                f"the checkpoint {folder} cannot be read: {error}"
            ) from error

    def _write(
        self,
        step: int,
        arrays: Arrays,
        note: Any,
        metric: float | None,
        lines: Mapping[str, int],
    ) -> None:
        """Writes a checkpoint under another name, moves it, removes old ones."""

        def begin() -> None:
            with self._saving(step) as begun:
                self._clear_remains()
                # No workdir: one that was moved away must not begin anew, half empty.
                for folder in (self._path.parent, self._path, begun):
                    folder.mkdir(exist_ok=True)

        def finish() -> None:
            with self._saving(step) as begun:
                manifest = begun / "manifest.json"
                name = self._best_metric
                write_manifest(manifest, arrays, step, note, metric, name, lines)
                sync(manifest)
                for file in self._lines():
                    sync(file)
                self._move(begun, step)
                self._prune(step)

        on_first(begin)
        with self._saving(step) as begun:
            # All processes: Orbax lets them compare notes, though only one writes.
            filled = {name: array for name, array in arrays.items() if array.size}
            ocp.save(str((begun / "arrays").absolute()), filled)
        on_first(finish)

    def _lines(self) -> dict[Path, int]:
        """Returns the files of lines beside, and how long they are."""
        found = self._beside.glob("*.jsonl") if self._beside else ()
        return {path: path.stat().st_size for path in found}

    def _say_shorter(self, saved: Saved) -> None:
        """Says what files of lines have lost since a checkpoint: nobody writes it again."""
        if self._beside is None:
            return
        sizes = self._lines()
        for name, size in saved.lines.items():
            if (lost := size - sizes.get(self._beside / name, 0)) > 0:
                self._say(
                    f"{name} lacks {lost} of the {size} bytes that it had when {saved.path} "
                    "was saved: what they said is not written again"
                )

    @contextlib.contextmanager
    def _saving(self, step: int) -> Iterator[Path]:
        """Yields the folder that a checkpoint is begun in; an error removes it.

        Raises:
            StorageError: for what a disk has refused, whatever a library made of that.
        """
        begun = self._path / f".{step}.partial"
        # A folder that is another run's now is refused before anything in it is removed.
        with self._storage(step):
            try:
                yield begun
            except Exception:
                if is_first():
                    shutil.rmtree(begun, ignore_errors=True)
                raise

    def _move(self, begun: Path, step: int) -> None:
        final, old = self._folder(step), self._path / f".{step}.old"
        if final.exists():  # damaged, or of before a fall back: a run goes on beyond it
            final.rename(old)
        begun.rename(final)
        sync(self._path)
        shutil.rmtree(old, ignore_errors=True)
        self._damaged.discard(step)

    def _prune(self, newest: int) -> None:
        """Removes what is neither among the newest nor among the best."""
        metrics: dict[int, float | None] = {}
        for step in self.steps():
            try:
                manifest = read_manifest(self._folder(step) / "manifest.json")
            except DamagedError:
                self._damaged.add(step)
                continue
            same = manifest["metric_name"] == self._best_metric
            metrics[step] = manifest["metric"] if same else None
        # One beyond the newest was fallen back from; it stays until it is replaced.
        passed = [step for step in self.steps() if step <= newest]
        good = [step for step in passed if step not in self._damaged]
        ranked = sorted(
            (metric, -step) for step in good if (metric := metrics[step]) is not None
        )
        best = {-step for _, step in ranked[: self._keep_best]}
        stay = {*good[-self._keep :], *best}
        for step in set(passed) - stay:
            # Renamed first, so that a kill leaves no half of it.
            removed = self._path / f".{step}.old"
            self._folder(step).rename(removed)
            shutil.rmtree(removed)

    def _clear_remains(self) -> None:
        """Removes what a run that was killed while it wrote has left."""
        if self._path.is_dir():
            for entry in self._path.iterdir():
                if re.fullmatch(r"\.\d+\.(partial|old)", entry.name):
                    shutil.rmtree(entry)

    def _folder(self, step: int) -> Path:
        return self._path / str(step)

    def _storage(self, step: int) -> contextlib.AbstractContextManager[None]:
        return storage(self._folder(step), "save the checkpoint", _why_refused)


def _read(folder: Path, step: int) -> Saved:
    """Returns a checkpoint, verified.

    Raises:
        DamagedError: if it is not what was saved.
        InputError: if it is of another format.
    """
    manifest = read_manifest(folder / "manifest.json")
    if manifest["format"] != FORMAT:
        raise InputError(
            f"the checkpoint {folder} has format {manifest['format']}, and this version "
            f"of skillearn_jax reads format {FORMAT}: use the version that wrote it, or "
            "set --workdir"
        )
    if manifest["step"] != step:
        raise DamagedError(f"it is that of step {manifest['step']}")
    verify_files(folder, manifest)
    try:
        with _alone():
            arrays = ocp.load(str((folder / "arrays").absolute()))
    except Exception as error:  # whatever a library makes of bytes that it never wrote
        raise DamagedError(first_line(error.__cause__ or error)[:120]) from error
    if not isinstance(arrays, dict):
        raise DamagedError("it holds no arrays")
    arrays = verify(arrays, manifest)
    return Saved(folder, step, manifest["note"], arrays, manifest.get("lines", {}))


def _alone() -> ocp.Context:
    """Returns a context in which this process waits for no other of the same run."""
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    return context


def _why_refused(error: Exception) -> str | None:
    """Returns why a disk has refused, if that is what a library's error comes from."""
    for each in (error, error.__cause__):
        # Of a process that does not come, Orbax makes a timeout: no disk gives that number.
        waited = isinstance(each, TimeoutError) and each.errno is None
        if isinstance(each, OSError) and not waited:
            return why_refused(each)
    text = f"{error} {error.__cause__ or ''}"
    if code := _CODE.search(text):
        return os.strerror(int(code[1]))
    if text.startswith("NOT_FOUND"):  # what it has just written
        return os.strerror(errno.ENOENT)
    return first_line(error)[:160] if _FULL.search(text) else None


def _unreadable(path: Path, reason: DamagedError) -> InputError:
    return InputError(
        f"the checkpoint {path} cannot be read ({reason}): remove {path.parent} to start "
        "again, or set --workdir"
    )
