import jax
import numpy as np

from skillearn_jax.models import MLP

KEY = jax.random.key(0)


def test_mlp_is_linear_relu_linear_on_flat_inputs():
    inputs = jax.random.normal(KEY, (3, 2, 2, 1))
    outputs, variables = MLP((5, 2)).init_with_output(KEY, inputs)
    first, last = (variables["params"][f"Dense_{i}"] for i in range(2))
    hidden = np.maximum(inputs.reshape(3, 4) @ first["kernel"] + first["bias"][None], 0)
    expected = hidden @ last["kernel"] + last["bias"][None]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_one_width_is_a_linear_map():
    inputs = jax.random.normal(KEY, (3, 4))
    model = MLP((2,))
    params = model.init(KEY, inputs)
    zero = model.apply(params, 0 * inputs)
    np.testing.assert_allclose(
        model.apply(params, -inputs) - zero,
        zero - model.apply(params, inputs),
        rtol=1e-4,
        atol=1e-6,
    )
