"""Times one gradient, or one whole step, of an architecture search; one JSON line.

    python benchmarks/search_step.py --cells=5 --channels=8 --batch=16 --order=second

`--part=alphas` is the gradient of the validation loss with respect to the architecture,
through the look-ahead of the weights; `--part=weights` the gradient of the training loss
with respect to the weights; `--part=step` everything that a search does in one step.
Images are noise of CIFAR's size. Nothing is read from a compilation cache unless one is
named: a second run with the same `--cache` measures a warm start.

`--compute` is what images and activations are; parameters and optimisers are float32.
`--precision` is that of float32 products: on NVIDIA GPUs `default` is TF32, `highest`
float32 proper; a CPU knows one only.

`flops` are those that XLA counts in the program, in which a separable convolution is a
dense one, unless `--form=depthwise`; `flops_per_s` is by `step_s`. `cpu_s` is of the whole
process, all threads together, and tells more than `step_s` where other processes share the
cores. `peak_bytes` is what XLA plans for one call: arguments, results and temporaries.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, get_args
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from timing import measure, use_cache

from skillearn_jax.data import from_arrays
from skillearn_jax.errors import InputError
from skillearn_jax.nas import functional
from skillearn_jax.nas.functional import Form, separable_form
from skillearn_jax.train import Config
from skillearn_jax.train.build import build_search

_ADJOINTS = {"exact": "exact", "fd": "finite_difference"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--part", choices=("alphas", "weights", "step"), default="alphas"
    )
    parser.add_argument("--space", choices=("darts",), default="darts")
    parser.add_argument("--skill", choices=("baseline", "lpt"), default="baseline")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--order", choices=("first", "second"), default="second")
    parser.add_argument("--adjoint", choices=tuple(_ADJOINTS), default="exact")
    parser.add_argument("--form", choices=get_args(Form), default=separable_form())
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--precision", choices=("default", "highest"), default="default"
    )
    parser.add_argument("--remat", action="store_true", help="compute cells anew")
    parser.add_argument("--repeats", type=int, default=5, help="calls, at least 5")
    parser.add_argument("--cache", default="", help="folder of a compilation cache")
    args = parser.parse_args()
    if args.repeats < 5:
        parser.error(f"--repeats is {args.repeats}; it must be at least 5")
    use_cache(args.cache)
    with (
        mock.patch.object(functional, "separable_form", return_value=args.form),
        jax.default_matmul_precision(args.precision),
    ):
        try:
            call, arguments = build(args)
        except InputError as error:
            sys.exit(str(error))
        figures = measure(call, arguments, args.repeats)
    line = {key: getattr(args, key) for key in vars(args) if key != "cache"}
    print(json.dumps({**line, **figures, **machine()}))


def build(args: argparse.Namespace) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the function to time and its arguments."""
    adjoint = "first_order" if args.order == "first" else _ADJOINTS[args.adjoint]
    config = Config.parse(
        {
            "skill": args.skill,
            "space": {"num_nodes": args.nodes},
            "search": {
                "cells": args.cells,
                "channels": args.channels,
                "remat": args.remat,
            },
            "hypergrad": {"adjoint": adjoint},
        }
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * args.batch, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2 * args.batch) % 10
    data = from_arrays("noise", images, labels, images, labels)
    setup = build_search(config, data, jax.random.key(0), steps_per_epoch=100)
    program = setup.phases[-1].program
    state = program.init(setup.params, jax.random.key(1), setup.model_state)
    batch = {
        "image": jnp.asarray(rng.normal(size=(args.batch, 32, 32, 3)), args.compute),
        "label": jnp.asarray(labels[: args.batch], jnp.int32),
    }
    batches = dict.fromkeys(program.streams, batch)
    if args.part == "alphas":
        return lambda state, batches: program.hypergrad(state, batches)[0], (
            state,
            batches,
        )
    if args.part == "step":
        return program.step, (state, batches)
    stage = program.stages[0]

    def weight_gradient(state: Any, batches: Any) -> Any:
        def loss(weights: Any) -> Any:
            reads = {name: state.params[name] for name in stage.reads}
            key = jax.random.key(0)
            moves = {"weights": weights}
            return stage(moves, reads, state.model_state, batches, key)[0]

        return jax.grad(loss)(state.params["weights"])

    return weight_gradient, (state, batches)


if __name__ == "__main__":
    main()
