"""Floor 1: a process that ends a run ends it for all: one exit code, a line from each.

What goes wrong in one process alone, as on a disk that only the first writes, leaves the
others in a message between devices that never comes, and itself in JAX's own shutdown,
which waits for them: for minutes, and then with an exit code of JAX's. So whoever ends says
so, in the table of keys that JAX keeps in process 0, and all look there every second.
"""

import atexit
import contextlib
import json
import os
import re
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the table of keys has no public name

from skillearn_jax.commands import complain, flush_output
from skillearn_jax.errors import MissingProcessError, first_line

_KEY = "skillearn_jax/ended"
_POLL_S = 1.0
_OWN_END_S = 2.0  # for a process to end by itself, as where all have met one error
_GOODBYE_S = 5.0  # that process 0 stays for, with the table, until all have ended

_LOST = re.compile("gloo|nccl|closed by peer|reset by peer|UNAVAILABLE|heartbeat", re.I)

_ending = threading.Event()


def listen() -> None:
    """From here on this process ends when another one says that it does.

    Raises nothing: where it cannot ask, process 0 is gone, and JAX ends this one.
    """
    _ending.clear()
    thread = threading.Thread(target=_listen, name="ending", daemon=True)
    thread.start()

    def stop() -> None:
        _ending.set()
        thread.join(_OWN_END_S)

    atexit.register(stop)  # runs before JAX closes what the thread asks


def end_all(code: int, line: str) -> None:
    """Ends this process and, within seconds, all others; returns if it is alone.

    Nothing is waited for but the others' ends: what must be saved or closed is, before.

    Args:
        code: that all exit with.
        line: why, for the others to print.
    """
    if not jax.distributed.is_initialized():
        return
    _ending.set()
    _end(code, line)


def lost(error: BaseException) -> MissingProcessError | None:
    """Returns what to say of an error that the end of another process was, if it was one.

    Only if that process has not said itself, in some seconds, why it has ended.
    """
    if not jax.distributed.is_initialized() or not _LOST.search(str(error)):
        return None
    if isinstance(error, TimeoutError):  # as which Orbax tells what JAX has told it
        error = error.__cause__ or error
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    time.sleep(_POLL_S + _OWN_END_S)  # whoever hears of an end meanwhile, ends there
    return MissingProcessError(
        f"{_name()} has lost another process of the run "
        f"({first_line(error)[:120]}); the same command goes on from the last "
        "checkpoint"
    )


def _listen() -> None:
    while not _ending.wait(_POLL_S):
        for number, said in _said().items():
            if not _ending.wait(_OWN_END_S):
                text = f"process {number} has ended the run: {said['line']}"
                complain("skillearn_jax", f"{_name()}: {text}")
                _end(said["code"], said["line"])
            return


def _end(code: int, line: str) -> NoReturn:
    flush_output()
    me = distributed.global_state.process_id
    said = json.dumps({"code": code, "line": line})
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
        _client().key_value_set(f"{_KEY}/{me}", said)
    until = time.monotonic() + (_GOODBYE_S if me == 0 else 0)
    while time.monotonic() < until and len(_said()) < _count():
        time.sleep(_POLL_S / 10)
    # Not sys.exit: it would wait in JAX's shutdown for those that come no more.
    os._exit(code)


def _said() -> dict[str, dict[str, Any]]:
    """Returns what the processes that have ended said, by their numbers."""
    try:
        found = _client().key_value_dir_get(_KEY)
    except jax.errors.JaxRuntimeError:  # process 0 is gone
        return {}
    return {key.rpartition("/")[2]: json.loads(said) for key, said in found}


def _client() -> Any:
    return distributed.global_state.client


def _count() -> int:
    # Not JAX's own count, which would start the devices where they are not yet.
    return distributed.global_state.num_processes


def _name() -> str:
    return f"process {distributed.global_state.process_id} of {_count()}"
