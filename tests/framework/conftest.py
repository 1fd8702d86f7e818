"""Toy programs for the tests of the framework.

`--import-mode=importlib` has no helper modules, so the helpers are fixtures that
return functions.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.framework import Program, Stage, Validation


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this folder computes in float64."""


@pytest.fixture
def assert_close():
    """`(actual, desired, rtol=1e-11)`: leaves agree and none is trivially zero."""

    def compare(actual, desired, rtol=1e-11):
        assert jax.tree.structure(actual) == jax.tree.structure(desired)
        pairs = list(
            zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
        )
        assert pairs, "nothing to compare"
        for got, want in pairs:
            got, want = np.asarray(got), np.asarray(want)
            size = np.max(np.abs(want))
            assert np.isfinite(size), "the reference is not finite"
            assert size > 0, "the reference is zero"
            np.testing.assert_allclose(got, want, rtol=0, atol=rtol * size)

    return compare


@pytest.fixture
def assert_same():
    """`(actual, desired)`: equal structure, dtypes and bits; keys included."""

    def plain(leaf):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return np.asarray(jax.random.key_data(leaf))
        return np.asarray(leaf)

    def compare(actual, desired):
        assert jax.tree.structure(actual) == jax.tree.structure(desired)
        pairs = list(
            zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
        )
        assert pairs, "nothing to compare"
        for got, want in pairs:
            np.testing.assert_array_equal(plain(got), plain(want), strict=True)

    return compare


@pytest.fixture
def plain_step():
    """`(loss, optimizer, value, opt_state) -> (value', opt_state')`, in plain optax."""

    def step(loss, optimizer, value, opt_state):
        gradient = jax.grad(loss)(value)
        updates, opt_state = optimizer.update(gradient, opt_state, value)
        return optax.apply_updates(value, updates), opt_state

    return step


def _first_loss(moves, reads, model_state, batch, key):
    """A student `w` with an architecture and a regulariser in one supporting set `a`."""
    del model_state, key
    w, a, data = moves["w"], reads["a"], batch["train"]
    hidden = jnp.tanh(data["x"] * jax.nn.softplus(a)[None])
    error = hidden @ w["kernel"] + w["bias"][None] - data["y"]
    return jnp.mean(error**2) + 0.1 * jnp.sum(jnp.exp(a)[:, None] * w["kernel"] ** 2)


def _second_loss(moves, reads, model_state, batch, key):
    """A network `v` of its own with a gate `c`."""
    del model_state, key
    data = batch["train"]
    out = jnp.tanh(data["x"] @ moves["v"]) * jax.nn.sigmoid(reads["c"])[None]
    return jnp.mean((out - data["y"]) ** 2)


def _agreement(moves, reads, model_state, batch, key):
    """`v` learns from `w` on auxiliary data."""
    del model_state, key
    x = batch["aux"]
    student = jnp.tanh(x @ moves["v"]) * reads["c"][None]
    teacher = jnp.sin(x @ reads["w"]["kernel"] + reads["w"]["bias"][None])
    return jnp.mean((student - teacher) ** 2)


def _objective(moves, reads, model_state, batch, key):
    """Reads all: both results and both supporting sets."""
    del model_state, key
    data, w, v = batch["val"], reads["w"], reads["v"]
    hidden = jnp.tanh(data["x"] * jax.nn.softplus(moves["a"])[None])
    first = hidden @ w["kernel"] + w["bias"][None]
    second = jnp.tanh(data["x"] @ v) * moves["c"][None]
    return jnp.mean((first - data["y"]) ** 2) - 0.7 * jnp.mean((second - first) ** 2)


def _rows(rng, count):
    return {"x": rng.normal(size=(count, 3)), "y": rng.normal(size=(count, 2))}


@pytest.fixture
def toy():
    """Two stages that meet in an interaction, then a min-max validation.

    `toy.stages(**changes)`, `toy.validation(**changes)` and `toy.program(**changes)`
    build it; `toy.first`, `toy.second`, `toy.agreement` and `toy.objective` are its
    functions, `toy.gamma` the weight of the interaction.
    """
    rng = np.random.default_rng(0)
    params = {
        "w": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)},
        "v": rng.normal(size=(3, 2)),
        "a": rng.normal(size=3),
        "c": rng.normal(size=2),
    }
    batches = {
        "train": _rows(rng, 16),
        "aux": rng.normal(size=(16, 3)),
        "val": _rows(rng, 16),
    }
    optimizers = {
        "first": optax.chain(
            optax.clip_by_global_norm(0.9),
            optax.add_decayed_weights(0.03),
            optax.sgd(0.2, momentum=0.9, nesterov=True),
        ),
        "second": optax.adam(0.05, eps_root=1e-8),
        "a": optax.adam(0.03),
        "c": optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9)),
    }

    def stages(first=None, second=None):
        return (
            Stage(
                "first",
                **{
                    "moves": ("w",),
                    "reads": ("a",),
                    "loss_fn": _first_loss,
                    "data": ("train",),
                    "optimizer": optimizers["first"],
                    **(first or {}),
                },
            ),
            Stage(
                "second",
                **{
                    "moves": ("v",),
                    "reads": ("c",),
                    "loss_fn": _second_loss,
                    "data": ("train",),
                    "interaction": _agreement,
                    "interaction_reads": ("w",),
                    "interaction_data": ("aux",),
                    "interaction_weight": 0.6,
                    "optimizer": optimizers["second"],
                    **(second or {}),
                },
            ),
        )

    def validation(**changes):
        keywords = {
            "reads": ("w", "v"),
            "data": ("val",),
            "minimize": {"a": optimizers["a"]},
            "maximize": {"c": optimizers["c"]},
        }
        loss_fn = changes.pop("loss_fn", _objective)
        return Validation(loss_fn, **{**keywords, **changes})

    def program(first=None, second=None, **changes):
        changes.setdefault("validation", validation())
        return Program(stages(first, second), **changes)

    return SimpleNamespace(
        params=jax.tree.map(jnp.asarray, params),
        batches=jax.tree.map(jnp.asarray, batches),
        optimizers=optimizers,
        gamma=0.6,
        stages=stages,
        validation=validation,
        program=program,
        first=_first_loss,
        second=_second_loss,
        agreement=_agreement,
        objective=_objective,
    )


@pytest.fixture
def warm():
    """`(program, params, batches, steps=3) -> state` in mid-training: moments filled."""

    def run(program, params, batches, steps=3, model_state=None):
        state = program.init(params, jax.random.key(7), model_state)
        for _ in range(steps):
            state, _ = program.step(state, batches)
        return state

    return run
