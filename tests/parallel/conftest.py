"""Two skills on small networks with batch statistics and masks, for any devices.

`--import-mode=importlib` has no helper modules, so the helpers are fixtures that
return functions.
"""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.framework import Aux
from skillearn_jax.layers import BatchNorm
from skillearn_jax.parallel import AXIS_NAME, Devices, sharded
from skillearn_jax.skills import (
    Curriculum,
    LearnerModel,
    TaskModel,
    TesterModel,
    interleaving_learning,
    learning_by_passing_tests,
)
from skillearn_jax.skills.curriculum import CURRICULUM

EXAMPLES, FEATURES, HIDDEN, CLASSES = 16, 3, 4, 2
_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
_sgd = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.add_decayed_weights(0.01),
    optax.sgd(0.1, 0.9),
)


@pytest.fixture
def two_processes(repo_root):
    """`two_processes(code, counts)`: exit codes and stderr of two that run it at once.

    Each is given the address of the first, its number, and so many virtual devices.
    """

    def run(code, counts=(1, 1)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        two = [
            subprocess.Popen(
                [sys.executable, "-c", code, address, str(number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "PYTHONPATH": str(repo_root),
                    "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
                },
            )
            for number, count in enumerate(counts)
        ]
        try:
            said = [process.communicate(timeout=60)[1] for process in two]
        finally:
            for process in two:
                process.kill()
        return [process.returncode for process in two], said

    return run


class _Net(nn.Module):
    """Dense, batch normalisation, tanh; the gates stand for an architecture."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, gates=None):
        init = nn.initializers.normal(1.0)
        x = x @ self.param("kernel", init, (FEATURES, HIDDEN), x.dtype)
        x = BatchNorm(axis_name=self.axis_name)(x, train=True)
        return jnp.tanh(x if gates is None else x * jax.nn.softplus(gates)[None])


def _mask(key, batch):
    """Dropout keyed by the example, wherever it is computed."""

    def keep(index):
        return jax.random.bernoulli(jax.random.fold_in(key, index), 0.8, (HIDDEN,))

    return jax.vmap(keep)(batch["index"]) / 0.8


def _apply(net, params, statistics, batch, gates=None):
    variables = {"params": params, "batch_stats": statistics}
    features, changed = net.apply(variables, batch["x"], gates, mutable=["batch_stats"])
    return features, changed["batch_stats"]


EXAMS = Curriculum(threshold=0.5, step=0.5, decay=0.5, capacity_aware=True)


def _lpt(axis_name, split_over=None, curriculum=None):
    """With `split_over`, the tester's optimisers are sharded over that axis."""
    net = _Net(axis_name)
    adam = optax.adam(0.05, eps_root=1e-8)
    momentum = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.add_decayed_weights(0.01),
        sharded(optax.sgd(0.1, 0.9), split_over),
    )

    def logits(weights, alphas, state, batch, key):
        hidden, changed = _apply(net, weights["net"], state["learner"], batch, alphas)
        return (hidden * _mask(key, batch)) @ weights["out"], changed

    def train_loss(moves, reads, model_state, batch, key):
        batch = batch["train"]
        out, changed = logits(
            moves["weights"], reads["alphas"], model_state, batch, key
        )
        loss = jnp.mean(_cross_entropy(out, batch["y"]))
        return loss, Aux(model_state={"learner": changed})

    def example_losses(weights, supporting, model_state, batch, key):
        out, _ = logits(weights, supporting["alphas"], model_state, batch, key)
        return _cross_entropy(out, batch["y"])

    def example_errors(weights, supporting, model_state, batch, key):
        out, _ = logits(weights, supporting["alphas"], model_state, batch, key)
        return (out.argmax(-1) != batch["y"]) + jnp.zeros((), out.dtype)

    def encode(encoder, model_state, batch, key):
        del key
        features, changed = _apply(net, encoder, model_state["tester"], batch)
        return features, {"tester": changed}

    tester = TesterModel(
        encode=encode,
        losses=lambda x, f, batch: _cross_entropy(f @ x, batch["y"]),
        scores=lambda creator, features: jax.nn.sigmoid(features @ creator),
        optimizers={
            "encoder": momentum,
            "executor": sharded(adam, split_over),
            "creator": adam,
        },
        accuracies=lambda x, f, batch: ((f @ x).argmax(-1) == batch["y"]) + 0.0,
    )
    learner = LearnerModel(
        train_loss,
        example_losses,
        _sgd,
        {"alphas": adam},
        example_errors=example_errors,
    )
    return learning_by_passing_tests(
        learner,
        tester,
        interaction_weight=0.7,
        tester_weight=0.3,
        curriculum=curriculum,
        axis_name=axis_name,
    )


def _interleaving(axis_name):
    net = _Net(axis_name)

    def losses(encoder, head, supporting, model_state, batch, key):
        hidden, changed = _apply(
            net, encoder, model_state["net"], batch, supporting["alphas"]
        )
        out = (hidden * _mask(key, batch)) @ head
        return _cross_entropy(out, batch["y"]), {"net": changed}

    return interleaving_learning(
        [TaskModel("a", losses), TaskModel("b", losses)],
        supporting={"alphas": optax.adam(0.05, eps_root=1e-8)},
        optimizer=_sgd,
        schedule=("a", "b", "a"),
        axis_name=axis_name,
    )


def _build(make, dtype, curriculum=None):
    """Returns a program's maker, its fresh state, its batches."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    def net():
        variables = _Net().init(jax.random.key(rng.integers(99)), normal(2, FEATURES))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), variables["params"])

    def rows():
        x = rng.normal(size=(EXAMPLES, FEATURES))
        # Sorted: what one device holds is nothing like what another does.
        x = x[np.argsort(x[:, 0])] * np.linspace(0.3, 3, EXAMPLES)[:, None]
        return {
            "x": jnp.asarray(x, dtype),
            "y": jnp.asarray(x[:, 0] * x[:, 1] + 0.3 * x[:, 2] > 0, jnp.int32),
            "index": jnp.asarray(rng.permutation(1000)[:EXAMPLES], jnp.int32),
        }

    statistics = {
        "BatchNorm_0": {
            "mean": jnp.zeros(HIDDEN, dtype),
            "var": jnp.ones(HIDDEN, dtype),
        }
    }
    if make is not _interleaving:
        params = {
            "weights": {"net": net(), "out": normal(HIDDEN, CLASSES)},
            "alphas": normal(HIDDEN),
            "encoder": net(),
            "executor": normal(HIDDEN, CLASSES),
            "creator": 2 * normal(HIDDEN),
        }
        model_state = {"learner": statistics, "tester": statistics}
    else:
        params = {"alphas": normal(HIDDEN)}
        for turn in (1, 2, 3):
            params[f"encoder_{turn}"] = net()
            params[f"head_{turn}"] = normal(HIDDEN, CLASSES)
        model_state = {"net": statistics}
    if curriculum is not None:
        model_state[CURRICULUM] = curriculum.init()
    state = make(AXIS_NAME).init(params, jax.random.key(0), model_state)
    batches = {name: rows() for name in make(None).streams}

    return SimpleNamespace(program=make, state=state, batches=batches)


@pytest.fixture
def skill():
    """`skill("lpt" | "interleaving", dtype)`: `.program(axis_name)`, state, batches.

    `"lpt, exams"` is the first with exams that grow harder, `"lpt, sharded"` with the
    tester's optimiser states split over devices.
    """
    makers = {
        "lpt": _lpt,
        "interleaving": _interleaving,
        "lpt, exams": lambda axis_name: _lpt(axis_name, curriculum=EXAMS),
        "lpt, sharded": lambda axis_name: _lpt(axis_name, axis_name),
    }
    return lambda name, dtype: _build(
        makers[name], dtype, EXAMS if name == "lpt, exams" else None
    )


@pytest.fixture
def trajectory():
    """`trajectory(problem, devices, steps)`: (hypergradient, state, [metrics])."""

    def run(problem, devices: Devices, steps):
        program = problem.program(devices.axis_name)

        def step(state, batches):
            part = devices.part(jnp.arange(EXAMPLES))
            batches = jax.tree.map(lambda leaf: leaf[part], batches)
            gradient, _ = program.hypergrad(state, batches)
            return (*program.step(state, batches), gradient)

        state, batches = devices.place(problem.state), devices.place(problem.batches)
        compiled = devices.compile(step, state, batches)
        first, rows = None, []
        for _ in range(steps):
            state, metrics, gradient = compiled(state, batches)
            rows.append(jax.tree.map(np.asarray, devices.fetch(metrics)))
            first = first or jax.tree.map(np.asarray, devices.fetch(gradient))
        state = devices.fetch(state)
        # A typed key does not go through NumPy; nothing changes it anyway.
        return first, jax.tree.map(np.asarray, state._replace(key=0)), rows

    return run
