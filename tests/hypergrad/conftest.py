"""What the tests of the differentiable step share.

`--import-mode=importlib` has no helper modules, so the helpers are fixtures that
return functions.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this folder computes in float64."""


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
    """Every test of this folder compiles small arrays in large graphs."""


def _floats(tree):
    """Returns the float leaves with their paths: what a gradient is compared on."""
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    }


def _assert_close(actual, desired, rtol=1e-12):
    """Compares each leaf in units of its own largest entry.

    A reference leaf that is zero or not finite would make the comparison empty, so it is
    refused: a test that expects zeros says so with `assert_array_equal`.
    """
    actual, desired = _floats(actual), _floats(desired)
    assert actual.keys() == desired.keys()
    assert desired, "nothing to compare"
    for path, want in desired.items():
        got, want = np.asarray(actual[path]), np.asarray(want)
        assert got.shape == want.shape, path
        assert got.dtype == want.dtype, path
        size = np.max(np.abs(want))
        assert np.isfinite(size), f"the reference is not finite at {path}"
        assert size > 0, f"the reference is zero at {path}"
        np.testing.assert_allclose(
            got, want, rtol=0, atol=rtol * size, err_msg=f"at {path}"
        )


@pytest.fixture
def assert_close():
    """`(actual, desired, rtol=1e-12)`: float leaves agree and none is trivially zero."""
    return _assert_close


@pytest.fixture
def floats():
    """`tree -> {path: float leaf}`."""
    return _floats


def _loss(active, reads, images, labels):
    """A small network with an architecture, per-coordinate decay and a teacher to read.

    Nonlinear in everything; each argument meets every other one.
    """
    encoder, (kernel, bias) = active["encoder"], active["head"]
    hidden = jnp.tanh(images @ encoder["kernel"] + encoder["bias"][None])
    hidden = hidden * jax.nn.softmax(reads["alphas"])[None]
    logits = hidden @ kernel + bias[None]
    cross_entropy = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1))
    decay = jnp.sum(jnp.exp(reads["decay"]["log"]) * encoder["kernel"] ** 2)
    agreement = jnp.sum(jnp.tanh(kernel * reads["teacher"]) ** 2)
    aux = {
        "logits": logits.mean(axis=0),
        "temperature": jnp.sum(reads["alphas"] ** 3) * jnp.sum(labels**2),
        "count": jnp.arange(3),
    }
    return cross_entropy + 0.3 * decay + 0.2 * agreement, aux


@pytest.fixture
def problem():
    """A nonlinear problem on pytrees: `loss, active, reads, data, batches`."""
    rng = np.random.default_rng(0)

    def batch():
        labels = rng.uniform(0.1, 1.0, (5, 2))
        return rng.normal(size=(5, 3)), labels / labels.sum(axis=1, keepdims=True)

    return SimpleNamespace(
        loss=_loss,
        active={
            "encoder": {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)},
            "head": [rng.normal(size=(4, 2)), rng.normal(size=2)],
        },
        reads={
            "alphas": rng.normal(size=4),
            "decay": {"log": 0.3 * rng.normal(size=(3, 4))},
            "teacher": rng.normal(size=(4, 2)),
        },
        data=batch(),
        batches=[batch() for _ in range(5)],
    )


@pytest.fixture
def filled():
    """`opt_state -> opt_state` in mid-training: positive floats, counters at 3."""

    def fill(opt_state):
        rng = np.random.default_rng(1)

        def one(leaf):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                return jnp.asarray(rng.uniform(0.1, 0.6, jnp.shape(leaf)), leaf.dtype)
            return jnp.full_like(leaf, 3)

        return jax.tree.map(one, opt_state)

    return fill


@pytest.fixture
def plain_step():
    """`(loss_fn, optimizer) -> step`: the same step written with optax alone."""

    def make(loss_fn, optimizer):
        def step(active, reads, opt_state, *data):
            (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
                active, reads, *data
            )
            updates, opt_state = optimizer.update(gradient, opt_state, active)
            new_active = jax.tree.map(jnp.add, active, updates)
            return new_active, (opt_state, loss, aux)

        return step

    return make


@pytest.fixture
def scramble():
    """`tree -> []`: a nonlinear function of every float leaf, each weighted its own way."""

    def of(tree):
        return sum(
            jnp.sum(jnp.sin((1 + 0.3 * i) * leaf) + 0.1 * leaf**2)
            for i, leaf in enumerate(_floats(tree).values())
        )

    return of
