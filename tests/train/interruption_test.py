"""Runs that are ended from outside, wherever they are: the end is the same."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from skillearn_jax.errors import Interrupted, StorageError
from skillearn_jax.train import interrupt, run
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")

SMALL = (
    "--config.skill=baseline",
    "--config.hypergrad.adjoint=first_order",
    "--config.data.batch_size=128",
    "--config.space.ops=('none','max_pool_3x3','skip_connect','dil_conv_3x3')",
    "--config.space.num_nodes=1",
    "--config.search.channels=2",
    "--config.search.epochs=2",
    "--config.search.warmup_epochs=1",
    "--config.search.stage_cells=(1,1)",
    "--config.search.stage_candidates=(4,3)",
    "--config.search.stage_skip_dropout=(0.0,0.3)",
    "--config.evaluation.epochs=2",
    "--config.evaluation.cells=1",
    "--config.evaluation.channels=2",
    "--config.evaluation.batch_size=512",
    "--config.evaluation.num_random=1",
    "--config.evaluation.num_seeds=2",
    "--config.parallel.devices=1",
    "--config.checkpoint.every_steps=1",
)
SAME = ("metrics.jsonl", "genotype.json", "evaluation.json")


@pytest.fixture(scope="module")
def begin(repo_root, quick_flags):
    """Starts the launcher in a workdir; its standard output is nobody's."""
    return lambda workdir, *flags: subprocess.Popen(
        [
            sys.executable,
            str(repo_root / "launch" / "run.py"),
            f"--config={repo_root}/configs/lpt_digits.py:smoke",
            f"--workdir={workdir}",
            *SMALL,
            *flags,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "XLA_FLAGS": quick_flags,
            "JAX_COMPILATION_CACHE_DIR": str(repo_root / ".jax_cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )


def end(process):
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def left_by(workdir):
    return {name: (workdir / name).read_text() for name in SAME}


def checkpoints_of(workdir):
    """Returns the names of all checkpoints, complete or not."""
    return {
        path.relative_to(workdir).as_posix()
        for phase in ("search", "evaluation")
        for path in (workdir / "checkpoints" / phase).glob("*")
    }


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory):
    """A run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, err = end(begin(workdir))
    assert (code, err) == (0, "")
    return workdir


def killed_when_stepping(process, workdir, before, delay):
    """Kills a process some time after it has saved something; False if it ended."""
    while checkpoints_of(workdir) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    code, err = end(process)
    assert code == -signal.SIGKILL or (code, err) == (0, "")
    return code != 0


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_a_run_ends_the_same(whole, begin, tmp_path, kills):
    """Moments are drawn from before the first step, and from among the steps.

    A run goes on between the kills; where it comes to its end, the next is a fresh one.
    """
    workdir, rng, seen, killed = tmp_path / "run", random.Random(kills), set(), 0
    while killed < kills:
        before = checkpoints_of(workdir)
        process = begin(workdir)
        if killed % 5 == 4:
            before = {"any moment"}
        if killed_when_stepping(process, workdir, before, 0.7 * rng.random() ** 2):
            killed += 1
            seen |= checkpoints_of(workdir)
        else:
            assert killed >= 3, "runs end before they are killed"
            assert left_by(workdir) == left_by(whole)
            shutil.rmtree(workdir)
    assert len(seen) >= min(kills, 5)
    assert not (workdir / "summary.json").exists()
    assert end(begin(workdir)) == (0, "")
    assert left_by(workdir) == left_by(whole)


def test_on_sigterm_a_run_saves_and_exits_with_143(whole, begin, tmp_path):
    workdir = tmp_path / "run"
    process = begin(workdir, "--config.checkpoint.every_steps=0")
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    code, err = end(process)
    assert code == 143, err
    assert re.fullmatch(
        r"skillearn_jax: interrupted by SIGTERM, saved at step \d+; the same command goes "
        r"on from the last checkpoint\n",
        err,
    )
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert f"checkpoints/search/{last}" in checkpoints_of(workdir)
    # Another cadence: harmless.
    assert end(begin(workdir)) == (0, "")
    assert left_by(workdir) == left_by(whole)


# In this process.

MINE = {
    "data.batch_size": 128,  # five steps an epoch
    "evaluation.batch_size": 512,
    "evaluation.epochs": 2,
    "search.epochs": 3,
    "checkpoint.every_epochs": 0,
    "checkpoint.every_minutes": 0.0,
}


@pytest.fixture(scope="module")
def mine(quick_module, tiny_baseline, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mine") / "run"
    run(tiny_baseline(MINE), workdir, quiet=True)
    return workdir


def signal_at(patch, condition, number, count=1):
    """Sends a signal to this process as soon as a row of metrics is such."""
    append, left = Workdir.append_rows, [1]

    def appended(self, rows, *name):
        rows = list(rows)
        append(self, rows, *name)
        if left and not name and any(map(condition, rows)):
            left.clear()
            for _ in range(count):
                os.kill(os.getpid(), number)

    patch.setattr(Workdir, "append_rows", appended)


MOMENTS = {
    "mid-epoch of the warm-up": (lambda row: row["step"] == 2, "search/2"),
    "mid-epoch of the search": (lambda row: row["step"] == 8, "search/8"),
    "end of the warm-up": (lambda row: row["step"] == 5, "search/5"),
    "end of the search": (lambda row: row["step"] == 15, "search/15"),
    "first training": (lambda row: row.get("train_loss"), "evaluation/2"),
    "last training": (
        lambda row: row.get("network") == "random 1" and row["seed"] == 1,
        "evaluation/14",
    ),
}


LONG = MOMENTS.keys() - {"mid-epoch of the search", "last training"}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(name, marks=[pytest.mark.long] if name in LONG else [])
        for name in MOMENTS
    ],
)
def test_interrupted_anywhere_a_run_goes_on_bit_for_bit(
    mine, tiny_baseline, tmp_path, monkeypatch, moment
):
    condition, checkpoint = MOMENTS[moment]
    number = signal.SIGINT if "training" in moment else signal.SIGTERM
    with monkeypatch.context() as patch:
        signal_at(patch, condition, number)
        with pytest.raises(Interrupted, match=r"saved at step \d+;") as caught:
            run(tiny_baseline(MINE), tmp_path / "run", quiet=True)
    assert caught.value.signal == number
    assert f"checkpoints/{checkpoint}" in checkpoints_of(tmp_path / "run")
    run(tiny_baseline(MINE), tmp_path / "run", quiet=True)
    assert left_by(tmp_path / "run") == left_by(mine)


def die_at(patch, network, seed, step):
    """Ends this process's run when this step of a training has been saved."""
    save = Checkpoints.save

    def dies(self, number, state, note, *args):
        save(self, number, state, note, *args)
        at = [note.get(name) for name in ("network", "seed", "step")]
        if at == [network, seed, step]:
            self.close()
            raise KeyboardInterrupt

    patch.setattr(Checkpoints, "save", dies)


def timing_of(workdir):
    lines = (workdir / "timing.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_mid_epoch_of_a_training_the_means_go_on(
    mine, tiny_baseline, tmp_path, monkeypatch
):
    """A row of the evaluation is a mean over an epoch that began in another process."""
    config = tiny_baseline({**MINE, "checkpoint.every_steps": 1})
    with monkeypatch.context() as patch:
        die_at(patch, "derived", 1, 3)
        with pytest.raises(KeyboardInterrupt) as held:  # and the frames of the error
            run(config, tmp_path / "run", quiet=True)
    assert held.value
    begun, process = timing_of(tmp_path / "run")[-2:]
    assert (begun["phase"], begun["step"], begun["steps"]) == (
        "evaluate/derived/1",
        3,
        1,
    )
    assert process["phase"] == "process"
    run(config, tmp_path / "run", quiet=True)
    assert left_by(tmp_path / "run") == left_by(mine)


def test_with_more_seeds_a_training_that_is_under_way_goes_on_first(
    tiny_baseline, tmp_path, monkeypatch
):
    """Its checkpoint is the newest: others would be saved behind it, and never read."""
    config = tiny_baseline({**MINE, "checkpoint.every_steps": 1})
    with monkeypatch.context() as patch:
        die_at(patch, "random 1", 0, 3)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", quiet=True)
    config = tiny_baseline(
        {**MINE, "checkpoint.every_steps": 1, "evaluation.num_seeds": 3}
    )
    with monkeypatch.context() as patch:
        die_at(patch, "derived", 2, 1)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", quiet=True)
    done = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {name: list(seeds) for name, seeds in done.items()} == {
        "derived": ["0", "1"],
        "random 1": ["0", "1", "2"],
    }
    summary = run(config, tmp_path / "run", quiet=True).summary
    taken = [row.get("steps", 0) for row in timing_of(tmp_path / "run")]
    assert sum(taken) == 3 * 5 + 6 * 2 * 2  # none of them twice
    rows = summary["evaluation"]["rows"]
    assert [row["name"] for row in rows] == ["derived", "random 1"]
    assert [len(row["errors"]) for row in rows] == [3, 3]


@pytest.mark.long
def test_the_search_may_fall_back_to_an_older_checkpoint(
    mine, tiny_baseline, tmp_path, monkeypatch, capsys
):
    config = tiny_baseline({**MINE, "checkpoint.every_steps": 2})
    with monkeypatch.context() as patch:
        signal_at(patch, lambda row: row["step"] == 9, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(config, tmp_path / "run", quiet=True)
    search = tmp_path / "run" / "checkpoints" / "search"
    assert {path.name for path in search.iterdir()} >= {"8", "9"}
    (search / "9" / "manifest.json").unlink()
    run(config, tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert f"checkpoint {search}/9 is passed over: it has no manifest.json" in said
    assert left_by(tmp_path / "run") == left_by(mine)


def test_a_workdir_that_is_moved_away_is_not_begun_anew(
    mine, tiny_baseline, tmp_path, monkeypatch
):
    """A run would go on into a folder of half its files, and end in it with success."""
    config = tiny_baseline({**MINE, "checkpoint.every_steps": 1})
    old, new = tmp_path / "old", tmp_path / "new"
    save = Checkpoints.save

    def moved(self, number, *args):
        if number == 8:
            self.wait()
            old.rename(new)
        save(self, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", moved)
        with pytest.raises(StorageError, match="put its folder back"):
            run(config, old, quiet=True)
    assert not old.exists()
    run(config, new, quiet=True)
    assert left_by(new) == left_by(mine)


def test_a_second_sigint_ends_at_once(tiny_baseline, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, lambda row: row["step"] == 2, signal.SIGINT, count=2)
        with pytest.raises(Interrupted, match="nothing is lost"):
            run(tiny_baseline(MINE), tmp_path / "run", quiet=True)
    assert checkpoints_of(tmp_path / "run") == set()


@pytest.fixture
def hangs_up():
    """As in a terminal: the suite itself may run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_the_handlers_are_put_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with interrupt.handled():
        assert signal.getsignal(number) != before
        with pytest.raises(Interrupted, match=name) as ended:
            os.kill(os.getpid(), number)
    assert ended.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert not interrupt.requested()


@pytest.mark.usefixtures("hangs_up")
def test_under_nohup_a_closed_terminal_ends_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupt.handled():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupt.requested()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_outside_the_main_thread_nothing_is_handled():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with interrupt.handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_is_noted_where_nobody_hears_that_it_was(monkeypatch):
    """As after `2>&1 | tee log`, which Ctrl-C ends before the run."""

    def unheard(fd, text):
        raise BrokenPipeError

    monkeypatch.setattr(interrupt.os, "write", unheard)
    with interrupt.handled():
        with contextlib.suppress(Interrupted), interrupt.deferred():
            signal.raise_signal(signal.SIGINT)
            noted = interrupt.requested()
        assert noted
