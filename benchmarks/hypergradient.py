"""Times every adjoint on one problem and says how right it is; one JSON line each.

    python benchmarks/hypergradient.py --problem=mlp
    python benchmarks/hypergradient.py --problem=supernet --dtypes=float32
    python benchmarks/hypergradient.py --problem=chain --levels=1,2,4,8

`mlp`: a tanh network of 3 hidden layers of 1024 units on 512 examples, each with a weight
of its own: the supporting set. `supernet`: the architecture gradient of a DARTS search on
noise of CIFAR's size. `chain`: K stages of a small network, each of which reads the one
before; one line for each K. `unroll`: k steps with momentum of a linear model of 256 x 256
parameters in a scan, every step stored or about sqrt(k) of them: `peak_bytes` divided by
4 * 256 * 256 is the memory in copies of the parameters.

The first line's adjoint is plain autodiff, but for `unroll`, which has `Exact()` alone. Errors are against float64 autodiff on the same
numbers; on accelerators matrix products are taken at the precision `--precision`.
`--peers` adds the same gradient in PyTorch, where that is installed: by
autograd through the step, and by the finite difference that search codes use. `step_s` is the median of calls
taken in turn, adjoint by adjoint, so that a busy machine slows all of them.
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from machine import machine

from skillearn_jax import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FirstOrder,
    Neumann,
    one_step,
    unroll,
)
from skillearn_jax.tree import cast_floats

RATE = 0.1
ADJOINTS = (
    Autodiff(),
    Exact(),
    FiniteDifference(0.01),
    FirstOrder("lookahead"),
    Neumann(5, RATE),
    ConjugateGradient(5, 1.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--problem", choices=("mlp", "supernet", "chain", "unroll"), default="mlp"
    )
    parser.add_argument("--width", type=int, default=1024, help="of the mlp")
    parser.add_argument("--batch", type=int, default=0, help="0: 512, supernet 16")
    parser.add_argument("--levels", default="1,2,4,8", help="K of the chain")
    parser.add_argument("--steps", default="16,64", help="k of unroll")
    parser.add_argument("--cells", type=int, default=2, help="of the supernet")
    parser.add_argument("--channels", type=int, default=8, help="of the supernet")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precision", default="highest", help="of matrix products")
    parser.add_argument("--implicit", action="store_true", help="time those too")
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()
    for dtype in args.dtypes.split(","):
        if dtype not in ("float32", "bfloat16", "float16"):  # float64 is the reference
            parser.error(f"--dtypes has {dtype!r}; float32, bfloat16, float16")
    jax.config.update("jax_default_matmul_precision", args.precision)
    adjoints = ADJOINTS if args.implicit else ADJOINTS[:4]
    if args.problem == "chain":
        for levels in map(int, args.levels.split(",")):
            run(args, f"chain of {levels}", chain(levels), (Autodiff(), Exact()))
    elif args.problem == "unroll":
        args.dtypes = args.dtypes.split(",")[0]
        for steps in map(int, args.steps.split(",")):
            for segment in (None, steps):
                name = f"unroll of {steps}, segment {segment or 'sqrt'}"
                run(args, name, unrolled(steps, segment), (Exact(),))
    elif args.problem == "mlp":
        problem = mlp(args.width, args.batch or 512)
        run(args, "mlp", problem, adjoints)
        if args.peers:
            peers(args, problem)
    else:
        run(args, "supernet", supernet(args), adjoints)


Problem = tuple[Callable[[Any], Callable[..., Any]], tuple[Any, ...]]
"""`adjoint -> function`, whose first argument is differentiated, and its arguments."""


def mlp(width: int, batch: int) -> Problem:
    """Weights per example; the objective is the loss on clean examples."""
    rng = np.random.default_rng(0)
    sizes = (64, width, width, width, 10)
    weights = [
        rng.normal(size=shape) / np.sqrt(shape[0])
        for shape in itertools.pairwise(sizes)
    ]
    images = rng.normal(size=(2, batch, 64))
    labels = rng.integers(0, 10, (2, batch))
    optimizer = optax.sgd(RATE)

    def logits(weights: Any, x: Any) -> Any:
        for kernel in weights[:-1]:
            x = jnp.tanh(x @ kernel)
        return x @ weights[-1]

    def losses(weights: Any, x: Any, y: Any) -> Any:
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits(weights, x), y
        )

    def train_loss(weights: Any, scores: Any, x: Any, y: Any) -> Any:
        return jnp.mean(jax.nn.sigmoid(scores) * losses(weights, x, y))

    def of(adjoint: Any) -> Callable[..., Any]:
        step = one_step(train_loss, optimizer, adjoint)

        def objective(scores: Any, weights: Any, images: Any, labels: Any) -> Any:
            state = optimizer.init(weights)
            new, _ = step(weights, scores, state, images[0], labels[0])
            return jnp.mean(losses(new, images[1], labels[1]))

        return jax.grad(objective)

    return of, (rng.normal(size=batch), weights, images, labels)


def chain(levels: int) -> Problem:
    """K networks; each learns from the one before, all under one supporting vector."""
    rng = np.random.default_rng(0)
    width = 256
    weights = [rng.normal(size=(width, width)) / 16 for _ in range(levels)]
    x, optimizer = rng.normal(size=(256, width)), optax.sgd(RATE)

    def loss(w: Any, reads: Any, x: Any) -> Any:
        a, previous = reads
        out = jnp.tanh(jnp.tanh(x @ w) @ w)
        return jnp.mean((out * jnp.exp(a)[None] - jnp.sin(x @ previous)) ** 2)

    def of(adjoint: Any) -> Callable[..., Any]:
        step = one_step(loss, optimizer, adjoint)

        def objective(a: Any, weights: Any, x: Any) -> Any:
            previous = jnp.eye(width, dtype=x.dtype)
            for w in weights:
                previous, _ = step(w, (a, previous), optimizer.init(w), x)
            return jnp.mean((x @ previous) ** 2)

        return jax.grad(objective)

    return of, (0.1 * rng.normal(size=width), weights, x)


def unrolled(steps: int, segment: int | None) -> Problem:
    """K look-ahead steps in a scan: what matters is their memory."""
    width, optimizer = 256, optax.sgd(RATE, momentum=0.9)
    rng = np.random.default_rng(0)

    def loss(w: Any, a: Any, x: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ w) * a) ** 2)

    def of(adjoint: Any) -> Callable[..., Any]:
        step = unroll(loss, optimizer, steps, adjoint, segment=segment, loop="scan")

        def objective(a: Any, w: Any, batches: Any) -> Any:
            return jnp.sum(step(w, a, optimizer.init(w), batches)[0])

        return jax.grad(objective)

    batches = rng.normal(size=(steps, 4, width))
    return of, (np.ones((1, width)), rng.normal(size=(width, width)) / 16, batches)


def supernet(args: argparse.Namespace) -> Problem:
    """The architecture gradient of the second order, at the launcher's settings."""
    from skillearn_jax.data import from_arrays
    from skillearn_jax.train import Config
    from skillearn_jax.train.build import build_search

    batch = args.batch or 16
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * batch, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2 * batch) % 10
    data = from_arrays("noise", images, labels, images, labels)
    config = Config.parse(
        {
            "skill": "baseline",
            "search": {"cells": args.cells, "channels": args.channels},
        }
    )
    setup = build_search(config, data, jax.random.key(0), steps_per_epoch=100)
    program = setup.phases[-1].program
    state = program.init(setup.params, jax.random.key(1), setup.model_state)
    drawn = {"image": rng.normal(size=(batch, 32, 32, 3)), "label": labels[:batch]}
    batches = dict.fromkeys(program.streams, drawn)

    def of(adjoint: Any) -> Callable[..., Any]:
        variant = program.with_adjoint(adjoint)
        return lambda state, batches: variant.hypergrad(state, batches)[0]

    return of, (state, batches)


def run(
    args: argparse.Namespace, name: str, problem: Problem, adjoints: tuple[Any, ...]
) -> None:
    """Prints a line for each number type and adjoint."""
    of, arguments = problem
    truth = reference(of, arguments)
    for dtype in args.dtypes.split(","):
        cast_arguments = cast_floats(arguments, dtype)
        calls = {}
        for adjoint in adjoints:
            start = time.perf_counter()
            compiled = jax.jit(of(adjoint)).lower(*cast_arguments).compile()
            calls[repr(adjoint)] = compiled, time.perf_counter() - start
        found = {a: flat(call(*cast_arguments)) for a, (call, _) in calls.items()}
        seconds: dict[str, list[float]] = {adjoint: [] for adjoint in calls}
        for _ in range(args.repeats):
            for adjoint, (call, _) in calls.items():
                start = time.perf_counter()
                jax.block_until_ready(call(*cast_arguments))
                seconds[adjoint].append(time.perf_counter() - start)
        for adjoint, (call, compile_s) in calls.items():
            memory = call.memory_analysis()
            report(
                name,
                adjoint,
                dtype,
                found[adjoint],
                truth,
                step_s=round(statistics.median(seconds[adjoint]), 5),
                compile_s=round(compile_s, 2),
                peak_bytes=None if memory is None else memory.temp_size_in_bytes,
                precision=args.precision,
            )


def report(
    problem: str,
    adjoint: str,
    dtype: str,
    found: np.ndarray,
    truth: np.ndarray,
    **measured: Any,
) -> None:
    size = np.linalg.norm(found) * np.linalg.norm(truth)
    line = {
        "problem": problem,
        "adjoint": adjoint,
        "dtype": dtype,
        "rel_error": float(np.linalg.norm(found - truth) / np.linalg.norm(truth)),
        "cosine": float(found @ truth / size) if size else None,
    }
    print(json.dumps({**line, **measured, **machine()}), flush=True)


def peers(args: argparse.Namespace, problem: Problem) -> None:
    """Prints a line for each other library that is installed: the same gradient."""
    of, arguments = problem
    truth = reference(of, arguments)
    scores, weights, images, labels = cast_floats(arguments, "float32")
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: no peer in PyTorch", file=sys.stderr)
        return
    import torch

    def losses(weights: Any, x: Any, y: Any) -> Any:
        for kernel in weights[:-1]:
            x = torch.tanh(x @ kernel)
        return torch.nn.functional.cross_entropy(x @ weights[-1], y, reduction="none")

    def tensor(x: Any) -> Any:
        return torch.tensor(np.asarray(x))

    x, y = tensor(images), tensor(labels).long()
    leaves = [tensor(w).requires_grad_() for w in weights]
    a = tensor(scores).requires_grad_()

    def train(weights: Any, a: Any) -> Any:
        return (torch.sigmoid(a) * losses(weights, x[0], y[0])).mean()

    def through_the_step() -> Any:
        gradient = torch.autograd.grad(train(leaves, a), leaves, create_graph=True)
        new = [w - RATE * g for w, g in zip(leaves, gradient, strict=True)]
        return torch.autograd.grad(losses(new, x[1], y[1]).mean(), a)[0]

    def finite_difference() -> Any:
        """As the published search codes write it: two gradients at W +- eps v."""
        gradient = torch.autograd.grad(train(leaves, a), leaves)
        new = [
            (w - RATE * g).detach().requires_grad_()
            for w, g in zip(leaves, gradient, strict=True)
        ]
        v = torch.autograd.grad(losses(new, x[1], y[1]).mean(), new)
        eps = 0.01 / torch.sqrt(sum((part**2).sum() for part in v))
        sides = [
            torch.autograd.grad(
                train([w + s * eps * d for w, d in zip(leaves, v, strict=True)], a),
                a,
            )[0]
            for s in (1, -1)
        ]
        return -RATE * (sides[0] - sides[1]) / (2 * eps)

    for name, call in (
        ("torch: autograd through the step", through_the_step),
        ("torch: finite difference", finite_difference),
    ):
        found, seconds = call(), []
        for _ in range(args.repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        report(
            "mlp",
            name,
            "float32",
            found.numpy().astype(np.float64),
            truth,
            step_s=round(statistics.median(seconds), 5),
            torch=torch.__version__,
        )


def reference(of: Callable[[Any], Callable[..., Any]], arguments: Any) -> np.ndarray:
    """Returns plain autodiff in float64."""
    with jax.enable_x64(True):
        return flat(jax.jit(of(Autodiff()))(*cast_floats(arguments, "float64")))


def flat(tree: Any) -> np.ndarray:
    """Returns all numbers of a gradient as one float64 vector."""
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


if __name__ == "__main__":
    main()
