"""The cell computed source by source against one computed edge by edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.nas.cell import MixedCell
from skillearn_jax.nas.space import CellPlace, CellSpace

SPACE = CellSpace(num_nodes=2)
C = 2
# Edges in the order in which they leave states 0, 1, 2.
STACK = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def _norm(x):
    mean = x.mean((0, 1, 2), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5)


def _conv(x, kernel, stride=1, pad=0, dilation=1, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pool(x, start, combine, stride):
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    strides = (1, stride, stride, 1)
    return lax.reduce_window(x, start, combine, (1, 3, 3, 1), strides, padding)


def _halve(x, even, odd):
    x = jnp.maximum(x, 0)
    parts = [_conv(x, even[None, None], 2), _conv(x[:, 1:, 1:], odd[None, None], 2)]
    return _norm(jnp.concatenate(parts, -1))


def _separable(x, params, op, column, stride):
    depthwise, pointwise = params[f"{op}_depthwise"], params[f"{op}_pointwise"]
    size, dilation = depthwise.shape[1], 2 if "dil" in op else 1
    for i in range(len(depthwise)):
        x = _conv(
            jnp.maximum(x, 0),
            depthwise[i, :, :, None, :, column],
            stride if i == 0 else 1,
            dilation * (size - 1) // 2,
            dilation,
            groups=C,
        )
        kernel = pointwise[i, :, column * C : (column + 1) * C]
        x = _norm(_conv(x, kernel[None, None]))
    return x


def _edge(params, x, edge, stride):
    """Outputs of all eight operations on one edge."""
    column = STACK.index(edge)
    count = _pool(jnp.ones_like(x), 0.0, lax.add, stride)
    skip = x
    if stride == 2:
        skip = _halve(x, *params["skip_connect"][:, :, column])
    return [
        jnp.zeros_like(count),
        _norm(_pool(x, -jnp.inf, lax.max, stride)),
        _norm(_pool(x, 0.0, lax.add, stride) / count),
        skip,
        *(_separable(x, params, op, column, stride) for op in SPACE.ops[4:]),
    ]


def _reference(params, older, newer, weights, place):
    adapt = params["inputs"]["older"]
    if place.reduced_before:
        first = _halve(older, *adapt["kernel"][:, :, 0])
    else:
        first = _norm(_conv(jnp.maximum(older, 0), adapt["Conv_0"]["kernel"]))
    kernel = params["inputs"]["newer"]["Conv_0"]["kernel"]
    states = [first, _norm(_conv(jnp.maximum(newer, 0), kernel))]
    for target in (2, 3):
        total = 0.0
        for source in range(target):
            stride = 2 if place.kind == "reduction" and source < 2 else 1
            row = weights[SPACE.edges.index((source, target))]
            outputs = _edge(params, states[source], (source, target), stride)
            total += sum(w * y for w, y in zip(row, outputs, strict=True))
        states.append(total)
    return jnp.concatenate(states[2:], -1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("place", "older_side"),
    [(CellPlace("normal", C, True), 8), (CellPlace("reduction", C, False), 4)],
    ids=["normal", "reduction"],
)
def test_source_by_source_equals_edge_by_edge(place, older_side):
    rng = np.random.default_rng(0)
    older = jnp.array(rng.normal(size=(3, older_side, older_side, 3)))
    newer = jnp.array(rng.normal(size=(3, 4, 4, 5)))
    weights = jax.nn.softmax(jnp.array(rng.normal(size=(5, 8))), -1)
    cell = MixedCell(SPACE, place)
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), older, newer, weights, train=True)
    )
    params = jax.tree.map(
        lambda leaf: jnp.array(rng.normal(size=leaf.shape)), shapes["params"]
    )
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["batch_stats"])

    def ours(params, older, newer, weights):
        variables = {"params": params, "batch_stats": stats}
        return cell.apply(variables, older, newer, weights, train=True)

    def theirs(params, older, newer, weights):
        return _reference(params, older, newer, weights, place)

    direction = jnp.array(
        rng.normal(size=(3, 2, 2, 4) if older_side == 4 else (3, 4, 4, 4))
    )

    def values_and_gradients(function):
        def loss(*args):
            y = function(*args)
            return jnp.sum(direction * y), y

        grad = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        return jax.jit(grad)(params, older, newer, weights)

    got, want = values_and_gradients(ours), values_and_gradients(theirs)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * jnp.abs(b).max())
