"""What searches in the space of NAS-Bench-201 find, by the table of true accuracies.

    SKILLEARN_DATA=DIR python benchmarks/search_on_nasbench201.py --table=FILE.csv --workdir=runs/nb

Searches on photographs, those of `cifar10_pack.py`: with the architecture's gradient of first order,
of second order by finite differences and exact; with learning by passing tests; by random search.
All take as many steps of a learner's weights on a batch, which random search shares out over its
cells. One JSON line for each, with the accuracy that its derived cells have in the table on the test
images of CIFAR-10, after their full training at full size; and one for a cell drawn at random, over
the whole table. Whatever was done already in the workdir is not done again.

The configs are the short variants of `configs/nasbench201.py`, which says how they are made small;
with the original files of CIFAR-10 the launcher runs them by itself.
"""

import argparse
import json
import pathlib
import runpy
import sys
import time
from typing import Any

import cifar10_pack
from machine import machine
from ml_collections import ConfigDict
from timing import use_default_cache

from skillearn_jax.commands import leave, run_command
from skillearn_jax.nas.nasbench201 import load_table
from skillearn_jax.train import run
from skillearn_jax.train.json_files import read_rows
from skillearn_jax.train.spread import mean_and_std

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "nasbench201.py"
SEARCHES = {
    "first_order": ("short", "first_order"),
    "finite_difference": ("short", "finite_difference"),
    "exact": ("short", "exact"),
    "lpt": ("lpt_short", "exact"),
    "random": ("random_short", "exact"),
}
"""Variant of the config and adjoint."""


def config_of(flags: argparse.Namespace, name: str, seed: int) -> ConfigDict:
    """Returns the config of a search."""
    variant, adjoint = SEARCHES[name]
    config = runpy.run_path(str(CONFIG))["get_config"](variant)
    config.seed = seed
    config.hypergrad.adjoint = adjoint
    if flags.epochs:
        config.search.epochs = flags.epochs
    if flags.images:
        config.data.per_class = (flags.images, flags.images)
    config.benchmark.table = flags.table
    config.benchmark.dataset = "cifar10"
    config.parallel.devices = 1
    return config


def search(flags: argparse.Namespace, name: str, data: Any) -> dict[str, Any]:
    """Returns what the searches of one kind found, a list entry for each seed."""
    found: dict[str, Any] = {"search": name, "cells": [], "test": [], "rank": []}
    found |= {"val": [], "by_epoch": [], "steps_s": [], "compile_s": []}
    for seed in range(flags.seeds):
        folder = pathlib.Path(flags.workdir) / f"{name}_{seed}"
        start = time.perf_counter()
        result = run(config_of(flags, name, seed), folder, data=data, quiet=True)
        message = f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s"
        print(message, file=sys.stderr, flush=True)
        table, cost = result.summary["benchmark"], result.summary["search"]
        found["cells"].append(result.genotype.to_text())
        found["test"].append(table["benchmark/test_accuracy"])
        found["val"].append(table["benchmark/val_accuracy"])
        found["rank"].append(int(table["benchmark/test_rank"]))
        rows, _ = read_rows(folder / "metrics.jsonl")
        key = "benchmark/test_accuracy"
        found["by_epoch"].append([row[key] for row in rows if key in row])
        found["steps"] = cost["steps"]
        found["steps_s"].append(round(cost["steps_s"], 1))
        found["compile_s"].append(round(cost["compile_s"], 1))
    return found | mean_and_std(found["test"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--table", required=True, help="see configs/nasbench201.py")
    parser.add_argument("--searches", default=",".join(SEARCHES), help="some of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="instead of the config's")
    parser.add_argument("--images", type=int, default=0, help="of a class, likewise")
    flags = parser.parse_args()
    names = flags.searches.split(",")
    for name in names:
        if name not in SEARCHES:
            known = ", ".join(SEARCHES)
            parser.error(f"--searches has {name!r}; it takes some of {known}")
    use_default_cache()
    pack = cifar10_pack.find(parser)

    def command() -> None:
        table = load_table(flags.table)
        drawn = mean_and_std(table.column("cifar10", "test").tolist())
        print(json.dumps({"search": "one random cell", **drawn}), flush=True)
        data = cifar10_pack.read(pack)
        for name in names:
            line = search(flags, name, data)
            print(json.dumps({**line, **machine()}), flush=True)

    leave(run_command(parser, command))


if __name__ == "__main__":
    main()
