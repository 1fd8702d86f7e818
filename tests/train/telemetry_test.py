"""What a run logs beside metrics.jsonl: costs, profiles, event files."""

import errno
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.record_writer import RecordWriter

from skillearn_jax.errors import InputError, Interrupted, StorageError
from skillearn_jax.parallel import Devices
from skillearn_jax.train import run, telemetry
from skillearn_jax.train.checks import check
from skillearn_jax.train.events import EventFiles
from skillearn_jax.train.recompile import CompiledOnce, RecompilationWarning
from skillearn_jax.train.telemetry import observed, parse_profile
from skillearn_jax.train.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_module")

LOGGED = {
    "data.batch_size": 128,
    "search.epochs": 2,
    "search.warmup_epochs": 0,
    "evaluation.epochs": 1,
    "evaluation.num_random": 0,
    "evaluation.num_seeds": 1,
    "logging.tensorboard": True,
    "profile": "2:4",
}


@pytest.fixture(scope="module")
def logged(quick_module, tiny_baseline, tmp_path_factory):
    """A run that was interrupted at its seventh step, after its save of the sixth."""
    workdir = tmp_path_factory.mktemp("logged") / "run"
    config = tiny_baseline(LOGGED)
    with pytest.MonkeyPatch.context() as patch:
        append = Workdir.append_rows

        def appended(self, rows, *name):
            rows = list(rows)
            append(self, rows, *name)
            if not name and any(row["step"] == 7 for row in rows):
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(Workdir, "append_rows", appended)
        with pytest.raises(Interrupted, match="saved at step 7"):
            run(config, workdir, quiet=True)
    run(config, workdir, quiet=True)
    return workdir


def scalars(folder):
    """Returns `{tag: {step: value}}` of the event files of a folder."""
    from tensorboardX.proto import event_pb2

    found = {}
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_event_files_hold_the_numbers_of_the_metrics(logged, read_rows):
    found = scalars(logged / "tensorboard" / "search")
    rows = [row for row in read_rows(logged) if "learner/loss" in row]
    assert len(rows) == 10
    for name in ("learner/loss", "hypergrad/alphas/norm"):
        wanted = {row["step"]: np.float32(row[name]) for row in rows}
        assert found[name] == pytest.approx(wanted)
    ends = {row["step"] for row in read_rows(logged) if "alphas/skips/normal" in row}
    assert set(found["alphas/entropy/normal"]) == ends == {5, 10}
    assert "phase" not in found
    trained = scalars(logged / "tensorboard" / "evaluate" / "derived, seed 0")
    assert set(trained) == {"train_loss", "train_error"}


def test_a_candidate_of_a_random_search_is_no_evaluation(tmp_path):
    files = EventFiles(tmp_path)
    for phase in ("search", "evaluate"):
        row = {"phase": phase, "network": "a", "seed": 0, "step": 5, "train_loss": 1.0}
        files.add([row])
    files.close()
    for phase in ("search", "evaluate"):
        assert scalars(tmp_path / phase / "a, seed 0") == {"train_loss": {5: 1.0}}


def test_event_files_that_the_disk_refuses_end_a_run_and_never_hang_it(
    tmp_path, monkeypatch
):
    files = EventFiles(tmp_path / "tensorboard")
    row = {"phase": "search", "step": 1, "learner/loss": 1.0}
    files.add([row])

    def refuses(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", refuses)
    for _ in range(20):  # more than tensorboardX keeps in its queue
        with pytest.raises(StorageError, match=r"tensorboard .No space left on device"):
            files.add([row])
    files.close()


def test_costs_are_noted_apart(logged, read_rows):
    rows = [json.loads(x) for x in (logged / "timing.jsonl").read_text().splitlines()]
    compiled = [row for row in rows if "compile_s" in row]
    assert [(row["phase"], row["step"]) for row in compiled] == [
        ("search", 0),
        ("search", 7),
        ("evaluate/derived", 0),
    ]
    for row in compiled:
        assert row["compile_s"] > 0
        assert row["temp_bytes"] > row["argument_bytes"] / 100 > 0
    stepped = [row for row in rows if "steps_s" in row]
    assert [(row["phase"], row["step"], row["steps"]) for row in stepped] == [
        ("search", 5, 5),
        ("search", 7, 2),
        ("search", 10, 3),
        ("evaluate/derived/0", 5, 5),
    ]
    walls = [row["wall_s"] for row in rows if "wall_s" in row]
    assert len(walls) == 2
    summary = json.loads((logged / "summary.json").read_text())
    assert summary["search"]["steps_s"] == sum(row["steps_s"] for row in stepped[:3])
    assert summary["search"]["compile_s"] == sum(r["compile_s"] for r in compiled[:2])
    assert walls[0] < summary["wall_s"] <= sum(walls)
    assert all(0 < row["steps_s"] < 60 for row in stepped)
    assert not any("_s" in name for row in read_rows(logged) for name in row)


@pytest.mark.parametrize("chunk", [1, 2])
def test_seconds_are_those_of_the_steps_of_an_epoch(chunk, monkeypatch):
    """A second a step; what is done between them takes ten. Two epochs and a half."""
    now, rows, traced = 0.0, [], []
    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(telemetry, "time", clock)
    begin = 8  # of a run that goes on
    step = begin

    def steps():
        nonlocal now, step
        while step < 18:
            now, step = now + chunk, step + chunk
            yield "state", chunk * [{}]

    monkeypatch.setattr(jax.profiler, "start_trace", lambda at: traced.append(step))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append(step))
    workdir = SimpleNamespace(
        append_rows=lambda added, name: rows.extend(added), path=Path("run")
    )
    loop = SimpleNamespace(size=lambda step: chunk, steps_per_epoch=4)
    of_profile = range(11, 13)
    for _ in observed(loop, steps(), workdir, "search", begin, of_profile):
        now += 10
    assert [(row["step"], row["steps"], row["steps_s"]) for row in rows] == [
        (12, 4, 4.0),
        (16, 4, 4.0),
        (18, 2, 2.0),
    ]
    # Whole calls: in twos, those after the steps 10 and 12.
    assert traced == ([11, 13] if chunk == 1 else [10, 14])


def test_a_profile_is_captured_once_of_the_steps_asked_for(logged):
    """Where xprof looks for it, and a profile that its reader takes apart."""
    (trace,) = (logged / "profile" / "plugins" / "profile").glob("*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    named = [
        (line.name, event.name)
        for plane in planes
        for line in plane.lines
        for event in line.events
    ]
    assert sum("XLA" in line for line, _ in named) > 10
    calls = [name for _, name in named if re.fullmatch(r"\$loop\.py:\d+ steps", name)]
    assert len(calls) == 2  # "2:4"


@pytest.mark.parametrize("stop", [2, 9])  # in the loop, and at its end
@pytest.mark.parametrize("ended", [None, Interrupted("saved", signal.SIGTERM)])
def test_a_profile_that_the_disk_refuses_ends_a_run_in_one_line(
    tmp_path, monkeypatch, stop, ended
):
    """But for one that has ended already, with an exit code of its own."""
    calls = []

    def full():
        calls.append("stop")
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda at: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    workdir = SimpleNamespace(append_rows=lambda *args: None, path=tmp_path)
    loop = SimpleNamespace(size=lambda step: 1, steps_per_epoch=4)

    def steps():
        yield "state", [{}]
        if ended is not None:
            raise ended
        yield from 3 * [("state", [{}])]

    kind, text = StorageError, r"profile .RESOURCE_EXHAUSTED: No space left on device\)"
    if ended is not None:
        kind, text = Interrupted, "saved"
    with pytest.raises(kind, match=text):
        list(observed(loop, steps(), workdir, "search", 0, range(stop)))
    assert calls == ["start", "stop"]


def test_a_profile_beyond_the_search_is_refused(tiny_baseline, tmp_path, monkeypatch):
    monkeypatch.setattr(Devices, "compile", None)
    config = tiny_baseline({"profile": "4:5"})  # the fifth step, counted from 0
    with pytest.raises(InputError, match=r"'4:5', but the search has 4 steps: set"):
        run(config, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("text", ["3", "a:b", "5:5", "7:3", ":4", "1:2:3", "-1:4"])
def test_a_profile_that_is_none_is_refused(tiny_baseline, text):
    with pytest.raises(
        InputError, match=r"config.profile is .* must be START:STOP"
    ) as e:
        check(tiny_baseline({"profile": text}))
    assert "\n" not in str(e.value)


def test_a_profile_is_a_slice_of_steps():
    assert list(parse_profile("2:4")) == [2, 3]
    assert list(parse_profile("")) == []


def compiled(*args):
    def compile_for(*args):
        return jax.jit(lambda state, x: state["w"] * x["scale"]).lower(*args).compile()

    return CompiledOnce(compile_for, ("state", "streams"), *args)


def test_a_step_that_compiles_again_names_what_has_changed():
    call = compiled({"w": jnp.ones(3)}, {"scale": jnp.ones(())})
    call({"w": jnp.zeros(3)}, {"scale": jnp.ones(())})  # no warning: they are errors
    with pytest.warns(
        RecompilationWarning,
        match=r"compiled again \(.* s\): state/w was float32\[3\] and is float32\[4\] \(",
    ):
        result = call({"w": jnp.ones(4)}, {"scale": jnp.full((), 2.0)})
    assert result.tolist() == [2, 2, 2, 2]
    call({"w": jnp.zeros(4)}, {"scale": jnp.ones(())})
    with pytest.warns(
        RecompilationWarning, match=r"streams/scale was float32\[\] and is int32\[\]"
    ):
        call({"w": jnp.ones(4)}, {"scale": jnp.ones((), jnp.int32)})


def test_another_error_of_a_step_passes_through():
    call = compiled({"w": jnp.ones(3)}, {"scale": jnp.ones(())})
    call.compiled = lambda *args: int("nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        call({"w": jnp.zeros(3)}, {"scale": jnp.ones(())})
