"""Floor 1: a run of several processes: how they start, and what one does for all.

Every process runs the same program, on devices of its own; one of them, the first, also
writes what the run leaves. What it alone can know, it tells the others.
"""

import functools
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from skillearn_jax import errors
from skillearn_jax.commands import complain
from skillearn_jax.errors import InputError, UserError
from skillearn_jax.parallel.backends import AXIS_NAME
from skillearn_jax.parallel.devices import check_alike
from skillearn_jax.parallel.ending import listen
from skillearn_jax.parallel.rendezvous import meet

_log = functools.partial(complain, "skillearn_jax")
_REMIND_S = 30.0
_SMALLEST = 4096  # bytes of a message; larger ones grow by factors of four


@dataclass(frozen=True)
class Processes:
    """How the processes of a run find each other.

    Attributes:
        coordinator: `HOST:PORT` of process 0; empty for a run of one process.
        num_processes: how many there are.
        process_id: of this one, from 0.
        distributed: ask the cluster (Slurm, a TPU pod, Open MPI) for all three; `None`:
            if it says in the environment that it has started several processes, as `srun`
            and GKE do, and no coordinator is named.
        start_timeout_s: how long a process waits for the others to start.
        heartbeat_timeout_s: how long one may be silent before the others end.
    """

    coordinator: str = ""
    num_processes: int = 1
    process_id: int = 0
    distributed: bool | None = None
    start_timeout_s: int = 300
    heartbeat_timeout_s: int = 60

    def __post_init__(self) -> None:
        if self.distributed and self.coordinator:
            raise InputError(
                "--distributed asks the cluster what --coordinator says: give one of them"
            )
        if self.coordinator and not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"--process_id is {self.process_id}; of --num_processes="
                f"{self.num_processes} it must be 0 to {self.num_processes - 1}"
            )
        if not self.coordinator and (self.num_processes, self.process_id) != (1, 0):
            raise InputError(
                "--num_processes and --process_id need --coordinator=HOST:PORT, the "
                "address of process 0"
            )
        for flag in ("start_timeout", "heartbeat_timeout"):
            if getattr(self, f"{flag}_s") < 1:
                raise InputError(f"--{flag} is below 1; it must be 1 or more seconds")
        if self.coordinator:
            self._address()

    def start(self) -> None:
        """Joins the processes of the run; before anything else is asked of JAX.

        Says on stderr who this process is before it waits for another.

        Raises:
            MissingProcessError: if a process does not come in time. Where the cluster is
                asked, JAX ends this one then, with code 134.
            InputError: if the addresses cannot be meant, no cluster is found, or the
                processes differ in their number of devices.
        """
        asks = self.distributed
        if asks is None:
            asks = not self.coordinator and _cluster_started_several()
        if not (asks or self.coordinator):
            return
        # It would swallow each SIGTERM until a run sets a handler of its own.
        jax.config.update("jax_enable_preemption_service", False)
        where = f"host {socket.gethostname()}, pid {os.getpid()}"
        timeouts: dict[str, Any] = {
            "initialization_timeout": self.start_timeout_s,
            "heartbeat_timeout_seconds": self.heartbeat_timeout_s,
        }
        if asks:
            _log(f"a process of a cluster: {where}")
            done = threading.Event()
            threading.Thread(target=_remind, args=(where, done), daemon=True).start()
            try:
                jax.distributed.initialize(**timeouts)
            except ValueError as error:
                raise InputError(
                    f"--distributed finds no cluster to ask ({error}): give "
                    "--coordinator, --num_processes and --process_id, or --nodistributed"
                ) from error
            finally:
                done.set()
        else:
            name = f"process {self.process_id} of {self.num_processes}"
            _log(f"{name}: {where}, coordinator {self.coordinator}")
            meet(
                self._address(),
                self.num_processes,
                self.process_id,
                timeout_s=self.start_timeout_s,
                log=_log,
            )
            jax.distributed.initialize(
                self.coordinator, self.num_processes, self.process_id, **timeouts
            )
        listen()
        _log(
            f"process {jax.process_index()} of {jax.process_count()}: "
            f"{jax.local_device_count()} of {jax.device_count()} devices "
            f"({jax.default_backend()})"
        )
        check_alike()  # else JAX meets it in the next line, without a word
        # The first message among some devices has a short time-out of its own in some
        # backends. Here the processes are close together; later one may still compile.
        jax.pmap(lambda x: jax.lax.psum(x, AXIS_NAME), AXIS_NAME)(
            np.ones(jax.local_device_count())
        )
        on_first(lambda: None)

    def _address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(
                f"--coordinator is {self.coordinator!r}; it must be HOST:PORT, as in "
                "10.0.0.1:8476"
            )
        return host.strip("[]"), int(port)


def is_first() -> bool:
    """Returns whether this is the process that writes."""
    return jax.process_index() == 0


def on_first(function: Callable[[], Any]) -> Any:
    """Returns in all processes what a function returns in the first, the only to call it.

    All processes must come here, in the same order.

    Args:
        function: without arguments; returns what JSON can say.

    Raises:
        UserError: in all processes, of the same class, if the function raises one.
    """
    if jax.process_count() == 1:
        return function()
    message: dict[str, Any] = {}
    if is_first():
        try:
            message["value"] = function()
        except UserError as error:
            message["error"] = [type(error).__name__, str(error)]
    message = json.loads(_broadcast(json.dumps(message).encode()))
    if "error" in message:
        kind, text = message["error"]
        raise getattr(errors, kind)(text)
    return message["value"]


def check_same(value: Any, what: str) -> None:
    """Raises `InputError` unless a JSON value is the same in all processes."""
    text = json.dumps(value)
    if on_first(lambda: text) != text:
        raise InputError(
            f"{what} of process {jax.process_index()} is not that of process 0: start "
            "all with the same flags, and a --workdir that all see"
        )


def in_any(*flags: bool) -> tuple[bool, ...]:
    """Returns in all processes whether each flag is set in one of them, at least.

    All processes must come here, in the same order.

    Cost: one message, of however many flags.
    """
    if jax.process_count() == 1:
        return flags
    of_all = multihost_utils.process_allgather(np.asarray(flags, np.int32))
    return tuple(bool(flag) for flag in np.any(of_all, axis=0))


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """Returns in all processes the rows of all, those of process 0 first.

    All processes must come here, with arrays of one shape and type; no bit is lost,
    where JAX's own gathering would round float64.
    """
    if jax.process_count() == 1:
        return rows
    bits = np.ascontiguousarray(rows).view(np.uint8)
    return np.asarray(multihost_utils.process_allgather(bits, tiled=True)).view(
        rows.dtype
    )


def _cluster_started_several() -> bool:
    """Returns whether this is one of several processes of a Slurm step or a TPU slice.

    Only `srun` sets the first of the two: a command typed into an allocation is alone.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return tasks not in ("", "1") or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _broadcast(data: bytes) -> bytes:
    """Returns the bytes of process 0; a compiled program for each size, so few sizes."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    room = _SMALLEST
    while room < size:
        room *= 4
    buffer = np.zeros(room, np.uint8)
    if is_first():
        buffer[:size] = np.frombuffer(data, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))[:size])


def _remind(where: str, done: threading.Event) -> None:
    """Says now and then that a process waits for the rest of its cluster."""
    waited = 0.0
    while not done.wait(_REMIND_S):
        waited += _REMIND_S
        _log(
            f"{where} has waited {waited:.0f} s for the other processes of the cluster"
        )
