"""Floor 4: compares hypergradients on a problem, and the searches that they steer."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from skillearn_jax.errors import InputError
from skillearn_jax.framework import compare
from skillearn_jax.framework.comparing import ADJOINTS
from skillearn_jax.paths import user_path
from skillearn_jax.train import interrupt, report_comparison
from skillearn_jax.train.comparison_problems import (
    Problem,
    build_problem,
    chain,
    search_values,
    warmed,
)
from skillearn_jax.train.config.compare import CompareConfig
from skillearn_jax.train.console import Console
from skillearn_jax.train.experiment import run
from skillearn_jax.train.json_files import read_json, read_rows, write_json
from skillearn_jax.train.lock import locked
from skillearn_jax.train.resume import Difference, told
from skillearn_jax.train.workdir import holds_comparison, open_folder

_SEARCHES = ("exact", "finite_difference", "first_order")


class Comparison(NamedTuple):
    """What a comparison leaves, beside the files in its workdir.

    Attributes:
        record: the content of `comparison.json`.
        report: path of the page to look at.
    """

    record: dict[str, Any]
    report: Path


def run_comparison(
    config: Mapping[str, Any] | ConfigDict | CompareConfig,
    workdir: str | Path,
    *,
    quiet: bool = False,
) -> Comparison:
    """Compares every adjoint on a problem and writes a report.

    Leaves `config.json`, `comparison.json`, `report/index.html` with its figures, and
    in `search/NAME` a whole run for each of the searches.

    Args:
        config: a `CompareConfig`, or what `configs/compare_hypergradients.py` returns.
        workdir: folder for everything that it writes. One that holds this comparison,
            finished, is only reported; one that holds something else is refused.
        quiet: print nothing.

    Raises:
        InputError: before anything is written, for a config or workdir that cannot be
            meant, and in a run of several processes; for a damaged `comparison.json`.
    """
    start = time.perf_counter()
    if jax.process_count() > 1:
        raise InputError(
            f"a comparison runs in one process, not in {jax.process_count()}: start it "
            "by itself, without --num_processes and --distributed"
        )
    if not isinstance(config, CompareConfig):
        config = CompareConfig.parse(config)
    problems = {
        size: build_problem(config.problem, size, config.seed)
        for size in (config.batch_size, *config.batch_sizes)
    }
    folder, plain = user_path(workdir), json.loads(json.dumps(asdict(config)))
    _check_folder(folder, plain)  # a foreign one is left without a lock
    console = Console(quiet=quiet)
    with locked(folder, console.message), interrupt.handled():
        _check_folder(folder, plain)  # another one may just have begun there
        write_json(folder / "config.json", plain)
        record = read_json(folder / "comparison.json", report_comparison.LIKE)
        if record is not None:
            console.message(f"{folder} holds this comparison already, finished")
        else:
            console.banner(
                f"hypergradients of {config.problem}",
                (f"seed {config.seed}, workdir {folder}",),
            )
            record = _compared(config, problems, folder, console)
            record["wall_s"] = time.perf_counter() - start
            write_json(folder / "comparison.json", record)
        report = report_comparison.write(folder, record)
    console.message(f"report: {report}", fold=False)
    return Comparison(record, report)


def _compared(
    config: CompareConfig,
    problems: Mapping[int, Problem],
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Takes all measures; `problems` are by their batch sizes."""
    problem = warmed(problems[config.batch_size], config.warm_steps)
    found = compare(
        *problem,
        radii=config.radii,
        dtypes=config.dtypes,
        repeats=config.repeats,
        progress=partial(_begin, console),
    )
    console.message(str(found))
    sweeps = {
        "batch": {
            str(size): _swept(config, problems[size], console, f"batches of {size}")
            for size in config.batch_sizes
            if size != config.batch_size  # compared in full already
        },
        "depth": {
            str(depth): _swept(
                config,
                chain(depth, config.batch_size, config.seed),
                console,
                f"toy chain of {depth}",
            )
            for depth in config.depths
        },
    }
    sweeps["batch"][str(config.batch_size)] = found.to_dict()
    return {
        "problem": config.problem,
        "program": str(problem.program),
        "batch_size": config.batch_size,
        **found.to_dict(),
        "sweeps": sweeps,
        "searches": _searches(config, folder, console),
    }


def _begin(console: Console, what: str) -> None:
    """Says what comes next, unless a signal has asked for the end."""
    interrupt.answer()
    console.message(what)


def _swept(
    config: CompareConfig, problem: Problem, console: Console, what: str
) -> dict[str, Any]:
    """Compares exact and finite difference alone: one point of a sweep.

    Not in float64, where neither depends on the problem's size in a way that shows.
    """
    _begin(console, what)
    dtypes = tuple(d for d in config.dtypes if d != "float64") or config.dtypes
    found = compare(
        *warmed(problem, config.warm_steps),
        adjoints=ADJOINTS[:2],
        radii=(),
        dtypes=dtypes,
        repeats=config.repeats,
    )
    return found.to_dict()


def _searches(
    config: CompareConfig, folder: Path, console: Console
) -> list[dict[str, Any]]:
    """Runs the same search by three hypergradients, from one seed."""
    if not config.search_epochs:
        return []
    rows = []
    for name in _SEARCHES:
        _begin(console, f"search by {name}")
        values = search_values(config.search_epochs)
        values |= {"seed": config.seed, "hypergrad": {"adjoint": name}}
        result = run(values, folder / "search" / name, quiet=True)
        alphas, _ = read_rows(folder / "search" / name / "alphas.jsonl")
        rows.append(
            {
                "name": name,
                "genotype": result.summary["genotype"],
                "error": result.summary["evaluation"]["rows"][0]["mean"],
                "search_s": result.summary["search"]["steps_s"],
                "alphas": alphas,
                "caveats": result.summary.get("caveats", []),
            }
        )
    return rows


def _check_folder(folder: Path, plain: Mapping[str, Any]) -> None:
    """Makes the folder, or checks that it holds this comparison and no other."""
    present = open_folder(folder)
    if not present:
        return
    if not holds_comparison(folder):
        raise InputError(
            f"the workdir {folder} is not empty and holds no comparison "
            f"({present[0]}, ...): set --workdir to a new folder"
        )
    old = read_json(folder / "config.json")
    if old != plain:
        keys = {**plain, **old}  # of another version there may be others
        changed = [
            Difference(
                f"config.{key}", old.get(key), plain.get(key), known=key in plain
            )
            for key in keys
            if old.get(key) != plain.get(key)
        ]
        raise InputError(
            f"the workdir {folder} holds a comparison with {told(changed)}"
        )
