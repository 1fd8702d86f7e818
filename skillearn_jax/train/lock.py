"""Floor 4: one run in a workdir at a time."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from skillearn_jax.errors import InputError
from skillearn_jax.parallel import on_first
from skillearn_jax.train.json_files import owned, storage

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a workdir for this process.

    The lock is the kernel's (`flock` on the file `.lock`), so a process that is killed
    holds it no longer, however it ended; the file stays, and says who had it last.

    Args:
        folder: the workdir, which exists.
        say: is told where the file system knows no locks; the run goes on without.

    Raises:
        InputError: if another process, or this one already, holds it.
        StorageError: if the disk does not take the file.
    """
    path = folder / LOCK
    if path.is_dir():
        raise InputError(f"{path} is a folder: remove it, or set --workdir")
    with storage(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"the workdir {folder} is in use by {_holder(handle)}: wait for it to "
                "end, or set --workdir to another folder"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            say(
                f"{folder} cannot be locked ({error.strerror}): start no other run there"
            )
        signed = b""
        with contextlib.suppress(OSError):  # on a full disk it holds without a name
            signed = _sign(handle)
        with owned(path, signed):
            yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_by_first(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a workdir for this run: the first process does, for all.

    Raises:
        InputError: in all processes, if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(locked(folder, say)))
        yield


def _sign(handle: int) -> bytes:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    signed = (json.dumps(owner) + "\n").encode()
    os.ftruncate(handle, 0)
    os.pwrite(handle, signed, 0)
    return signed


def _holder(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, LookupError, TypeError):  # it has not signed yet
        return "another run"
