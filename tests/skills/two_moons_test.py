"""Learning by passing tests has nothing to do with architecture search.

An MLP on two moons learns a weight decay for each of its layers: the supporting set.
Its steps are small. With larger ones, or more noise in the labels, some seeds end badly:
the exam shrinks to a few examples, and the learner, whose only defence is the decay,
decays itself to a constant.
"""

import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import make_moons

from skillearn_jax.skills import LearnerModel, TesterModel, learning_by_passing_tests

pytestmark = pytest.mark.usefixtures("quick_module")

STEPS = 600
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def mlp(weights, x):
    for index, (kernel, bias) in enumerate(weights):
        x = x @ kernel + bias[None]
        if index + 1 < len(weights):
            x = jnp.tanh(x)
    return x


def init_mlp(key, sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (fan_in, fan_out)) / jnp.sqrt(fan_in), jnp.zeros(fan_out))
        for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def train_loss(moves, reads, model_state, batch, key):
    del model_state, key
    weights, batch = moves["weights"], batch["train"]
    loss = jnp.mean(cross_entropy(mlp(weights, batch["x"]), batch["y"]))
    decay = jnp.stack([jnp.sum(kernel**2) for kernel, _ in weights])
    return loss + jnp.sum(jnp.exp(reads["log_decay"]) * decay)


def example_losses(weights, supporting, model_state, batch, key):
    del supporting, model_state, key
    return cross_entropy(mlp(weights, batch["x"]), batch["y"])


def program():
    sgd = optax.sgd(0.2, momentum=0.9)
    learner = LearnerModel(
        train_loss,
        example_losses,
        optimizer=optax.chain(optax.clip_by_global_norm(5.0), sgd),
        supporting={"log_decay": optax.adam(0.003)},
        task="two moons",
    )
    tester = TesterModel(
        encode=lambda encoder, model_state, batch, key: (
            jnp.tanh(mlp(encoder, batch["x"])),
            {},
        ),
        losses=lambda executor, features, batch: cross_entropy(
            mlp(executor, features), batch["y"]
        ),
        scores=lambda creator, features: jax.nn.sigmoid(mlp(creator, features)[:, 0]),
        optimizers={
            "encoder": sgd,
            "executor": sgd,
            "creator": optax.adamw(0.01, weight_decay=1e-2),
        },
        accuracies=lambda executor, features, batch: (
            mlp(executor, features).argmax(axis=-1) == batch["y"]
        ).astype(jnp.float32),
        task="two moons",
    )
    return learning_by_passing_tests(learner, tester, tester_weight=0.5)


@pytest.fixture(scope="module")
def trained(quick_module):
    """The last state, the metrics of every step, and held-out data."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "weights": init_mlp(keys[0], (2, 16, 16, 2)),
        "log_decay": jnp.full(3, -5.0),
        "encoder": init_mlp(keys[1], (2, 16, 16)),
        "executor": init_mlp(keys[2], (16, 2)),
        "creator": init_mlp(keys[3], (16, 1)),
    }
    x, y = make_moons(1200, noise=0.15, random_state=0)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y)
    train, bank, val, held_out = np.split(np.arange(1200), [300, 600, 900])
    splits = {"train": train, "bank": bank, "val": val}
    rng = np.random.default_rng(0)
    skill = program()
    state = start = skill.init(params, jax.random.key(1))
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(skill.step, n=1))
    history = []
    for _ in range(STEPS):
        batches = {}
        for name, split in splits.items():
            rows = rng.choice(split, 64, replace=False)
            batches[name] = {"x": x[rows], "y": y[rows]}
        state, metrics = step(state, batches)
        history.append(metrics)
    series = {name: np.asarray([m[name] for m in history]) for name in history[0]}
    return start, state, series, (x[held_out], y[held_out])


def test_the_learner_learns(trained):
    _, state, _, (x, y) = trained
    accuracy = np.mean(mlp(state.params["weights"], x).argmax(axis=-1) == y)
    assert accuracy > 0.9


def test_the_tester_learns(trained):
    series = trained[2]
    assert series["validation/tester_accuracy"][-100:].mean() > 0.9


def test_exams_are_harder_than_the_bank(trained):
    """On average over the last half; single batches may go either way."""
    series = trained[2]
    last = slice(STEPS // 2, None)
    exams = series["validation/exam_loss"][last]
    bank = series["validation/bank_loss"][last]
    assert exams.mean() > 1.1 * bank.mean()
    assert np.mean(exams > bank) > 0.6


def test_everything_is_finite_and_everything_moved(trained):
    start, state, series, _ = trained
    assert all(np.all(np.isfinite(values)) for values in series.values())
    for old, new in zip(
        jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.all(np.isfinite(new))
        assert np.any(old != new)
    for name in ("log_decay", "creator"):
        assert np.all(series[f"hypergrad/{name}/response"] > 0)


def test_no_architecture_search_is_imported():
    code = (
        "import json, sys, skillearn_jax.skills, skillearn_jax.framework;"
        "print(json.dumps([m for m in sys.modules if m.startswith('skillearn_jax')]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = json.loads(out.stdout)
    assert "skillearn_jax.skills.lpt" in modules
    assert not [name for name in modules if name.startswith("skillearn_jax.nas")]
