"""Floor 1: processes meet before JAX starts, and say for whom they wait.

JAX's own start-up ends the process, without a name, when another one does not come. So
they meet first, on the coordinator's port: process 0 listens, the others say who they are,
and when all have come process 0 tells them to go on and leaves the port to JAX.
"""

import socket
import time
from collections.abc import Callable, Iterable, Mapping

from skillearn_jax.errors import InputError, MissingProcessError

_HELLO, _GO, _NO = "skillearn_jax", b"go\n", b"no "
_REMIND_S = 10.0
_RETRY_S = 0.2

Log = Callable[[str], None]


def meet(
    coordinator: tuple[str, int],
    num_processes: int,
    process_id: int,
    *,
    timeout_s: float,
    log: Log,
) -> None:
    """Returns when all processes have come; the port is free again then.

    Args:
        coordinator: host and port of process 0.
        num_processes: how many there are.
        process_id: of this one, from 0.
        timeout_s: how long to wait.
        log: told, every ten seconds, for whom this process waits.

    Raises:
        MissingProcessError: if somebody has not come in time; it says who.
        InputError: if the port is taken, or two processes contradict each other.
    """
    wait = _Patience(timeout_s, f"process {process_id} of {num_processes}", log)
    if process_id == 0:
        _host(coordinator, num_processes, wait)
    else:
        _visit(coordinator, num_processes, process_id, wait)


class _Patience:
    """A deadline, and reminders before it."""

    def __init__(self, timeout_s: float, name: str, log: Log) -> None:
        self._start = self._reminded = time.monotonic()
        self._timeout_s, self._name, self._log = timeout_s, name, log

    def check(self, whom: str) -> None:
        """Logs now and then, and raises at the deadline."""
        now = time.monotonic()
        waited = now - self._start
        if waited > self._timeout_s:
            raise MissingProcessError(
                f"{self._name} has waited {waited:.0f} s for {whom}: start what is "
                "missing, or set --start_timeout"
            )
        if now - self._reminded > _REMIND_S:
            self._reminded = now
            self._log(f"{self._name} has waited {waited:.0f} s for {whom}")


def _host(coordinator: tuple[str, int], num_processes: int, wait: _Patience) -> None:
    """Waits for the others as process 0."""
    host, port = coordinator
    guests: dict[int, socket.socket] = {}
    try:
        server = _listen(port)
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port} ({error.strerror}): set another "
            "--coordinator"
        ) from error
    try:
        with server:
            server.settimeout(_RETRY_S)
            while missing := set(range(1, num_processes)) - guests.keys():
                wait.check(f"{_named(missing)} to come to {host}:{port}")
                _welcome(server, num_processes, guests)
        for guest in guests.values():
            _send(guest, _GO)
    finally:
        for guest in guests.values():
            guest.close()


def _welcome(
    server: socket.socket, num_processes: int, guests: dict[int, socket.socket]
) -> None:
    """Lets one more guest in, if one comes."""
    try:
        guest, _ = server.accept()
    except TimeoutError:
        return
    finally:
        # One that died is waited for again: somebody may start it anew.
        for number in [n for n, g in guests.items() if _has_gone(g)]:
            guests.pop(number).close()
    words = _read_line(guest).split()
    wrong = _wrong(words, num_processes, guests)
    if wrong:
        _send(guest, _NO + wrong.encode() + b"\n")
        guest.close()
    else:
        guests[int(words[1])] = guest


def _wrong(
    words: list[str], num_processes: int, guests: Mapping[int, socket.socket]
) -> str:
    """Returns what is wrong with what a guest says, if anything."""
    if len(words) != 3 or words[0] != _HELLO or not "".join(words[1:]).isdecimal():
        return "this port is for the processes of a run"
    number, count = int(words[1]), int(words[2])
    if count != num_processes:
        return (
            f"process {number} was started with --num_processes={count}, process 0 "
            f"with {num_processes}: give all the same"
        )
    if number in guests or not 0 < number < num_processes:
        return (
            f"two processes were started with --process_id={number}: give each its own"
        )
    return ""


def _visit(
    coordinator: tuple[str, int], num_processes: int, process_id: int, wait: _Patience
) -> None:
    """Comes to process 0, and waits until it says that all are there."""
    address = ":".join(map(str, coordinator))
    while True:
        try:
            with socket.create_connection(coordinator, timeout=5) as door:
                door.sendall(f"{_HELLO} {process_id} {num_processes}\n".encode())
                heard = _hear(door, wait, f"the others, of whom {address} knows")
        except OSError:  # nobody listens there yet, or the host has no name yet
            heard = b""
        if heard == _GO:
            return
        if heard.startswith(_NO):
            raise InputError(heard.removeprefix(_NO).decode().strip())
        # Nobody, or what is left of an earlier run: not for long.
        wait.check(f"process 0 to listen on {address}")
        time.sleep(_RETRY_S)


def _hear(door: socket.socket, wait: _Patience, whom: str) -> bytes:
    """Returns the line that process 0 says; less of it if the door is shut."""
    door.settimeout(_RETRY_S)
    heard = b""
    while not heard.endswith(b"\n"):
        wait.check(whom)
        try:
            part = door.recv(1024)
        except TimeoutError:
            continue
        if not part or len(heard) > 4096:
            break
        heard += part
    return heard


def _read_line(guest: socket.socket) -> str:
    """Returns what a guest says, or nothing if it says nothing soon."""
    guest.settimeout(2)
    said = b""
    try:
        while not said.endswith(b"\n") and len(said) < 200:
            part = guest.recv(200)
            if not part:
                break
            said += part
    except OSError:
        return ""
    return said.decode("ascii", errors="replace")


def _send(guest: socket.socket, data: bytes) -> None:
    """Says something to a guest who may have gone."""
    try:
        guest.sendall(data)
    except OSError:
        guest.close()


def _has_gone(guest: socket.socket) -> bool:
    """Returns whether the other end is closed; a guest says nothing while it waits."""
    guest.setblocking(False)
    try:
        return guest.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        guest.settimeout(_RETRY_S)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True
        )
    return socket.create_server(("", port))


def _named(processes: Iterable[int]) -> str:
    """Returns `process 1` or `processes 1, 3`."""
    names = ", ".join(map(str, sorted(processes)))
    return f"processes {names}" if "," in names else f"process {names}"
