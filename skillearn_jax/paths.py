"""Floor 0: paths as users type them, folders by what is in them, files in one move."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator


def user_path(text: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path, whose leading `~` is the home folder.

    Shells leave the `~` of `--flag=~/runs` to the program. One that names no user stays as
    it is, to be met as a path that is not there.
    """
    return pathlib.Path(os.path.expanduser(text))


def folder_name(name: str) -> str:
    """Returns the name of the folder of a network or a task; two may have the same."""
    return re.sub(r"[^\w.-]", "_", name)


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields where to write a file, which then takes the place of `path` in one move.

    It is on the disk before: a machine that goes down leaves either file whole. Where
    writing or the move fails, nothing is left of it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
