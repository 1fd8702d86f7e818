"""Variables are those of Flax's own initialisation, and only they are computed."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from skillearn_jax.layers import BatchNorm, draw_variables
from skillearn_jax.nas import CellSpace, Supernet

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


def test_a_supernet_has_the_variables_that_flax_draws(quick_compilation):
    jax.clear_caches()  # some draws may have been compiled otherwise by other tests
    space = CellSpace(num_nodes=1)
    net = Supernet(space, num_cells=2, channels=2, num_classes=3)
    key, alphas = jax.random.key(1), space.init_alphas(jax.random.key(0))
    drawn = draw_variables(net, key, IMAGES, alphas, train=False)
    chex.assert_trees_all_equal(
        drawn, net.lazy_init(key, IMAGES, alphas, train=False), strict=True
    )


class Watched(nn.Module):
    """Notes what is computed of it: with its variables, and with its input."""

    note: Callable[[str], None]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = BatchNorm()(nn.Dense(3)(x), train=train)
        scale = self.param("scale", nn.initializers.normal(), (1, 3))
        return self.noted("input", x) * self.noted("variables", scale)

    def noted(self, name, value):
        def note(value):
            self.note(name)
            return value

        return jax.pure_callback(note, value, value)


@pytest.mark.parametrize("train", [True, False])
def test_nothing_else_is_computed(train):
    called = []
    module = Watched(called.append)
    x = jnp.ones((4, 5))
    drawn = draw_variables(module, jax.random.key(0), x, train=train)
    assert not called
    want = module.init(jax.random.key(0), x, train=train)
    assert set(called) == {"variables", "input"}
    chex.assert_trees_all_equal(drawn, want)


def test_variables_that_depend_on_an_input_need_one(x64):
    class Follows(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return x - self.param("first", lambda key: x[0] + jax.random.normal(key))

    x = jnp.arange(3.0)
    drawn = draw_variables(Follows(), jax.random.key(2), x)
    chex.assert_trees_all_equal(drawn, Follows().init(jax.random.key(2), x))
