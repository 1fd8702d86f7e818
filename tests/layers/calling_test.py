import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from skillearn_jax.layers import SideBySide, run_module


class Piece(nn.Module):
    """Something with parameters, running statistics and a static argument."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, shift: jax.Array | None, train: bool) -> jax.Array:
        x = x @ self.param("kernel", nn.initializers.normal(), (3, 3))
        x = SideBySide(name="norm")([x], [None], train=train)[0]
        if shift is not None:
            x += shift
        return x


class Chain(nn.Module):
    called: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, shift in enumerate((None, jnp.ones((1, 3)))):
            piece = Piece(self.axis_name, name=f"piece_{i}")
            if self.called:
                x = run_module(piece, x, shift, train=train)
            else:
                x = piece(x, shift, train)
        return x


def test_a_module_as_a_subroutine_records_and_differentiates_as_itself():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    key = jax.random.key(0)
    variables = Chain(called=False).init(key, x, False)
    again = Chain(called=True).init(key, x, False)
    jax.tree.map(np.testing.assert_array_equal, variables, again)

    def results(chain):
        def loss(params):
            y, moved = chain.apply(
                {**variables, "params": params},
                x,
                True,
                mutable=["batch_stats"],
            )
            return jnp.sum(jnp.sin(y)), (y, moved)

        gradient = jax.grad(loss, has_aux=True)
        direction = jax.tree.map(jnp.cos, variables["params"])
        return jax.jvp(gradient, (variables["params"],), (direction,), has_aux=True)

    got, want = results(Chain(called=True)), results(Chain(called=False))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_module_is_a_subroutine_unless_it_may_talk_to_devices():
    x, key = jnp.ones((8, 3)), jax.random.key(0)

    def pieces(chain):
        variables = Chain(called=False).init(key, x, False)
        text = jax.jit(lambda x: chain.apply(variables, x, False)).lower(x).as_text()
        return text.count("call @_called")

    assert pieces(Chain(called=True)) == 2
    assert pieces(Chain(called=True, axis_name="devices")) == 0


class Noise(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return run_module(Noise(), x, train=True)


def test_a_module_that_draws_by_itself_is_refused():
    with pytest.raises(InvalidRngError, match="noise"):
        Noisy().apply({}, jnp.ones(3), rngs={"noise": jax.random.key(0)})
