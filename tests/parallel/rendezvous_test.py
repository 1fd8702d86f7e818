"""Processes meet, and say for whom they wait; here they are threads."""

import socket
import threading
import time

import pytest

from skillearn_jax.errors import InputError, MissingProcessError
from skillearn_jax.parallel import rendezvous
from skillearn_jax.parallel.rendezvous import meet


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "127.0.0.1", server.getsockname()[1]


@pytest.fixture
def start(address):
    """`start(number, of)`: a process in a thread; `.join()` returns what it raised."""

    class Started(threading.Thread):
        def __init__(self, number, of, timeout_s):
            super().__init__(daemon=True)
            self.arguments, self.error, self.said = (number, of, timeout_s), None, []
            self.start()

        def run(self):
            number, of, timeout_s = self.arguments
            try:
                meet(address, of, number, timeout_s=timeout_s, log=self.said.append)
            except (InputError, MissingProcessError) as error:
                self.error = error

        def end(self):
            self.join(20)
            assert not self.is_alive()
            return self.error

    return lambda number, of, timeout_s=10: Started(number, of, timeout_s)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_they_meet_in_any_order_and_leave_the_port_free(start, address, order):
    started = []
    for number in order:
        started.append(start(number, 3))
        time.sleep(0.1)
    assert [process.end() for process in started] == [None, None, None]
    rendezvous._listen(address[1]).close()


def test_who_is_missing_is_named(start):
    first, third = start(0, 4, 1.5), start(2, 4, 3)
    message = r"process 0 of 4 has waited \d s for processes 1, 3 to come to 127"
    with pytest.raises(MissingProcessError, match=message):
        raise first.end()
    assert isinstance(third.end(), MissingProcessError)


def test_a_missing_first_is_named(start, address):
    message = rf"process 1 of 2 has waited .* for process 0 to listen on .*{address[1]}"
    with pytest.raises(MissingProcessError, match=message):
        raise start(1, 2, 1.5).end()


def test_reminders_come_before_the_end(start, monkeypatch):
    monkeypatch.setattr(rendezvous, "_REMIND_S", 0.5)
    process = start(0, 2, 1.6)
    assert "process 1 to come" in str(process.end())
    assert 2 <= len(process.said) <= 3
    assert "has waited" in process.said[0]


def test_two_of_one_number_are_refused_and_the_others_go_on(start):
    first = start(0, 3)
    one = start(1, 3)
    time.sleep(0.5)
    again = start(1, 3)
    with pytest.raises(InputError, match=r"two processes .* --process_id=1"):
        raise again.end()
    two = start(2, 3)
    assert [first.end(), one.end(), two.end()] == [None, None, None]


def test_one_that_died_may_come_again(start, address):
    first = start(0, 3)
    time.sleep(0.3)
    with socket.create_connection(address, timeout=5) as ghost:
        ghost.sendall(b"skillearn_jax 1 3\n")
        time.sleep(0.5)
    time.sleep(0.5)
    one, two = start(1, 3), start(2, 3)
    assert [first.end(), one.end(), two.end()] == [None, None, None]


def test_another_number_of_processes_is_refused(start):
    first, one = start(0, 2), start(1, 3)
    with pytest.raises(InputError, match=r"process 1 .*num_processes=3, process 0 w"):
        raise one.end()
    assert start(1, 2).end() is None
    assert first.end() is None


def test_strangers_are_sent_away(start, address):
    first = start(0, 2)
    time.sleep(0.3)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"skillearn_jax one 2\n", b""):
        with socket.create_connection(address, timeout=5) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100).startswith(b"no ")
    assert start(1, 2).end() is None
    assert first.end() is None


def test_a_port_that_is_taken_is_named(start, address):
    with (
        socket.create_server(("", address[1])),
        pytest.raises(InputError, match=rf"listen on port {address[1]} \(.* in use"),
    ):
        raise start(0, 2).end()
