"""In half precision the exact product works, and the finite difference does not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.hypergrad import (
    Autodiff,
    Exact,
    FiniteDifference,
    central_difference,
    one_step,
    unroll,
)

RATE = 0.1


@pytest.fixture
def hypergradient():
    """`(adjoint, dtype, steps) -> gradient` in a weight per example, as float64."""
    rng = np.random.default_rng(0)
    sizes = (32, 128, 128, 10)
    weights = [
        rng.normal(size=(n, m)) / np.sqrt(n) for n, m in itertools.pairwise(sizes)
    ]
    images, labels = rng.normal(size=(2, 256, 32)), rng.integers(0, 10, (2, 256))
    scores = rng.normal(size=256)
    optimizer = optax.sgd(RATE)

    def losses(weights, x, y):
        for kernel in weights[:-1]:
            x = jnp.tanh(x @ kernel)
        logits = x @ weights[-1]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)

    def loss(weights, scores, x, y):
        return jnp.mean(jax.nn.sigmoid(scores) * losses(weights, x, y))

    def of(adjoint, dtype, steps=1):
        step = (
            one_step(loss, optimizer, adjoint)
            if steps == 1
            else unroll(loss, optimizer, steps, adjoint, loop="scan")
        )

        def objective(scores):
            start = [jnp.asarray(w, dtype) for w in weights]
            x, y = jnp.asarray(images, dtype), jnp.asarray(labels)
            data = x[0], y[0]
            if steps > 1:
                data = tuple(jnp.stack([part] * steps) for part in data)
            new, _ = step(start, scores, optimizer.init(start), *data)
            return jnp.mean(losses(new, x[1], y[1]))

        gradient = jax.jit(jax.grad(objective))(jnp.asarray(scores, dtype))
        assert gradient.dtype == dtype
        return np.asarray(gradient, np.float64)

    return of


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("steps", [1, 4])
def test_bfloat16(hypergradient, steps):
    truth = hypergradient(Autodiff(), jnp.float64, steps)
    exact = hypergradient(Exact(), jnp.bfloat16, steps)
    difference = hypergradient(FiniteDifference(0.01), jnp.bfloat16, steps)
    assert cosine(exact, truth) > 0.999
    assert cosine(difference, truth) < 0.8


@pytest.mark.parametrize(
    ("dtype", "length", "rtol"),
    [(jnp.float16, 1e-5, 0.02), (jnp.float32, 1e-25, 1e-5), (jnp.bfloat16, 1e-25, 0.1)],
)
def test_a_direction_whose_square_underflows_has_a_length(dtype, length, rtol):
    """(1.1^3 - 0.9^3) / (2 * 0.1 / u) = 3.01 u, where u^2 is 0 in its type."""
    one, u = jnp.asarray(1, dtype), jnp.asarray(length, dtype)
    got = central_difference(lambda w: w**3, one, u, 0.1)
    assert got.dtype == dtype
    np.testing.assert_allclose(float(got), 3.01 * length, rtol=rtol)


def test_float32_is_right_to_a_millionth(hypergradient):
    truth = hypergradient(Autodiff(), jnp.float64)
    exact = hypergradient(Exact(), jnp.float32)
    difference = hypergradient(FiniteDifference(0.01), jnp.float32)
    error = np.linalg.norm(exact - truth) / np.linalg.norm(truth)
    assert error < 1e-6
    assert np.linalg.norm(difference - truth) / np.linalg.norm(truth) > 10 * error
