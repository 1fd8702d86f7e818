"""What is left of a task after others: turns in rounds against turns in blocks.

    python benchmarks/retention.py --seeds=3

One encoder with a head for each of three embedded tasks (digits, mnist5k, and mnist5k with
its pixels permuted) takes as many turns of each task, of as many updates: ABC ABC ... or
AAA BBB CCC. After every turn the held-out error on all tasks is taken: the matrix that
`skills.retention` reads. Both orders are run without and with the pull of interleaving
learning, lambda ||W - W_prev||^2, to the encoder as the turn found it. One JSON line for each.
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from machine import machine

from skillearn_jax.data import (
    ImageData,
    Stream,
    from_arrays,
    load,
    to_common_shape,
)
from skillearn_jax.data.streams import eval_batches
from skillearn_jax.framework import Program, Stage, State
from skillearn_jax.models import MLP
from skillearn_jax.randomness import named_key
from skillearn_jax.skills import blocked, interleaved, last_turns, retention
from skillearn_jax.train.spread import mean_and_std

SIDE, BATCH, LR = 8, 64, 0.1
WIDTHS = (64, 64)
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def tasks() -> dict[str, ImageData]:
    """Returns the three data sets, at one size."""
    digits, mnist = to_common_shape([load("digits"), load("mnist5k")], SIDE)
    order = np.random.default_rng(0).permutation(SIDE * SIDE)

    def shuffled(images: Any) -> np.ndarray:
        flat = np.asarray(images).reshape(len(images), -1)
        return flat[:, order].reshape(images.shape)

    permuted = from_arrays(
        "permuted",
        shuffled(mnist.train.image),
        mnist.train.label,
        shuffled(mnist.heldout.image),
        mnist.heldout.label,
    )
    return {"digits": digits, "mnist5k": mnist, "permuted": permuted}


ENCODER, HEAD = MLP(WIDTHS), MLP((10,))


def logits(encoder: Any, head: Any, images: jax.Array) -> jax.Array:
    features = jax.nn.relu(ENCODER.apply({"params": encoder}, images))
    return HEAD.apply({"params": head}, features)


def turn_of(name: str, weight: float) -> Program:
    """Returns the program of one update of one task."""
    head = f"head_{name}"

    def loss(moves: Any, reads: Any, model_state: Any, batch: Any, key: Any) -> Any:
        scores = logits(moves["encoder"], moves[head], batch[name]["image"])
        return jnp.mean(cross_entropy(scores, batch[name]["label"]))

    def distance(moves: Any, reads: Any, model_state: Any, batch: Any, key: Any) -> Any:
        apart = optax.tree.sub(moves["encoder"], reads["encoder_before"])
        return optax.tree.norm(apart, squared=True)

    pull: dict[str, Any] = {}
    if weight:
        pull = {
            "interaction": distance,
            "interaction_reads": ("encoder_before",),
            "interaction_weight": weight,
        }
    stage = Stage(
        name,
        moves=("encoder", head),
        loss_fn=loss,
        data=(name,),
        optimizer=optax.sgd(LR),
        **pull,
    )
    return Program(stages=(stage,), frozen=("encoder_before",) if weight else ())


def heldout_error(params: Any, name: str, data: ImageData) -> float:
    """Returns the percentage of held-out images that are misclassified."""
    (batch,) = eval_batches(data.heldout, data.heldout.size, data.mean, data.std)
    scores = logits(params["encoder"], params[f"head_{name}"], batch["image"])
    return 100 * float(jnp.mean(scores.argmax(-1) != batch["label"]))


def learn(
    data: dict[str, ImageData],
    schedule: tuple[str, ...],
    weight: float,
    updates: int,
    seed: int,
) -> np.ndarray:
    """Returns the error matrix, `[turns, tasks]`, percent."""
    streams = {n: Stream(d.train, BATCH, d.mean, d.std) for n, d in data.items()}
    programs = {name: turn_of(name, weight) for name in data}
    key = jax.random.key(seed)
    keys = jax.random.split(key, len(data) + 1)
    params = {"encoder": ENCODER.init(keys[0], jnp.zeros((1, SIDE, SIDE, 1)))["params"]}
    for name, head_key in zip(data, keys[1:], strict=True):
        head = HEAD.init(head_key, jnp.zeros((1, WIDTHS[-1])))
        params[f"head_{name}"] = head["params"]

    def one_turn(name: str) -> Any:
        program, stream = programs[name], streams[name]

        @jax.jit
        def run(params: Any, first: jax.Array, stream: Stream) -> Any:
            known = {**params, "encoder_before": params["encoder"]}
            given = {n: known[n] for n in program.sets}
            draw = named_key(key, name)

            def step(state: State, i: jax.Array) -> tuple[State, None]:
                batch = {name: stream.draw(draw, first + i)}
                return program.step(state, batch)[0], None

            state = program.init(given, key)
            state, _ = jax.lax.scan(step, state, jnp.arange(updates))
            return {**params, **{n: state.params[n] for n in given if n in params}}

        return lambda params, first: run(params, first, stream)

    turns = {name: one_turn(name) for name in data}
    taken = dict.fromkeys(data, 0)
    matrix = []
    for name in schedule:
        params = turns[name](params, jnp.asarray(taken[name]))
        taken[name] += updates
        matrix.append([heldout_error(params, task, data[task]) for task in data])
    return np.array(matrix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--updates", type=int, default=200, help="of a turn")
    parser.add_argument("--weight", type=float, default=0.05, help="lambda of the pull")
    flags = parser.parse_args()
    data = tasks()
    names = tuple(data)
    orders = {
        "interleaved": interleaved(names, flags.rounds),
        "blocked": blocked(names, flags.rounds),
    }
    for weight in (0.0, flags.weight):
        for order, schedule in orders.items():
            matrices = [
                learn(data, schedule, weight, flags.updates, seed)
                for seed in range(flags.seeds)
            ]
            learned = last_turns(schedule, names)
            kept = [retention(jnp.asarray(m) / 100, learned) for m in matrices]
            line: dict[str, Any] = {
                "order": order,
                "lambda": weight,
                "seeds": flags.seeds,
                "updates_per_turn": flags.updates,
                "schedule": schedule,
                "tasks": names,
            }
            # Of task-wise means over the three tasks, mean and deviation over seeds.
            last = [float(m[-1].mean()) for m in matrices]
            measures = {"final_error": last}
            for field in ("forgetting", "retention", "transfer"):
                measures[field] = [float(getattr(k, field).mean()) for k in kept]
            for name, values in measures.items():
                found = mean_and_std(values)
                line |= {name: found["mean"], f"{name}_std": found["std"]}
            errors = np.mean(matrices, axis=0)
            print(json.dumps({**line, "errors": errors.round(2).tolist(), **machine()}))


if __name__ == "__main__":
    main()
