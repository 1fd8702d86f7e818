"""What only an optimised program shows: these are compiled as users compile them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.hypergrad import FiniteDifference, one_step


@pytest.fixture(autouse=True)
def _quick():
    """Takes the place of the folder's quick compilation."""


def test_a_step_that_is_none_passes_exact_zeros_when_compiled():
    """Both gradients are at one point; compiled, they may be rounded otherwise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5)).astype(np.float32)
    y = rng.normal(size=12).astype(np.float32)
    body = rng.normal(size=5).astype(np.float32)
    weights = {"body": body, "scale": np.float32(1.3)}

    def loss(w, a, x, y):
        fit = jnp.mean((x @ w["body"] * w["scale"] - y) ** 2)
        return fit + jnp.sum(jnp.exp(a) * w["body"] ** 2)

    optimizer = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    step = one_step(loss, optimizer, FiniteDifference(0.01))

    def after(a, w, opt_state, x, y):
        new, _ = step(w, a, opt_state, x, y)
        return jnp.mean((x[::-1] @ new["body"] * new["scale"] - y) ** 2)

    a = np.full(5, -2, np.float32)
    found = jax.jit(jax.grad(after))(a, weights, optimizer.init(weights), x, y)
    np.testing.assert_array_equal(found, np.zeros(5))
