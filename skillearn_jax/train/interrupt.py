"""Floor 4: signals that ask a run to end: it saves first, at the next step."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from skillearn_jax.errors import GOES_ON, Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NOTHING_LOST = "nothing is lost that was saved before"


class _Request:
    """What the handlers have noted: of a process, as signals are."""

    signal: int | None = None
    deferred: bool = False


_request = _Request()


def requested() -> bool:
    """Returns whether a signal has asked the run to end."""
    return _request.signal is not None


def answer() -> None:
    """Ends a run that was asked to end where nobody heard it.

    What a handler raises in a callback of the garbage collector, as JAX has one, is lost.

    Raises:
        Interrupted: if there was a signal.
    """
    if _request.signal is not None:
        raise _interrupted(_request.signal, _NOTHING_LOST)


def finish(step: int) -> None:
    """Ends the run that was asked to end and has saved this step.

    Raises:
        Interrupted: always.
    """
    # None if another process of the run was asked, and this one ends with it.
    raise _interrupted(_request.signal or signal.SIGTERM, f"saved at step {step}")


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Turns SIGTERM, SIGINT and SIGHUP into `Interrupted`, while a run goes.

    SIGHUP, of a terminal that closes, stays ignored where `nohup` has said so. Inside
    `deferred` a signal is only noted, for `requested` to tell; elsewhere it ends the run
    at once. A second SIGINT always does. Handlers can be set in the main thread
    only; in others, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _request.signal, _request.deferred = None, False
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _request.signal = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Only notes signals, while steps are taken.

    Raises:
        Interrupted: at the end, if there was one that nobody has answered.
    """
    _request.deferred = True
    try:
        yield
    finally:
        _request.deferred = False
    if _request.signal is not None:
        raise _interrupted(_request.signal, "after its last step")


def _handle(number: int, frame: FrameType | None) -> Any:
    del frame
    again = _request.signal == signal.SIGINT == number
    _request.signal = number
    if again or not _request.deferred:
        raise _interrupted(number, _NOTHING_LOST)
    if number == signal.SIGINT:
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):  # as Ctrl-C ends what it is piped to, first
            os.write(2, b"saving after this step; once more to end at once\n")


def _interrupted(number: int, how: str) -> Interrupted:
    name = signal.Signals(number).name
    return Interrupted(
        f"interrupted by {name}, {how}; the same command {GOES_ON}", number
    )
