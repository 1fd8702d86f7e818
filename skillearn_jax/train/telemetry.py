"""Floor 4: what steps cost: seconds of compilation and of steps, memory, profiles."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax

from skillearn_jax.errors import InputError, StorageError, first_line
from skillearn_jax.framework import State
from skillearn_jax.train.json_files import refused
from skillearn_jax.train.loop import CompiledLoop, StepMetrics
from skillearn_jax.train.workdir import Workdir

PROFILE = "profile"
TIMING = "timing.jsonl"
"""What differs from run to run of a config, apart from the metrics, which do not."""


def parse_profile(text: str) -> range:
    """Returns the steps of a `START:STOP`, as a slice has them: `0:10` are the first ten.

    Raises:
        InputError: if it is something else.
    """
    if not text:
        return range(0)
    first, colon, last = text.partition(":")
    if colon and first.isdecimal() and last.isdecimal() and int(first) < int(last):
        return range(int(first), int(last))
    raise InputError(
        f"config.profile is {text!r}; it must be START:STOP, two numbers of steps that "
        "rise: set --config.profile=10:20"
    )


def note_compilation(
    workdir: Workdir, phase: str, step: int, loop: CompiledLoop
) -> None:
    """Notes in `timing.jsonl` the seconds of a compilation, and the program's memory."""
    row: dict[str, Any] = {"phase": phase, "step": step, "compile_s": loop.compile_s}
    workdir.append_rows([row | loop.program_bytes()], TIMING)


def observed(
    loop: CompiledLoop,
    steps: Iterator[tuple[State, list[StepMetrics]]],
    workdir: Workdir,
    phase: str,
    begin: int,
    profile: range = range(0),
) -> Generator[tuple[State, list[StepMetrics]], None, None]:
    """Yields what a loop yields, and notes in `timing.jsonl` what it cost.

    A row for each epoch: its steps, the seconds that they took (without what the caller
    does between them) and the peak memory of the device, where it tells. Apart from
    metrics.jsonl, which is the same in two runs of a config. To be closed: what it has
    counted is noted then, however the steps have ended.

    Args:
        loop: that takes the steps.
        steps: of `loop.steps`.
        workdir: gets `timing.jsonl`, and `profile/` for xprof.
        phase: for the rows.
        begin: steps taken before.
        profile: steps to profile, counted from 0; whole calls of the loop.

    Raises:
        StorageError: if the disk does not take what is noted, or the profile.
    """
    step, taken, seconds, tracing = begin, 0, 0.0, False
    try:
        while True:
            wanted = step < profile.stop and profile.start < step + loop.size(step)
            if wanted and not tracing:
                jax.profiler.start_trace(str(workdir.path / PROFILE))
                tracing = True
            start = time.perf_counter()
            try:
                state, metrics = next(steps)
            except StopIteration:
                break
            seconds += time.perf_counter() - start
            step, taken = step + len(metrics), taken + len(metrics)
            if tracing and step >= profile.stop:
                tracing = False
                _write_profile(workdir)
            if step % loop.steps_per_epoch == 0:
                row = {"phase": phase, "step": step, "steps": taken, "steps_s": seconds}
                workdir.append_rows([row | _device_bytes()], TIMING)
                taken, seconds = 0, 0.0
            yield state, metrics
        if tracing:
            tracing = False
            _write_profile(workdir)
    finally:
        with contextlib.suppress(StorageError):  # of what has ended the loop
            if tracing:
                _write_profile(workdir)
        if taken:  # of an epoch that was not finished
            row = {"phase": phase, "step": step, "steps": taken, "steps_s": seconds}
            with contextlib.suppress(StorageError):
                workdir.append_rows([row], TIMING)


def _write_profile(workdir: Workdir) -> None:
    """Ends the profile that was begun, and writes it."""
    try:
        jax.profiler.stop_trace()
    except jax.errors.JaxRuntimeError as error:  # as XLA says that a disk is full
        raise refused(f"write {workdir.path / PROFILE}", first_line(error)) from error


@contextlib.contextmanager
def wall_clock(workdir: Workdir, start: float) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the seconds which a run has taken so far.

    Those of earlier processes count, which `timing.jsonl` holds: of every one that was not
    killed at once.

    Args:
        workdir: of the run.
        start: of this process, by `time.perf_counter`.
    """
    rows = workdir.read_rows(TIMING)
    before = sum(row.get("wall_s", 0.0) for row in rows)

    def own() -> float:
        return time.perf_counter() - start

    noted = True
    try:
        yield lambda: before + own()
    except InputError:
        noted = False
        raise
    finally:
        # What is refused leaves the folder as it was, what has not begun no file.
        if noted and (workdir.path / "config.json").exists():
            with contextlib.suppress(StorageError):  # of what has ended the run
                workdir.append_rows([{"phase": "process", "wall_s": own()}], TIMING)


def search_seconds(workdir: Workdir) -> dict[str, float]:
    """Returns the seconds that a search has compiled and stepped, over all processes.

    Returns:
        `compile_s` and `steps_s`; a process that was killed leaves those of its finished
        epochs.
    """
    rows = workdir.read_rows(TIMING)
    searched = [r for r in rows if not str(r.get("phase")).startswith("evaluate")]
    return {
        name: sum(row.get(name, 0.0) for row in searched)
        for name in ("compile_s", "steps_s")
    }


def _device_bytes() -> dict[str, int]:
    """Returns the peak memory of the first device; nothing on CPU, which has no count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"device_peak_bytes": int(peak)}
