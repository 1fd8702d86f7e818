"""Times one training step of a derived network; one JSON line.

    python benchmarks/train_step.py --genotype=DARTS_V2 --cells=20 --channels=36 --batch=96

By default the CIFAR form of DARTS: auxiliary head, drop path, SGD with momentum, batch
statistics; the images are noise of CIFAR's size.

`images_per_s` and `flops_per_s` are by `step_s`, the median wall-clock time of a step;
`flops` are those that XLA counts in the program, in which a separable convolution is a dense
one; with `--cells_form=scanned` the body of a loop counts once, too little. `cpu_s` and
`compile_cpu_s` are of the whole process, all threads together, and tell more where other
processes share the cores. `peak_bytes` is what XLA plans for one call: arguments, results and
temporaries.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from timing import measure, use_cache

from skillearn_jax.errors import InputError
from skillearn_jax.nas import find_genotype, scan_cells_by_default
from skillearn_jax.train import Config
from skillearn_jax.train.evaluation_program import training_program
from skillearn_jax.train.spaces import space_kind

CLASSES, SIDE, STEPS_PER_EPOCH = 10, 32, 520


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--genotype", default="DARTS_V2", help="published name, or file"
    )
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--channels", type=int, default=36)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument(
        "--seeds", type=int, default=1, help="trainings side by side, by vmap"
    )
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--cells_form",
        choices=("unrolled", "scanned"),
        default="scanned" if scan_cells_by_default() else "unrolled",
        help="how equal cells are run; by default as in a run on this backend",
    )
    parser.add_argument("--repeats", type=int, default=5, help="calls that are timed")
    parser.add_argument("--cache", default="", help="folder of a compilation cache")
    args = parser.parse_args()
    use_cache(args.cache)
    try:
        step, arguments = build(args)
    except InputError as error:
        sys.exit(str(error))
    found = measure(step, arguments, args.repeats)
    found["images_per_s"] = round(args.seeds * args.batch / found["step_s"], 2)
    line = {key: value for key, value in vars(args).items() if key != "cache"}
    print(json.dumps({**line, **found, **machine()}))


def build(args: argparse.Namespace) -> tuple[Callable[..., Any], Any]:
    """Returns the step of the evaluation and its arguments."""
    config = Config.parse(
        {
            "evaluation": {
                "cells": args.cells,
                "channels": args.channels,
                "batch_size": args.batch,
                "compute": args.compute,
            }
        }
    )
    network = space_kind(config).network(
        find_genotype(args.genotype), config, CLASSES, None, auxiliary=True
    )
    network = network.clone(scan_cells=args.cells_form == "scanned")
    program = training_program(network, config, STEPS_PER_EPOCH, None)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(args.batch, SIDE, SIDE, 3))
    train = {
        "image": jnp.asarray(images, jnp.float32),
        "label": jnp.arange(args.batch) % CLASSES,
        "index": jnp.arange(args.batch),
    }

    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), train["image"])
    # Whatever values: drawing those of the layers would take a compilation of its own.
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.random(leaf.shape), leaf.dtype), shapes
    )
    state = program.init(
        {"weights": variables["params"]},
        jax.random.key(0),
        {"network": variables["batch_stats"]},
    )
    batches = {"train": train, "progress": jnp.float32(0.5)}
    if args.seeds == 1:
        return program.step, (state, batches)
    each = jax.tree.map(lambda leaf: jnp.stack([leaf] * args.seeds), (state, batches))
    return jax.vmap(program.step), each


if __name__ == "__main__":
    main()
