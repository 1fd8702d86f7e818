"""A process that fails alone ends the others, with its exit code and one line of each."""

import jax
import pytest

from skillearn_jax import cli
from skillearn_jax.parallel import end_all, ending, lost

# The first fails as on a full disk, while the second waits for it on the devices.
RUN = """
import sys
from skillearn_jax import cli
from skillearn_jax.errors import StorageError
from skillearn_jax.parallel import Processes, in_any, is_first

def run(config, workdir):
    if is_first():
        raise StorageError("cannot write metrics.jsonl")
    in_any(False)

processes = Processes(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
cli.parse_command = lambda argv: cli.Command({}, "", processes)
cli.run = run
sys.exit(cli.main([]))
"""


def test_what_fails_in_one_process_ends_both_alike(two_processes):
    codes, said = two_processes(RUN)
    assert codes == [4, 4], said
    first, second = (
        [line for line in text.splitlines() if "cannot write" in line] for text in said
    )
    assert first == ["skillearn_jax: cannot write metrics.jsonl"]
    assert second == [
        "skillearn_jax: process 1 of 2: process 0 has ended the run: cannot write "
        "metrics.jsonl"
    ]
    assert "Traceback" not in "".join(said)


def test_a_run_of_one_process_returns():
    end_all(4, "no others")
    assert lost(jax.errors.JaxRuntimeError("Gloo: closed by peer")) is None


@pytest.fixture
def two(monkeypatch):
    """`two(error)`: ends the second of two processes; its exit codes, what it told."""
    codes, table = [], {}

    class Exit(BaseException):
        pass

    def leave(code):
        codes.append(code)
        raise Exit

    class Client:
        def key_value_set(self, key, value):
            table[key] = value

    state = ending.distributed.global_state
    monkeypatch.setattr(state, "client", Client())
    monkeypatch.setattr(state, "num_processes", 2)
    monkeypatch.setattr(state, "process_id", 1)
    monkeypatch.setattr(ending.os, "_exit", leave)
    monkeypatch.setattr(ending.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    monkeypatch.setattr(cli, "_quiet_libraries", lambda: None)

    def ends(error):
        def start(run):
            raise error

        processes = type("Stub", (), {"start": start})()
        command = cli.Command({}, "", processes)
        monkeypatch.setattr(cli, "parse_command", lambda argv: command)
        with pytest.raises(Exit):
            cli.main([])
        return codes, table

    return ends


def test_of_a_process_that_was_killed_the_others_say_so_in_a_line(two, capfd):
    gone = jax.errors.JaxRuntimeError(
        "Gloo AllGather failed: Connection closed by peer"
    )
    codes, table = two(gone)
    assert codes == [5]
    assert list(table) == ["skillearn_jax/ended/1"]
    assert capfd.readouterr().err == (
        "skillearn_jax: process 1 of 2 has lost another process of the run (Gloo "
        "AllGather failed: Connection closed by peer); the same command goes on from the "
        "last checkpoint\n"
    )


def test_one_that_is_killed_while_all_save_is_known_too(two, capfd):
    """Orbax makes a timeout of it, an OSError: it was taken for a full disk."""
    gone = TimeoutError("Timeout waiting at barrier 'x': UNAVAILABLE: Failed to send")
    gone.__cause__ = jax.errors.JaxRuntimeError("UNAVAILABLE: Failed to send RPC")
    codes, _ = two(gone)
    assert codes == [5]
    assert "(UNAVAILABLE: Failed to send RPC); the same" in capfd.readouterr().err


@pytest.mark.parametrize(
    "error",
    [RuntimeError("closed by peer"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")],
)
def test_other_errors_keep_their_traceback(two, capfd, error):
    codes, table = two(error)
    assert codes == [1]
    assert "see its traceback" in table["skillearn_jax/ended/1"]
    assert "Traceback" in capfd.readouterr().err
