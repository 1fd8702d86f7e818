"""What the skills are worth on embedded data: cells searched at equal compute.

    python benchmarks/skills.py --workdir=runs/skills --seeds=3

Searches cells by random search, by plain search and by learning by passing tests on each of two
data sets alone, and by joint, interleaving and blocked learning on both; then trains them all,
and a random cell per seed, alike on both data sets. One JSON line for each skill and data set;
whatever was done already in the workdir is not done again.

Equal compute: every search takes the same number of steps of a learner's weights on a batch,
`--updates`. A step of interleaving is four of them (two rounds of two tasks), one of joint
learning two, one of the others one. The architecture moves once per step, whatever that is.
Random search spends the same steps on training `--candidates` random cells, whose steps are the
cheaper: one operation on an edge, and no hypergradient.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from machine import machine
from ml_collections import ConfigDict
from timing import use_default_cache

from skillearn_jax.commands import leave, run_command
from skillearn_jax.train import default_config, run
from skillearn_jax.train.spread import mean_and_std

Row = dict[str, Any]
TASKS = ("mnist5k", "digits")
TURNS = {
    "interleaving": 4,
    "blocked": 4,
    "joint": 2,
    "random": 1,
    "baseline": 1,
    "lpt": 1,
}
HOST = "joint"
"""The run that trains the cells of all others beside its own."""


def base(flags: argparse.Namespace, seed: int) -> ConfigDict:
    config = default_config()
    config.seed = seed
    config.data.batch_size = 64
    config.data.stratified = True
    config.data.image_size = 8
    config.space.num_nodes = flags.nodes
    config.space.ops = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
    config.search.cells = flags.cells
    config.search.channels = flags.channels
    config.search.num_random = flags.candidates
    config.search.alphas.lr = 3e-2
    config.tester.encoder = "small"
    config.tester.weights.lr = 0.1
    config.tester.creator.lr = 6e-3
    config.evaluation.epochs = 0
    config.evaluation.cells = flags.cells
    config.evaluation.channels = 2 * flags.channels
    config.evaluation.batch_size = 64
    config.evaluation.auxiliary_weight = 0.0
    config.evaluation.drop_path = 0.0
    config.evaluation.num_random = 1
    config.evaluation.num_seeds = 1
    config.parallel.devices = 1
    return config


def searches(flags: argparse.Namespace, seed: int) -> dict[str, ConfigDict]:
    """Returns the configs of a seed by name; the host comes last."""
    configs = {}
    for skill in ("random", "baseline", "lpt"):
        for task in TASKS:
            config = base(flags, seed)
            config.skill, config.data.name = skill, task
            configs[f"{skill}_{task}"] = config
    for skill in ("interleaving", "blocked", HOST):
        config = base(flags, seed)
        config.skill, config.tasks = skill, TASKS
        configs[skill] = config
    for config in configs.values():
        # Half of 80 percent of the images; an epoch is one of the larger set.
        larger = "mnist5k" if "mnist5k" in (*config.tasks, config.data.name) else ""
        steps = (2000 if larger else 720) // config.data.batch_size
        wanted = flags.updates / TURNS[config.skill] / steps
        if config.skill == "random":
            wanted /= config.search.num_random
        config.search.epochs = max(1, math.ceil(wanted))
    configs[HOST].evaluation.epochs = flags.epochs
    return configs


def run_seed(flags: argparse.Namespace, seed: int) -> list[Row]:
    """Returns the rows of a seed: errors, sizes and times."""
    folder = pathlib.Path(flags.workdir) / f"seed_{seed}"
    configs = searches(flags, seed)
    took, first_with, twins = {}, {}, {}
    for name, config in configs.items():
        if name == HOST:  # equal cells, trained alike, end alike: train one of them
            rivals = dict.fromkeys(first_with.values())
            config.evaluation.rivals = tuple(str(folder / other) for other in rivals)
        start = time.perf_counter()
        result = run(config, folder / name, quiet=True)
        if name != HOST:
            first = first_with.setdefault(result.genotype, name)
            twins.setdefault(first, []).append(name)
        took[name] = {
            **result.summary["search"],
            "updates": result.summary["search"]["steps"] * TURNS[config.skill],
        }
        message = f"seed {seed}: {name} in {time.perf_counter() - start:.0f} s"
        print(message, file=sys.stderr, flush=True)
    rows = []
    for task, entry in result.summary["evaluation"]["tasks"].items():
        for row in entry["rows"]:
            name = HOST if row["name"] == "derived" else row["name"]
            name = "one random cell" if name.startswith("random ") else name
            rows += [
                {
                    "cells": twin,
                    "task": task,
                    "error": row["mean"],
                    "params": row["params"],
                    **{k: took.get(twin, {}).get(k) for k in SEARCH},
                }
                for twin in twins.get(name, [name])
            ]
    return rows


SEARCH = ("updates", "steps_s", "compile_s")


def summarize(rows: list[Row], seeds: int) -> Iterator[Row]:
    """Yields one line for each kind of cells and task."""
    for key in dict.fromkeys((row["cells"], row["task"]) for row in rows):
        mine = [row for row in rows if (row["cells"], row["task"]) == key]
        errors = [row["error"] for row in mine]
        line = {"cells": key[0], "task": key[1], "seeds": seeds, "errors": errors}
        line |= mean_and_std(errors)
        line["params"] = statistics.fmean(row["params"] for row in mine)
        for name in SEARCH:
            values = [row[name] for row in mine if row[name] is not None]
            # The first seed compiles, the others read its cache; of the times of the
            # steps, the least disturbed.
            best = min if name == "steps_s" else max
            line[name] = best(values) if values else None
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=248)
    parser.add_argument("--epochs", type=int, default=10, help="of the evaluation")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=4, help="of random search")
    flags = parser.parse_args()
    use_default_cache()

    def command() -> None:
        rows = [row for seed in range(flags.seeds) for row in run_seed(flags, seed)]
        about = {"evaluation_epochs": flags.epochs, **machine()}
        for line in summarize(rows, flags.seeds):
            print(json.dumps({**line, **about}))

    leave(run_command(parser, command))


if __name__ == "__main__":
    main()
