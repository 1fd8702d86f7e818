"""What equal turns of interleaving learning may share: trace, compilation, run; JSON lines.

    python benchmarks/turns.py --turns=4

One task, turn after turn, each with weights of its own that are pulled to those of the turn
before; the gradient of the architecture flows back through all turns, second order and exact.
Three forms of the same sum:

- `apart`: every turn traces the network for itself;
- `shared`: all turns call one traced network (`jax.jit` inside the step), which the compiler
  puts in wherever it is called; this is how the library builds its searches;
- `scan`: the weights of the turns are stacked, and `lax.scan` runs one traced, compiled turn
  over them.

Seconds are of the process's CPU time, since other processes may share the cores; images are noise.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from machine import machine

from skillearn_jax import one_step
from skillearn_jax.nas import CellSpace, Supernet

PULL, LR = 0.1, 0.1


def problem(flags: argparse.Namespace) -> tuple[Any, ...]:
    """Returns the network's loss, the turns' weights, the architecture and a batch."""
    space = CellSpace(num_nodes=flags.nodes)
    net = Supernet(
        space, num_cells=flags.cells, channels=flags.channels, num_classes=10
    )
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (flags.batch, flags.size, flags.size, 3))
    labels = jnp.arange(flags.batch) % 10
    alphas = space.init_alphas(keys[1])
    init = jax.jit(lambda key: net.init(key, images, alphas, train=False))
    drawn = [init(key) for key in jax.random.split(keys[2], flags.turns)]
    statistics_ = drawn[0]["batch_stats"]

    def loss(weights: Any, alphas: Any, images: Any, labels: Any) -> Any:
        variables = {"params": weights, "batch_stats": statistics_}
        logits, _ = net.apply(
            variables, images, alphas, train=True, mutable=["batch_stats"]
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses)

    return loss, [one["params"] for one in drawn], alphas, (images, labels)


def objective_of(loss: Callable[..., Any], scanned: bool) -> Callable[..., Any]:
    """Returns `(alphas, weights of the turns, batch) -> validation loss at the last`."""
    optimizer = optax.sgd(LR)

    def turn_loss(weights: Any, reads: Any, batch: Any) -> Any:
        alphas, before, pull = reads
        apart = optax.tree.norm(optax.tree.sub(weights, before), squared=True)
        return loss(weights, alphas, *batch) + pull * apart

    step = one_step(turn_loss, optimizer)

    def turn(before: Any, weights: Any, pull: Any, alphas: Any, batch: Any) -> Any:
        reads = (alphas, before, pull)
        return step(weights, reads, optimizer.init(weights), batch)[0]

    def objective(alphas: Any, turns: list[Any], batch: Any) -> Any:
        # The first has nothing to be pulled to.
        pulls = [0.0] + [PULL] * (len(turns) - 1)
        before = turns[0]
        if scanned:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *turns)
            before, _ = jax.lax.scan(
                lambda before, own: (turn(before, *own, alphas, batch), None),
                before,
                (stacked, jnp.array(pulls)),
            )
        else:
            for weights, pull in zip(turns, pulls, strict=True):
                before = turn(before, weights, pull, alphas, batch)
        return loss(before, alphas, *batch)

    return objective


def lines(flags: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the measurements form by form."""
    loss, turns, alphas, batch = problem(flags)
    first = None
    for form in ("apart", "shared", "scan"):
        shared = loss if form == "apart" else jax.jit(loss)
        gradient = jax.jit(jax.grad(objective_of(shared, form == "scan")))
        clock = [time.process_time()]
        traced = gradient.trace(alphas, turns, batch)
        lowered = traced.lower()
        clock.append(time.process_time())
        compiled = lowered.compile()
        clock.append(time.process_time())
        found = jax.block_until_ready(compiled(alphas, turns, batch))
        runs = []
        for _ in range(flags.repeats):
            start = time.process_time()
            jax.block_until_ready(compiled(alphas, turns, batch))
            runs.append(time.process_time() - start)
        first = found if first is None else first
        away = optax.tree.norm(optax.tree.sub(found, first))
        yield {
            "form": form,
            "trace_s": round(clock[1] - clock[0], 2),
            "compile_s": round(clock[2] - clock[1], 2),
            "run_s": round(statistics.median(runs), 4),
            "difference": float(away / optax.tree.norm(first)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=16, help="side of the images")
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    for line in lines(flags):
        print(json.dumps({**vars(flags), **line, **machine()}), flush=True)


if __name__ == "__main__":
    main()
