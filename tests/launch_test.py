"""Runs of several processes, for real: on this machine, some of them killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from skillearn_jax.cli import parse_command
from skillearn_jax.train import run
from skillearn_jax.train.checkpoints import Checkpoints

# Of ml_collections, where it loads a config file.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.usefixtures("quick_module"),
]

TINY = (
    "--config.data.batch_size=256",
    "--config.space.num_nodes=1",
    "--config.search.cells=1",
    "--config.search.channels=2",
    "--config.search.warmup_epochs=1",
    "--config.evaluation.epochs=0",
)
BASELINE = (*TINY, "--config.skill=baseline", "--config.hypergrad.adjoint=first_order")


@pytest.fixture
def flags(repo_root):
    return lambda *extra: (f"--config={repo_root}/configs/lpt_digits.py:smoke", *extra)


@pytest.fixture
def local(repo_root, tmp_path, quick_flags):
    """`local(workdir, flags)`: two processes, some devices each; `.end()`: its code."""
    started = []

    class Started:
        def __init__(self, workdir, flags, devices=4):
            self.workdir, self.log = workdir, tmp_path / f"log_{len(started)}"
            with self.log.open("w") as file:
                self.process = subprocess.Popen(
                    [
                        repo_root / "launch/local.sh",
                        "2",
                        *flags,
                        f"--workdir={workdir}",
                    ],
                    stdout=file,
                    stderr=file,
                    env={
                        **os.environ,
                        "PYTHON": sys.executable,
                        "PYTHONPATH": str(repo_root),
                        "XLA_FLAGS": f"{quick_flags} "
                        f"--xla_force_host_platform_device_count={devices}",
                        "JAX_COMPILATION_CACHE_DIR": str(repo_root / ".jax_cache"),
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
                    },
                    # A group of its own, so that nothing of it is left behind.
                    start_new_session=True,
                )
            started.append(self)

        def kill(self, number, after, by=signal.SIGKILL):
            """Kills a process as soon as this many lines of metrics are written."""
            while len(rows(self.workdir)) < after:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.05)
            pids = re.findall(rf"process {number} of 2: .* pid (\d+)", self.said())
            os.kill(int(pids[-1]), by)

        def said(self):
            return self.log.read_text(errors="replace")

        def end(self):
            return self.process.wait(timeout=500)

    yield Started
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.process.pid, signal.SIGKILL)
        process.process.wait()


def rows(workdir):
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()[:-1]]


def outcome(workdir):
    genotype = json.loads((workdir / "genotype.json").read_text())
    metrics = (workdir / "metrics.jsonl").read_text().splitlines()
    return genotype, [json.loads(line) for line in metrics]


def check_close(got, want, rel):
    assert got[0] == want[0]
    assert len(got[1]) == len(want[1])
    for row, wanted in zip(got[1], want[1], strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            close = value if name == "phase" else pytest.approx(value, rel, abs=rel)
            assert row[name] == close, name


def of_one_process(flags, workdir, devices=8):
    """The same search by this process, with as many devices of its own."""
    flags = [*flags, f"--workdir={workdir}", f"--config.parallel.devices={devices}"]
    config, *_ = parse_command(["run.py", *flags])
    run(config, workdir, quiet=True)
    return outcome(workdir)


def test_a_killed_process_is_restarted_and_two_processes_equal_one(
    flags, local, tmp_path
):
    phases = ("--config.search.epochs=8", "--config.search.warmup_epochs=0")
    args = flags(*BASELINE, *phases)
    two = local(tmp_path / "two", args, devices=2)
    two.kill(1, after=4)
    assert two.end() == 0, two.said()
    said = two.said()
    assert said.count("local.sh: a process ended with") == 1
    assert "restart 1 of 10, from the last checkpoint" in said
    for number in (0, 1):
        assert said.count(f"process {number} of 2: host") == 2
        assert said.count(f"process {number} of 2: 2 of 4 devices (cpu)") == 2
    assert said.count("report: ") == 1  # the first process speaks, and it alone
    record = json.loads((tmp_path / "two" / "config.json").read_text())
    assert record["device"] == "4 x cpu"
    want = of_one_process(args, tmp_path / "one", devices=4)
    check_close(outcome(tmp_path / "two"), want, 1e-3)


def test_a_mistake_ends_all_and_is_not_tried_again(flags, local, tmp_path):
    args = flags(*BASELINE, "--config.data.batch_size=250")
    two = local(tmp_path / "two", args, devices=4)
    assert two.end() == 2
    assert "batch of 250 cannot be split over 8 devices" in two.said()
    assert "restart" not in two.said()
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("count", ["", "0", "two"])
def test_local_wants_a_number(repo_root, count):
    done = subprocess.run(
        [repo_root / "launch" / "local.sh", count],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: launch/local.sh N")


@pytest.mark.long
def test_when_one_process_is_asked_to_end_all_save_and_end(flags, local, tmp_path):
    args = flags(*BASELINE, "--config.search.epochs=400")
    two = local(tmp_path / "two", args)
    two.kill(1, after=9, by=signal.SIGTERM)
    assert two.end() == 143, two.said()
    ends = re.findall(r"interrupted by SIGTERM, saved at step (\d+)", two.said())
    assert len(ends) == 2
    assert ends[0] == ends[1]
    assert (tmp_path / "two" / "checkpoints" / "search" / ends[0]).is_dir()
    assert "restart" not in two.said()


@pytest.mark.long
def test_a_run_moves_from_two_processes_to_one_and_back(
    flags, local, tmp_path, monkeypatch
):
    phases = ("--config.search.epochs=16", "--config.search.warmup_epochs=0")
    args = flags(*BASELINE, *phases)
    # Saves that slow the steps down: there is something left to do at each move.
    often = (*args, "--config.checkpoint.every_steps=1")
    workdir = tmp_path / "moving"
    two = local(workdir, often, devices=2)
    two.kill(0, after=3, by=signal.SIGTERM)
    assert two.end() == 143, two.said()
    (saved,) = set(re.findall(r"saved at step (\d+)", two.said()))
    assert int(saved) < 24
    with monkeypatch.context() as patch:
        ends_after(patch, 24)
        with pytest.raises(KeyboardInterrupt):
            of_one_process(often, workdir, devices=1)
    assert len(rows(workdir)) >= 23
    assert not (workdir / "genotype.json").exists()
    back = local(workdir, args, devices=2)
    assert back.end() == 0, back.said()
    check_close(outcome(workdir), of_one_process(args, tmp_path / "one", 4), 1e-3)


def ends_after(patch, step):
    """Ends a run, without a signal, when the checkpoint of a step is written."""
    save = Checkpoints.save

    def dies(self, at, *args):
        save(self, at, *args)
        if at == step:
            self.close()
            raise KeyboardInterrupt

    patch.setattr(Checkpoints, "save", dies)


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "optimizer"), [("pmap", "replicated"), ("shard_map", "sharded")]
)
def test_a_search_by_passing_tests_is_the_same_bits_after_a_kill(
    flags, local, tmp_path, backend, optimizer
):
    args = flags(
        *TINY,
        "--config.search.epochs=12",
        f"--config.parallel.backend={backend}",
        f"--config.parallel.tester_optimizer={optimizer}",
    )
    whole = local(tmp_path / "whole", args)
    assert whole.end() == 0, whole.said()
    for number in (0, 1):
        killed = local(tmp_path / f"killed_{number}", args)
        killed.kill(number, after=9)
        assert killed.end() == 0, killed.said()
        assert "restart 1 of" in killed.said()
        for name in ("metrics.jsonl", "genotype.json"):
            got, want = (w.workdir / name for w in (killed, whole))
            assert got.read_bytes() == want.read_bytes(), name
    want = of_one_process(args, tmp_path / "one")
    check_close(outcome(tmp_path / "whole"), want, 1e-2)


@pytest.mark.long
def test_two_processes_read_and_judge_each_its_part_of_the_files(
    flags, local, tmp_path, prepare_photos
):
    counts = {"train": 40, "validation": 21}
    folder = prepare_photos(tmp_path / "photos", "array_record", counts, 7)
    args = flags(
        *TINY,
        "--config.skill=baseline",
        "--config.genotype=DARTS_V2",
        "--config.data.name=stream:photos",
        f"--config.data.dir={folder}",
        "--config.data.image_size=16",
        "--config.data.stream.shorter_side=20",
        "--config.evaluation.epochs=1",
        "--config.evaluation.batch_size=8",
        "--config.evaluation.cells=1",
        "--config.evaluation.channels=2",
        "--config.evaluation.auxiliary_weight=0.0",
        "--config.evaluation.num_random=0",
        "--config.evaluation.num_seeds=1",
    )
    two = local(tmp_path / "two", args, devices=2)
    assert two.end() == 0, two.said()
    of_one_process(args, tmp_path / "one", devices=4)
    judged, alone = (
        json.loads((tmp_path / name / "heldout.json").read_text())["derived"]["0"]
        for name in ("two", "one")
    )
    images = [sum(row) for row in judged["confusion"]]
    assert images == [sum(row) for row in alone["confusion"]] == [3] * 7
    assert judged["loss"] == pytest.approx(alone["loss"], rel=1e-3)
    (row,), (same,) = (outcome(tmp_path / name)[1] for name in ("two", "one"))
    assert row["train_loss"] == pytest.approx(same["train_loss"], rel=1e-3)
