"""The lock of a workdir: one run at a time, and nothing left to clear by hand."""

import errno
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from skillearn_jax.errors import InputError, StorageError
from skillearn_jax.train import experiment, run
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.json_files import write_text
from skillearn_jax.train.lock import locked

HOLDS = """
import sys, time
from pathlib import Path
from skillearn_jax.train.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def silent(line):
    raise AssertionError(line)


def test_a_second_run_is_refused_while_the_first_goes(tmp_path):
    with locked(tmp_path, silent):
        with (
            pytest.raises(
                InputError, match=rf"in use by process {os.getpid()} on "
            ) as e,
            locked(tmp_path, silent),
        ):
            pass
        assert "\n" not in str(e.value)
    with locked(tmp_path, silent):
        pass


def test_a_dead_process_holds_nothing(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=f"in use by process {other.pid} on "),
            locked(tmp_path, silent),
        ):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    with locked(tmp_path, silent):
        owner = json.loads((tmp_path / ".lock").read_text())
        assert owner["pid"] == os.getpid()


def test_an_unsigned_lock_is_refused_too(tmp_path):
    with locked(tmp_path, silent):
        (tmp_path / ".lock").write_text("")
        with (
            pytest.raises(InputError, match="in use by another run"),
            locked(tmp_path, silent),
        ):
            pass


def test_a_folder_in_the_place_of_the_lock_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(InputError, match=r"\.lock is a folder: remove it"),
        locked(tmp_path, silent),
    ):
        pass


def test_a_full_disk_takes_no_lock_but_an_empty_one(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path, silent):
        assert (tmp_path / ".lock").read_text() == ""
    monkeypatch.setattr(os, "open", full)
    with (
        pytest.raises(StorageError, match=r"\.lock \(No space left on device\)"),
        locked(tmp_path, silent),
    ):
        pass


def test_a_folder_that_is_another_runs_now_is_not_written(tmp_path, monkeypatch):
    """A workdir was moved while its run went on, and another began in its place."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    checkpoints = Checkpoints(old / "checkpoints", keep=1)
    with locked(old, silent):
        write_text(old / "a.json", "of the first")
        old.rename(new)
        with pytest.raises(StorageError, match="put its folder back"):
            write_text(old / "a.json", "late")
        assert not old.exists()
        old.mkdir()  # empty, as a script makes it, or behind a link that leads elsewhere
        with pytest.raises(StorageError, match="put its folder back"):
            write_text(old / "a.json", "late")
        assert list(old.iterdir()) == []
        other = old / "checkpoints" / ".2.partial" / "of_the_second"
        other.parent.mkdir(parents=True)
        other.write_text("")
        (old / ".lock").write_text('{"pid": 1}\n')
        taken = r"\(another run has its folder now\): put its folder back; the same"
        with pytest.raises(StorageError, match=f"^cannot write .*a.json {taken}"):
            write_text(old / "a.json", "late")
        state = {"a": np.ones(3)}
        for saves in (  # before it is begun, and while it is
            lambda: checkpoints.save(2, state),
            lambda: checkpoints._write(2, state, None, None, {}),
        ):
            with pytest.raises(StorageError, match=f"^cannot save .*/2 {taken}"):
                saves()
        checkpoints.close()
        assert {path.name for path in old.rglob("*") if path.is_file()} == {
            ".lock",
            "of_the_second",
        }
        shutil.rmtree(old)
        new.rename(old)
        write_text(old / "a.json", "of the first again")
        with monkeypatch.context() as patch:

            def refuses(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            patch.setattr(pathlib.Path, "read_bytes", refuses)
            write_text(old / "a.json", "its lock cannot be read")
        (old / ".lock").unlink()  # tidied away, which harms nobody
        write_text(old / "a.json", "still of the first")
    (old / ".lock").write_text("")
    write_text(old / "a.json", "of nobody")


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def unsupported(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    said = []
    with locked(tmp_path, said.append):
        pass
    assert said == [
        f"{tmp_path} cannot be locked (No locks available): start no other run there"
    ]


def test_a_run_holds_its_workdir(tiny_baseline, tmp_path, monkeypatch):
    config = tiny_baseline()
    seen = []

    def second(*args):
        monkeypatch.undo()
        with pytest.raises(InputError, match="in use by process") as caught:
            run(config, tmp_path / "run", quiet=True)
        seen.append(caught)
        raise RuntimeError("enough")

    monkeypatch.setattr(experiment, "search", second)
    with pytest.raises(RuntimeError, match="enough"):
        run(config, tmp_path / "run", quiet=True)
    assert seen
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
