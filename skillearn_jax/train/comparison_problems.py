"""Floor 4: the programs whose hypergradients are compared, small and without noise."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from skillearn_jax.data import load
from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Program, Stage, State, Validation
from skillearn_jax.randomness import Use, generator
from skillearn_jax.skills import (
    LearnerModel,
    TaskModel,
    TesterModel,
    interleaving_learning,
    learning_by_passing_tests,
)
from skillearn_jax.train.build import build_search, cross_entropy
from skillearn_jax.train.config import Config
from skillearn_jax.types import Array, Key, ParamSets, PyTree

_OPTIMIZER = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(0.1, momentum=0.9))
_WIDTH = 32


class Problem(NamedTuple):
    """Where a hypergradient is taken.

    Attributes:
        program: with a validation stage.
        state: fresh, or in mid-training.
        batches: for its streams.
    """

    program: Program
    state: State
    batches: dict[str, Any]


def build_problem(name: str, batch_size: int, seed: int) -> Problem:
    """Returns one of `PROBLEMS`, fresh.

    Args:
        name: see `CompareConfig.problem`.
        batch_size: of every stream.
        seed: of parameters and batches.

    Raises:
        InputError: if the embedded data have too few images for the batches.
    """
    builders: dict[str, Callable[[int, int], Problem]] = {
        "toy": partial(chain, 2),
        "lpt": _lpt,
        "interleaving": _interleaving,
        "darts": _darts,
    }
    return builders[name](batch_size, seed)


def warmed(problem: Problem, steps: int) -> Problem:
    """Returns the problem after some steps on its batches: moments are filled."""
    step, state = jax.jit(problem.program.step), problem.state
    for _ in range(steps):
        state, _ = step(state, problem.batches)
    return problem._replace(state=state)


def chain(depth: int, batch_size: int, seed: int) -> Problem:
    """Returns a chain of small networks; each is taught by the one before.

    Args:
        depth: number of training stages.
        batch_size: rows of each stream.
        seed: of everything.
    """
    rng = generator(seed, Use.PROBLEMS)
    stages = []
    for index in range(depth):
        stages.append(
            Stage(
                f"stage{index + 1}",
                moves=(f"w{index + 1}",),
                reads=("a",),
                data=("train",),
                loss_fn=_chain_loss(index),
                interaction=_teaching(index) if index else None,
                interaction_reads=(f"w{index}",) if index else (),
                interaction_data=("aux",) if index else (),
                optimizer=_OPTIMIZER,
            )
        )

    def objective(
        moves: ParamSets, reads: ParamSets, state: PyTree, batch: Any, key: Key
    ) -> Array:
        x, y = batch["val"]
        return jnp.mean((_network(reads[f"w{depth}"], moves["a"], x) - y) ** 2)

    program = Program(
        tuple(stages),
        Validation(
            objective,
            reads=(f"w{depth}",),
            data=("val",),
            minimize={"a": optax.sgd(0.1)},
        ),
    )
    params: dict[str, Any] = {"a": 0.1 * rng.normal(size=_WIDTH)}
    for index in range(depth):
        params[f"w{index + 1}"] = {
            "in": rng.normal(size=(8, _WIDTH)) / np.sqrt(8),
            "out": rng.normal(size=(_WIDTH, 4)) / np.sqrt(_WIDTH),
        }
    batches = {
        "train": (rng.normal(size=(batch_size, 8)), rng.normal(size=(batch_size, 4))),
        "val": (rng.normal(size=(batch_size, 8)), rng.normal(size=(batch_size, 4))),
        "aux": rng.normal(size=(batch_size, 8)),
    }
    return _problem(program, params, {n: batches[n] for n in program.streams}, seed)


def _network(w: PyTree, a: Array, x: Array) -> Array:
    return jnp.tanh(x @ w["in"]) * jnp.exp(a)[None] @ w["out"]


def _chain_loss(index: int) -> Any:
    def loss(
        moves: ParamSets, reads: ParamSets, state: PyTree, batch: Any, key: Key
    ) -> Array:
        x, y = batch["train"]
        return jnp.mean((_network(moves[f"w{index + 1}"], reads["a"], x) - y) ** 2)

    return loss


def _teaching(index: int) -> Any:
    def teaching(
        moves: ParamSets, reads: ParamSets, state: PyTree, batch: Any, key: Key
    ) -> Array:
        x, a = batch["aux"], reads["a"]
        student = _network(moves[f"w{index + 1}"], a, x)
        return jnp.mean((student - _network(reads[f"w{index}"], a, x)) ** 2)

    return teaching


def _lpt(batch_size: int, seed: int) -> Problem:
    """Learning by passing tests; the architecture mixes three activations."""

    def losses(weights: PyTree, alphas: Array, batch: Any) -> Array:
        hidden = _mixed(batch["image"] @ weights["in"], alphas)
        return cross_entropy(hidden @ weights["out"], batch["label"])

    def train_loss(
        moves: ParamSets, reads: ParamSets, state: PyTree, batch: Any, key: Key
    ) -> tuple[Array, Aux]:
        of = losses(moves["weights"], reads["alphas"], batch["train"])
        return jnp.mean(of), Aux()

    learner = LearnerModel(
        train_loss,
        lambda weights, sets, state, batch, key: losses(weights, sets["alphas"], batch),
        optimizer=_OPTIMIZER,
        supporting={"alphas": optax.adam(0.01)},
        task="classify digits",
    )

    def logits(executor: Array, features: Array) -> Array:
        return features @ executor

    tester = TesterModel(
        encode=lambda e, state, batch, key: (jnp.tanh(batch["image"] @ e), {}),
        losses=lambda x, f, batch: cross_entropy(logits(x, f), batch["label"]),
        scores=lambda c, f: jax.nn.sigmoid(f @ c),
        accuracies=lambda x, f, batch: logits(x, f).argmax(-1) == batch["label"],
        optimizers={
            "encoder": _OPTIMIZER,
            "executor": _OPTIMIZER,
            "creator": optax.adam(0.01),
        },
        task="make exams",
    )
    program = learning_by_passing_tests(learner, tester)
    rng = generator(seed, Use.PROBLEMS)
    params = {
        "weights": _layers(rng, 64, 10),
        "alphas": 0.1 * rng.normal(size=3),
        "encoder": rng.normal(size=(64, _WIDTH)) / 8,
        "executor": rng.normal(size=(_WIDTH, 10)) / np.sqrt(_WIDTH),
        "creator": 0.1 * rng.normal(size=_WIDTH),
    }
    return _problem(program, params, _digits(program.streams, batch_size, rng), seed)


def _interleaving(batch_size: int, seed: int) -> Problem:
    """Two tasks, the digits and whether they are even, by turns, two rounds."""

    def task(name: str, label: Callable[[Array], Array]) -> TaskModel:
        def losses(
            encoder: PyTree,
            head: PyTree,
            supporting: ParamSets,
            state: PyTree,
            batch: Any,
            key: Key,
        ) -> tuple[Array, dict[str, PyTree]]:
            hidden = _mixed(batch["image"] @ encoder, supporting["alphas"])
            return cross_entropy(hidden @ head, label(batch["label"])), {}

        return TaskModel(name, losses)

    program = interleaving_learning(
        (task("digit", lambda y: y), task("even", lambda y: y % 2)),
        supporting={"alphas": optax.adam(0.01)},
        optimizer=_OPTIMIZER,
        weights="per_task",
    )
    rng = generator(seed, Use.PROBLEMS)
    params: dict[str, Any] = {"alphas": 0.1 * rng.normal(size=3)}
    for name, classes in (("digit", 10), ("even", 2)):
        layers = _layers(rng, 64, classes)
        params |= {f"encoder_{name}": layers["in"], f"head_{name}": layers["out"]}
    return _problem(program, params, _digits(program.streams, batch_size, rng), seed)


def _darts(batch_size: int, seed: int) -> Problem:
    """A small supernet on digits."""
    config = Config.parse(search_values(epochs=2))
    data = load("digits")
    setup = build_search(config, data, jax.random.key(seed), steps_per_epoch=10)
    program = setup.phases[-1].program
    state = program.init(setup.params, jax.random.key(seed), setup.model_state)
    rng = generator(seed, Use.PROBLEMS)
    batches = _digits(program.streams, batch_size, rng, flat=False)
    return Problem(program, state, batches)


def search_values(epochs: int) -> dict[str, Any]:
    """Returns the config of the small searches that are compared.

    Args:
        epochs: of the search.
    """
    ops = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
    return {
        "skill": "baseline",
        "data": {
            "name": "digits",
            "batch_size": 64,
            "stratified": True,
            "padding": 1,
        },
        "space": {"num_nodes": 1, "ops": ops},
        "search": {
            "cells": 1,
            "channels": 4,
            "epochs": epochs,
            "alphas": {"lr": 3e-2},
        },
        "evaluation": {
            "cells": 3,
            "channels": 4,
            "epochs": 3,
            "batch_size": 64,
            "auxiliary_weight": 0.0,
            "drop_path": 0.0,
            "num_random": 0,
            "num_seeds": 1,
        },
        "parallel": {"devices": 1},
    }


def _mixed(hidden: Array, alphas: Array) -> Array:
    """Returns a mixture of three activations, the choice that alphas make."""
    parts = jnp.stack((jnp.tanh(hidden), jax.nn.gelu(hidden), jnp.sin(hidden)))
    return jnp.einsum("o,obh->bh", jax.nn.softmax(alphas), parts)


def _layers(rng: np.random.Generator, size: int, classes: int) -> dict[str, Any]:
    return {
        "in": rng.normal(size=(size, _WIDTH)) / np.sqrt(size),
        "out": rng.normal(size=(_WIDTH, classes)) / np.sqrt(_WIDTH),
    }


def _digits(
    streams: tuple[str, ...], size: int, rng: np.random.Generator, flat: bool = True
) -> dict[str, Any]:
    """Returns a batch of digits for each stream, no image in two of them."""
    digits = load("digits").train
    if len(streams) * size > digits.size:
        raise InputError(
            f"config.batch_size or config.batch_sizes asks for batches of {size}; they "
            f"must be of {digits.size // len(streams)} at most, for {len(streams)} batches "
            "of digits: set --config.batch_size and --config.batch_sizes"
        )
    order = rng.permutation(digits.size)
    images = np.asarray(digits.image, np.float32) / 255 - 0.5
    if flat:
        images = images.reshape(digits.size, -1)
    labels = np.asarray(digits.label, np.int32)
    return {
        name: {
            "image": jnp.asarray(images[order[i * size : (i + 1) * size]]),
            "label": jnp.asarray(labels[order[i * size : (i + 1) * size]]),
        }
        for i, name in enumerate(streams)
    }


def _problem(
    program: Program, params: Mapping[str, Any], batches: dict[str, Any], seed: int
) -> Problem:
    def single(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf

    params, batches = jax.tree.map(single, (dict(params), batches))
    state = program.init(params, jax.random.key(seed), {})
    return Problem(program, state, batches)
