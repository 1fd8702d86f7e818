import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.nas.counting import num_params
from skillearn_jax.nas.ops import CellInputs, SeparableOp, Stem, operation
from skillearn_jax.nas.space import DARTS_OPS

C = 4


class _Single(nn.Module):
    op: str
    stride: int

    @nn.compact
    def __call__(self, x):
        return operation(self.op, C, stride=self.stride, train=True)(x)


def _shapes(module, *args, **kwargs):
    return jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), *args, **kwargs)
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", DARTS_OPS[1:])
def test_shapes_and_sizes(op, stride):
    y, variables = _shapes(_Single(op, stride), jnp.ones((2, 7, 8, C)))
    assert y.shape == (2, -(-7 // stride), 8 // stride, C)
    expected = {
        "max_pool_3x3": 0,
        "avg_pool_3x3": 0,
        "skip_connect": 0 if stride == 1 else C * C + 2 * C,
        "sep_conv_3x3": 2 * (9 * C + C * C + 2 * C),
        "sep_conv_5x5": 2 * (25 * C + C * C + 2 * C),
        "dil_conv_3x3": 9 * C + C * C + 2 * C,
        "dil_conv_5x5": 25 * C + C * C + 2 * C,
    }
    assert num_params(variables.get("params", {})) == expected[op]


def test_skip_at_stride_one_is_the_identity():
    x = jnp.arange(32.0).reshape(1, 2, 4, C) - 16
    np.testing.assert_array_equal(_Single("skip_connect", 1).apply({}, x), x)


@pytest.mark.parametrize("op", ["none", "conv_9x9"])
def test_what_is_no_operation_of_a_derived_network_is_refused(op):
    with pytest.raises(ValueError, match=op):
        operation(op, C, stride=1, train=True)


def test_a_separable_op_starts_with_a_relu_and_ends_with_a_normalisation():
    x = jnp.array(np.random.default_rng(0).normal(size=(4, 5, 5, C)), jnp.float32)
    module = SeparableOp("sep_conv_3x3", C)
    variables = jax.jit(lambda key: module.init(key, x, train=True))(jax.random.key(0))

    def apply(x):
        return module.apply(variables, x, train=True)

    np.testing.assert_array_equal(apply(x), apply(nn.relu(x)))
    np.testing.assert_allclose(apply(x).mean((0, 1, 2)), np.zeros(C), atol=1e-5)


def test_cell_inputs_come_to_the_same_resolution():
    older, newer = jnp.ones((1, 7, 8, 6)), jnp.ones((1, 4, 4, 12))
    inputs = CellInputs(C, reduced_before=True, affine=False)
    (a, b), variables = _shapes(inputs, older, newer, train=False)
    assert a.shape == b.shape == (1, 4, 4, C)
    assert num_params(variables) == 6 * C + 12 * C


def test_the_stem_is_affine():
    y, variables = _shapes(Stem(3 * C), jnp.ones((1, 4, 4, 1)), train=False)
    assert y.shape == (1, 4, 4, 3 * C)
    assert num_params(variables) == 9 * 3 * C + 2 * 3 * C
