"""Floor 4: a run from a config to a report: what the command line and notebooks call."""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from skillearn_jax.data import TrainingImages
from skillearn_jax.errors import InputError
from skillearn_jax.parallel import Devices, is_first, on_first
from skillearn_jax.paths import user_path
from skillearn_jax.train import interrupt
from skillearn_jax.train.benchmark import Benchmark, describe, load_benchmark
from skillearn_jax.train.checks import check, check_batches, check_images
from skillearn_jax.train.config import Config
from skillearn_jax.train.console import Console
from skillearn_jax.train.evaluate import evaluate
from skillearn_jax.train.evaluate_tasks import evaluate_tasks
from skillearn_jax.train.exams import load_bank
from skillearn_jax.train.fingerprint import fingerprint
from skillearn_jax.train.given import given_cells
from skillearn_jax.train.images import Images, each_set, load_images, search_images
from skillearn_jax.train.lock import locked_by_first
from skillearn_jax.train.random_search import random_search
from skillearn_jax.train.report import report_by_first
from skillearn_jax.train.search import SearchResult, search
from skillearn_jax.train.spaces import Cells, kind_of_cells, read_cells
from skillearn_jax.train.summary import (
    caveats,
    evaluated,
    print_evaluation,
    summary_of,
)
from skillearn_jax.train.telemetry import search_seconds, wall_clock
from skillearn_jax.train.wording import counted
from skillearn_jax.train.workdir import SUMMARY, Workdir


class Result(NamedTuple):
    """What a run leaves, beside the files in its workdir.

    Attributes:
        genotype: the derived cells.
        summary: the content of `summary.json`.
        report: path of the page to look at.
    """

    genotype: Cells
    summary: dict[str, Any]
    report: Path


def run(
    config: Mapping[str, Any] | ConfigDict | Config,
    workdir: str | Path,
    *,
    data: Images | None = None,
    quiet: bool = False,
) -> Result:
    """Searches a cell, trains the derived network beside random ones, writes a report.

    A workdir that holds an unfinished run of the same config is continued from its last
    checkpoint, a finished one only reported; one that holds another run, or is in use, is
    refused. On SIGTERM or SIGINT the state is saved at the next step.

    Args:
        config: a `Config`, or what `configs/*.py` return from `get_config()`.
        workdir: folder for everything that the run writes.
        data: the images, instead of those that `config` names: a user's own, made
            by `skillearn_jax.data.from_arrays`; for several tasks by their names.
        quiet: print nothing.

    Returns:
        The genotype, the summary and the path of the report.

    Raises:
        InputError: before anything is written, for a config, data or workdir that cannot
            be meant.
        NonFiniteError: if a loss becomes NaN or infinite.
        Interrupted: if a signal asked for the end.
        StorageError: if the disk does not take what is to be written.
    """
    start = time.perf_counter()
    workdir = user_path(workdir)
    if not isinstance(config, Config):
        config = Config.parse(config)
    console = Console(quiet=quiet or not is_first())
    if data is None and on_first(lambda: os.path.exists(workdir / SUMMARY)):
        # A finished run needs none of the files that its config names: they may be gone.
        with _locked(workdir, config, None, console) as folder:
            finished = _finished(folder, console)
            if finished is not None:
                return finished
    check(config)
    devices = Devices.take(config.parallel.devices, config.parallel.backend)
    data = load_images(config, data)
    for each in each_set(data):
        check_images(config, each)
        check_batches(config, each, devices)
    bank = None if isinstance(data, Mapping) else load_bank(config, data)
    benchmark = load_benchmark(config)
    known = fingerprint(data, bank, benchmark and benchmark.table)
    with _locked(workdir, config, known, console) as folder:
        return _run(config, data, bank, benchmark, folder, devices, console, start)


@contextlib.contextmanager
def _locked(
    workdir: str | Path,
    config: Config,
    data: Mapping[str, str] | None,
    console: Console,
) -> Iterator[Workdir]:
    """Opens a workdir for this run alone, and answers signals while it is open."""
    folder = Workdir(workdir, config, data)
    with locked_by_first(folder.path, console.message), interrupt.handled():
        # Again: a run that has ended in between has left its own.
        folder = Workdir(workdir, config, data)
        with contextlib.closing(folder):
            yield folder


def _finished(folder: Workdir, console: Console) -> Result | None:
    """Reports a run that has nothing left to do; returns `None` for another."""
    summary = folder.read_object(SUMMARY)
    if summary and "genotype" not in summary:
        raise InputError(
            f"{folder.path / SUMMARY} is not the summary of a run: remove it, and "
            "the same command writes it again"
        )
    if not summary or any(change.more for change in folder.changes):
        return None
    console.message(f"{folder.path} holds this run already, finished")
    return _report(folder, summary, console)


def _run(
    config: Config,
    data: Images,
    bank: TrainingImages | None,
    benchmark: Benchmark | None,
    folder: Workdir,
    devices: Devices,
    console: Console,
    start: float,
) -> Result:
    """Runs what is left of an experiment, in a workdir that is locked."""
    finished = _finished(folder, console)
    if finished is not None:
        return finished
    for change in folder.changes:
        console.message(f"goes on with {change.path} = {change.new}, was {change.old}")
    for name, (before, now) in folder.moved().items():
        console.message(f"goes on with {name} {now}, was {before}")
    console.banner(
        f"{'evaluation' if config.genotype else config.skill} on "
        f"{' and '.join(each.name for each in each_set(data))}",
        (
            *(
                f"{each.name}: {each.num_train} training and {each.num_heldout} "
                f"held-out images, {each.num_classes} classes"
                for each in each_set(data)
            ),
            f"seed {config.seed}, {counted(devices.count, 'device')}, workdir "
            f"{folder.path}",
        ),
    )
    for text in caveats(config):
        console.message(text)
    with wall_clock(folder, start) as wall_s:
        summary = _computed(config, data, bank, benchmark, folder, devices, console)
        summary["wall_s"] = wall_s()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, others kibibytes.
        summary["peak_bytes"] = peak if sys.platform == "darwin" else 1024 * peak
        folder.write_json(SUMMARY, summary)
    return _report(folder, summary, console)


def _computed(
    config: Config,
    data: Images,
    bank: TrainingImages | None,
    benchmark: Benchmark | None,
    folder: Workdir,
    devices: Devices,
    console: Console,
) -> dict[str, Any]:
    """Searches and evaluates, or what is left of it; returns the summary."""
    cells = given_cells(config)
    if cells is None:
        images = search_images(config, data)
        if config.skill == "random":
            assert isinstance(images, TrainingImages)  # `check_tasks`
            found = random_search(config, images, folder, devices, console, benchmark)
        else:
            found = search(config, images, folder, devices, console, bank, benchmark)
    else:
        kept = folder.read_json("genotype.json")
        if kept is not None and kept != cells.to_json():
            raise InputError(
                f"config.genotype is {config.genotype!r}, which holds other cells now than "
                f"when {folder.path} was begun: set --workdir to a new folder"
            )
        folder.write_config("No search: the cells are given.")
        folder.write_json("genotype.json", cells.to_json())
        found = SearchResult(cells, epochs=0, steps=0)
    cells = found.genotype
    console.drawing(kind_of_cells(cells).text(cells, console.columns))
    summary = summary_of(config, each_set(data), cells)
    stages, rule = config.search.num_stages, config.search.stop
    # The rule `epochs` stops none; a random search, which knows no other, counts its own.
    stopped = rule != "epochs" and 0 < found.epochs < stages * config.search.epochs
    summary["search"] = {
        "epochs": found.epochs,
        "steps": found.steps,
        **({"stages": stages} if stages > 1 and found.steps else {}),
        **({"stopped_by": rule} if stopped else {}),
        **search_seconds(folder),
    }
    if benchmark is not None:
        looked_up = benchmark.look_up(cells)
        summary["benchmark"] = {"dataset": benchmark.dataset, **looked_up}
        console.message(describe(looked_up, benchmark.dataset))
    if config.evaluation.epochs:
        evaluation = (
            evaluate_tasks(config, data, cells, folder, devices, console)
            if isinstance(data, Mapping)
            else evaluate(config, data, cells, folder, devices, console)
        )
        summary |= evaluated(evaluation)
        print_evaluation(console, evaluation)
    return summary


def _report(folder: Workdir, summary: dict[str, Any], console: Console) -> Result:
    report = report_by_first(folder.path)
    console.message(f"report: {report}", fold=False)
    return Result(read_cells(summary["genotype"]), summary, report)
