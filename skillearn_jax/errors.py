"""Floor 0: the errors that a user is expected to meet."""

import contextlib
import errno
from collections.abc import Callable, Collection, Iterator
from typing import ClassVar

GOES_ON = "goes on from the last checkpoint"
"""What the same command does after a run that has ended early, in messages."""


class UserError(Exception):
    """What a command line prints in one line instead of a traceback.

    Attributes:
        exit_code: what the command line exits with then.
    """

    exit_code: ClassVar[int]


class InputError(UserError, ValueError):
    """A mistake in what the user gave: a config value, a data file, a program.

    The message is one line that names the value, what is allowed and, where there is
    one, the flag to change.
    """

    exit_code = 2


def check_choice(name: str, value: str, words: Collection[str]) -> None:
    """Raises `InputError` unless an option is one of the words for it.

    Args:
        name: of the option.
        value: given.
        words: allowed; `get_args` of a `Literal`.
    """
    if value not in words:
        allowed = ", ".join(map(repr, words))
        raise InputError(f"{name}={value!r}; it must be one of {allowed}")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises `InputError` for a number below the smallest that is allowed.

    Args:
        name: of the number.
        value: given.
        least: the smallest.
    """
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


@contextlib.contextmanager
def told_with(
    before: str, after: str = "", kind: type[UserError] = InputError
) -> Iterator[None]:
    """Adds to an error what only the caller knows: where it was met, what to do.

    Args:
        before: put in front of the message.
        after: put behind it.
        kind: of error.
    """
    try:
        yield
    except kind as error:
        raise kind(f"{before}{error}{after}") from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def refusing(
    *kinds: type[Exception], told: Callable[[Exception], InputError]
) -> Iterator[None]:
    """Turns errors of reading foreign data into one that says so; an `InputError` passes.

    Args:
        kinds: of errors; damaged data may make Python raise anything, `Exception`.
        told: what is raised instead.
    """
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise told(error) from error


class NonFiniteError(UserError, ArithmeticError):
    """A loss or a gradient norm became NaN or infinite.

    The message is one line that names the step and the term. The last checkpoint is of
    before that step.
    """

    exit_code = 3


class StorageError(UserError, OSError):
    """The disk is full, or does not let the run write.

    The message is one line that names the file and the reason; what was written before is
    as it was.
    """

    exit_code = 4


def cannot_write(what: str, error: OSError, advice: str) -> UserError:
    """Returns what a refused write is: of the disk, or of a path that the user has given.

    Args:
        what: the file or folder, as in `the workdir runs/a`.
        error: of the system.
        advice: what to do where the path is wrong.
    """
    text = f"cannot write {what} ({error.strerror})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return StorageError(f"{text}: make room or allow writing, or {advice}")
    return InputError(f"{text}: {advice}")


class MissingProcessError(UserError, RuntimeError):
    """A process of the run has not come in time, or has gone without a word."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """A signal asked a run to end; its state is saved.

    Attributes:
        signal: the number of the signal.
        exit_code: what the command line exits with then, 128 + that number.
    """

    def __init__(self, message: str, signal: int) -> None:
        """Notes the message, one line, and the signal."""
        super().__init__(message)
        self.signal = signal
        self.exit_code = 128 + signal
