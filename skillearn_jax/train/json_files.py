"""Floor 4: JSON on disk: replaced in one move, and refused in one line where it is damaged."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from skillearn_jax.errors import GOES_ON, InputError, StorageError, first_line
from skillearn_jax.paths import replaced

_TAKEN = "another run has its folder now"
_owned: dict[Path, tuple[bytes, os.stat_result]] = {}
"""What this process has signed, and in which folder, by file: of a process, as locks are."""


def read_json(path: Path, like: Any = None) -> Any:
    """Returns the content of a JSON file; `None` if there is none.

    Args:
        path: of the file.
        like: an example of what the run writes there, see `fits`; `None` for anything.

    Raises:
        InputError: if it is no JSON, or holds something else than the example.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} is not readable JSON ({first_line(error)}): restore it, or set "
            "--workdir to a new folder"
        ) from error
    if not fits(value, like):
        raise InputError(
            f"{path} does not hold what a run writes there: restore it, or set --workdir "
            "to a new folder"
        )
    return value


def fits(value: Any, like: Any) -> bool:
    """Returns whether JSON has the form of an example.

    Args:
        value: read from a file.
        like: an object with the same keys, or more in the file; `{"": example}` for any
            keys with such values, `[example]` for a list of such; an empty object, list
            or text for any; 0.0 for a number; `None` for anything.
    """
    if like is None:
        return True
    if isinstance(like, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, type(like)):
        return False
    if isinstance(like, dict) and "" in like:
        return all(fits(each, like[""]) for each in value.values())
    if isinstance(like, dict):
        return all(name in value and fits(value[name], like[name]) for name in like)
    if isinstance(like, list) and like:
        return all(fits(each, like[0]) for each in value)
    return True


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the readable lines of a file of JSON objects, and the number of others.

    A kill may cut a line. A file that is not there has none.

    Raises:
        InputError: if it may not be read, or is none.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise unreadable(path, error) from error
    rows: list[dict[str, Any]] = []
    skipped = 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            skipped += 1
    return rows, skipped


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes a JSON file in one move, on one line where there is no `indent`.

    Raises:
        StorageError: if the disk does not take it; the old file is as it was.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file in one move, and its folder where there is none.

    Raises:
        StorageError: if the disk does not take it; the old file is as it was.
    """
    with storage(path):
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as partial:
            # Bytes of a path that are no text would end a run at its report.
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def unreadable(path: Path, error: OSError) -> InputError:
    """Returns what is said of what a run has written and the system does not let it read."""
    return InputError(
        f"{path} cannot be read ({error.strerror or first_line(error)}): restore it, allow "
        "reading, or set --workdir to a new folder"
    )


@contextlib.contextmanager
def owned(lock: Path, signed: bytes) -> Iterator[None]:
    """While it lasts, nothing is written in a folder but while its lock says the same.

    Args:
        lock: a file in the folder.
        signed: what it holds; empty if it could not be signed: then that is not compared.
    """
    _owned[lock] = signed, lock.parent.stat()
    try:
        yield
    finally:
        _owned.pop(lock, None)


def check_owned(path: Path) -> None:
    """Raises `OSError` if the folder of this process that a path is in is there no more.

    One that was moved or removed must not begin anew, and where another run has begun in
    its place, a late file of this one would be taken for one of that.
    """
    # Read by the thread that saves, too.
    for lock, (signed, folder) in list(_owned.items()):
        if lock.parent not in (path, *path.parents):
            continue
        try:
            now = lock.read_bytes()
        except FileNotFoundError:  # gone with the folder, or tidied away in it
            if not os.path.samestat(lock.parent.stat(), folder):
                raise
        except OSError:  # not read, it tells nothing; what is written may do
            continue
        else:
            if signed and now not in (signed, b""):
                raise OSError(errno.ESTALE, _TAKEN)


def why_refused(error: Exception) -> str | None:
    """Returns why a disk has refused, if that is what an error tells."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return None


@contextlib.contextmanager
def storage(
    path: Path,
    act: str = "write",
    why: Callable[[Exception], str | None] = why_refused,
) -> Iterator[None]:
    """Turns what a disk refuses into a `StorageError` that names the act and the file.

    Args:
        path: of the file, in a folder that must still be this run's.
        act: what is done with it.
        why: a disk has refused, of an error; `None` for another error, which passes.
    """
    try:
        check_owned(path)
        yield
    except Exception as error:
        if (reason := why(error)) is None:
            raise
        raise refused(f"{act} {path}", reason) from error


def refused(what: str, why: str) -> StorageError:
    """Returns what is said where a disk does not take what a run writes.

    Args:
        what: that cannot be done, as in `write runs/a/metrics.jsonl`.
        why: of the system.
    """
    gone = why in (os.strerror(errno.ENOENT), _TAKEN)  # while the run goes
    ask = "put its folder back" if gone else "make room or allow writing"
    return StorageError(f"cannot {what} ({why}): {ask}; the same command {GOES_ON}")
