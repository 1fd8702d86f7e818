"""How processes are told to find each other, and what the first says for all."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError, NonFiniteError, StorageError
from skillearn_jax.parallel import (
    Processes,
    check_same,
    gather_rows,
    in_any,
    is_first,
    on_first,
    processes,
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_processes": 2}, "need --coordinator=HOST:PORT"),
        ({"process_id": 1}, "need --coordinator=HOST:PORT"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "--process_id is 2; of --num_processes=2 it must be 0 to 1",
        ),
        ({"coordinator": "a", "num_processes": 2}, "'a'; it must be HOST:PORT"),
        ({"coordinator": "a:b", "num_processes": 2}, "'a:b'; it must be HOST:PORT"),
        ({"coordinator": "a:0", "num_processes": 2}, "'a:0'; it must be HOST:PORT"),
        ({"coordinator": "a:99999", "num_processes": 2}, "it must be HOST:PORT"),
        ({"coordinator": "a:1", "distributed": True}, "give one of them"),
        ({"start_timeout_s": 0}, "--start_timeout is below 1"),
        ({"heartbeat_timeout_s": 0}, "--heartbeat_timeout is below 1"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        Processes(**flags)


def test_one_process_starts_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    Processes().start()
    assert is_first()


def test_a_signal_between_the_start_and_the_run_is_not_swallowed(repo_root):
    code = (
        "import signal, socket\n"
        "from skillearn_jax.parallel import Processes\n"
        "with socket.socket() as free:\n"
        "    free.bind(('127.0.0.1', 0))\n"
        "    port = free.getsockname()[1]\n"
        "Processes(f'127.0.0.1:{port}', num_processes=1, process_id=0).start()\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('went on')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(repo_root), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")
    assert "process 0 of 1: 1 of 1 devices" in ended.stderr


def test_hosts_that_are_not_alike_are_told_at_the_start(two_processes):
    """For real: JAX's own word for it is an assertion that fails."""
    code = (
        "import sys\n"
        "from skillearn_jax.errors import InputError\n"
        "from skillearn_jax.parallel import Processes, end_all\n"
        "try:\n"
        "    Processes(sys.argv[1], 2, int(sys.argv[2])).start()\n"
        "except InputError as error:\n"
        "    end_all(2, str(error))\n"
    )
    codes, said = two_processes(code, (3, 1))
    assert codes == [2, 2], said


def test_without_a_cluster_the_flag_is_refused(monkeypatch, capsys):
    def initialize(**timeouts):
        assert timeouts["initialization_timeout"] == 7
        assert timeouts["heartbeat_timeout_seconds"] == 9
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError, match=r"finds no cluster .*: give --coordinator"):
        Processes(distributed=True, start_timeout_s=7, heartbeat_timeout_s=9).start()
    assert "a process of a cluster: host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "env", "asked"),
    [
        ({}, {}, False),
        ({}, {"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),
        ({}, {"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"distributed": False}, {"SLURM_STEP_NUM_TASKS": "2"}, False),
        ({"distributed": True}, {}, True),
    ],
)
def test_a_cluster_is_asked_where_it_has_started_several(
    monkeypatch, flags, env, asked
):
    class Asked(Exception):
        pass

    def initialize(**timeouts):
        raise Asked

    for name in ("SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(Asked) if asked else contextlib.nullcontext():
        Processes(**flags).start()


def test_a_coordinator_that_is_named_comes_before_the_cluster(monkeypatch):
    class Met(Exception):
        pass

    def meet(*args, **options):
        raise Met

    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setattr(processes, "meet", meet)
    with pytest.raises(Met):
        Processes("host:1234", num_processes=2).start()


def test_the_coordinator_is_met_first_and_named_to_jax_then(monkeypatch):
    class Joined(Exception):
        pass

    met = []

    def meet(*args, timeout_s, log):
        met.append((args, timeout_s))

    def initialize(*args, **timeouts):
        raise Joined(args, timeouts)

    monkeypatch.setattr(processes, "meet", meet)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    flags = {"start_timeout_s": 7, "heartbeat_timeout_s": 9}
    with pytest.raises(Joined) as joined:
        Processes("[::1]:8476", num_processes=3, process_id=2, **flags).start()
    assert met == [((("::1", 8476), 3, 2), 7)]
    assert joined.value.args == (
        ("[::1]:8476", 3, 2),
        {"initialization_timeout": 7, "heartbeat_timeout_seconds": 9},
    )


def test_one_process_speaks_to_itself():
    value = object()
    assert on_first(lambda: value) is value
    assert in_any(True, False) == (True, False)
    check_same({"a": 1}, "the config")


@pytest.fixture
def second(monkeypatch):
    """`second(message)`: this process as the second of two, told a message."""

    def tell(message):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        monkeypatch.setattr(processes, "_broadcast", lambda data: message)

    return tell


def test_the_second_process_is_told_and_does_nothing_itself(second):
    second(json.dumps({"value": {"a": [1, 2.5, None]}}).encode())
    assert on_first(lambda: pytest.fail("called")) == {"a": [1, 2.5, None]}
    for kind in (InputError, StorageError):
        second(json.dumps({"error": [kind.__name__, "set --workdir"]}).encode())
        with pytest.raises(kind, match="set --workdir"):
            on_first(lambda: pytest.fail("called"))


def test_processes_with_other_flags_are_refused(second):
    second(json.dumps({"value": json.dumps({"seed": 3})}).encode())
    check_same({"seed": 3}, "the config")
    with pytest.raises(InputError, match="the config of process 1 is not that of pro"):
        check_same({"seed": 4}, "the config")


@pytest.mark.parametrize("kind", [InputError, StorageError, NonFiniteError])
def test_what_the_first_finds_wrong_is_told_to_all(monkeypatch, kind):
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_broadcast", lambda data: said.append(data) or data)

    def wrong():
        raise kind("wrong")

    with pytest.raises(kind, match="wrong"):
        on_first(wrong)
    assert [json.loads(data) for data in said] == [{"error": [kind.__name__, "wrong"]}]
    assert on_first(lambda: [1]) == [1]


def test_rows_of_all_processes_keep_every_bit(monkeypatch):
    rows = np.array([[1 / 3, 2.0], [np.pi, 1e300]])
    assert gather_rows(rows) is rows

    def allgather(bits, tiled):
        # What JAX would do to them: float64 is not among its types.
        return np.concatenate([np.asarray(jnp.asarray(bits))] * 2)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", allgather)
    np.testing.assert_array_equal(gather_rows(rows), np.concatenate([rows, rows]))
    weights = np.ones(3, np.float32)
    assert gather_rows(weights).dtype == np.float32
    assert gather_rows(weights).shape == (6,)


@pytest.mark.parametrize("size", [0, 5, 4096, 4097, 70_000])
def test_a_message_of_any_size_arrives_in_one_of_few_rooms(monkeypatch, size):
    rooms = []

    def to_all(value):
        if np.ndim(value):
            rooms.append(len(value))
        return value

    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", to_all)
    data = bytes(i % 251 + 1 for i in range(size))
    assert processes._broadcast(data) == data
    assert rooms[0] in (4096, 4 * 4096, 16 * 4096, 64 * 4096)
    assert size <= rooms[0] < max(4 * size, 4097)


def test_a_flag_of_one_process_is_set_in_all(monkeypatch):
    """As seen by one that has set none; the other has set the second of two."""

    def allgather(flags):
        return np.stack([flags, [0, 1]])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", allgather)
    assert in_any(False, False) == (False, True)
    assert in_any(True, False) == (True, True)
