"""Floor 4: what cells that were searched on several tasks are worth on each of them."""

import contextlib
from collections.abc import Mapping
from typing import Any

from skillearn_jax.data import ImageData
from skillearn_jax.parallel import Devices
from skillearn_jax.paths import folder_name
from skillearn_jax.train.config import Config
from skillearn_jax.train.console import Console
from skillearn_jax.train.evaluate import evaluate
from skillearn_jax.train.fingerprint import fingerprint
from skillearn_jax.train.report import report_by_first
from skillearn_jax.train.spaces import Cells
from skillearn_jax.train.summary import claims, evaluated, summary_of
from skillearn_jax.train.tasks import task_config
from skillearn_jax.train.workdir import SUMMARY, Workdir


def evaluate_tasks(
    config: Config,
    data: Mapping[str, ImageData],
    genotype: Cells,
    workdir: Workdir,
    devices: Devices,
    console: Console,
) -> dict[str, Any]:
    """Trains the derived, rival and random cells on every task, one after the other.

    Each task is an evaluation like that of a search on one data set, in a folder of its
    own, `tasks/NAME`, with its `evaluation.json`, `summary.json` and report.

    Args:
        config: of the run.
        data: training and held-out images by task.
        genotype: the derived cells, the same for all tasks.
        workdir: gets `tasks/` and `evaluation.json`, which holds the held-out errors in
            percent by task, network and seed.
        devices: to run on.
        console: for the progress bar.

    Returns:
        The entry `evaluation` of `summary.json`: the rows of all tasks, named
        `NETWORK on TASK`, and under `tasks` each task's own entry, with its number of
        held-out images.
    """
    errors, entries = {}, {}
    for name, of_task in data.items():
        console.message(f"evaluation on {name}")
        own = task_config(config, name)
        path = workdir.path / "tasks" / folder_name(name)
        folder = Workdir(path, own, fingerprint(of_task))
        folder.write_config(f"The evaluation on {name} of a search on {config.tasks}.")
        folder.write_json("genotype.json", genotype.to_json())
        with contextlib.closing(folder):
            entry = evaluate(own, of_task, genotype, folder, devices, console)
        summary = summary_of(config, [of_task], genotype) | evaluated(entry)
        summary["searched_on"] = " and ".join(each.name for each in data.values())
        folder.write_json(SUMMARY, summary)
        report_by_first(folder.path)
        entries[name] = {**entry, "num_heldout": of_task.num_heldout}
        errors[name] = folder.read_json("evaluation.json")
        workdir.write_json("evaluation.json", errors)
    rows = [
        {**row, "name": f"{row['name']} on {name}", "task": name}
        for name, entry in entries.items()
        for row in entry["rows"]
    ]
    first = next(iter(entries.values()))
    shared = {k: first[k] for k in ("epochs", "channels", "cells", "num_seeds")}
    verdicts = [
        f"On {name}: {text}"
        for name, entry in entries.items()
        for text in claims(entry)
    ]
    return {**shared, "rows": rows, "verdict": " ".join(verdicts), "tasks": entries}
