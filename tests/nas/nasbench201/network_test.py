"""Sizes from the benchmark, and the cell against one computed edge by edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.nas import count_macs, num_params
from skillearn_jax.nas.nasbench201 import OPS, Architecture, BenchNetwork
from skillearn_jax.nas.nasbench201.architecture import EDGES
from skillearn_jax.nas.nasbench201.network import BenchCell

C = 2


@pytest.mark.parametrize(
    ("op", "params", "macs"),
    [
        ("skip_connect", 73_306, 7.783),
        ("nor_conv_3x3", 1_531_546, 220.12),
        ("nor_conv_1x1", 241_306, 31.376),
    ],
)
def test_sizes_are_those_of_the_benchmark(op, params, macs):
    network = BenchNetwork(10, Architecture((op,) * 6))
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 32, 32, 3)), train=False),
        jax.random.key(0),
    )
    assert num_params(shapes) == params
    # The benchmark's tool counts pools and normalisation a little too.
    assert count_macs(network, (32, 32, 3)) / 1e6 == pytest.approx(macs, rel=0.02)


def _norm(x):
    mean = x.mean((0, 1, 2), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5)


def _edge(params, x, edge, op):
    source, _ = EDGES[edge]
    if op == "none":
        return jnp.zeros_like(x)
    if op == "skip_connect":
        return x
    if op == "avg_pool_3x3":

        def total(v):
            padding = ((0, 0), (1, 1), (1, 1), (0, 0))
            ones = (1, 1, 1, 1)
            return lax.reduce_window(v, 0.0, lax.add, (1, 3, 3, 1), ones, padding)

        return total(x) / total(jnp.ones_like(x))
    name = f"{op}_from_{source}"
    column = [e for e, (start, _) in enumerate(EDGES) if start == source].index(edge)
    part = slice(column * C, (column + 1) * C)
    y = lax.conv_general_dilated(
        jnp.maximum(x, 0),
        params[name][..., part],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _norm(y + params[f"{name}_bias"][part][None, None, None])


@pytest.mark.usefixtures("x64")
def test_the_mixed_cell_equals_one_edge_by_edge():
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(2, 5, 5, C)))
    weights = jnp.array(rng.uniform(size=(6, 5)))
    cell = BenchCell(C)
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), x, weights, train=True)
    )
    params = jax.tree.map(
        lambda v: jnp.array(rng.normal(size=v.shape)), shapes["params"]
    )
    stats = jax.tree.map(lambda v: jnp.zeros(v.shape), shapes["batch_stats"])
    direction = jnp.array(rng.normal(size=x.shape))

    def ours(params, x, weights):
        return cell.apply(
            {"params": params, "batch_stats": stats}, x, weights, train=True
        )

    def theirs(params, x, weights):
        nodes = [x]
        for target in (1, 2, 3):
            nodes.append(
                sum(
                    weights[edge, i] * _edge(params, nodes[source], edge, op)
                    for edge, (source, end) in enumerate(EDGES)
                    if end == target
                    for i, op in enumerate(OPS)
                )
            )
        return nodes[-1]

    def both(function):
        def loss(*args):
            y = function(*args)
            return jnp.sum(direction * y), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(
            params, x, weights
        )

    got, want = both(ours), both(theirs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        # The bias of a convolution has no gradient: a normalisation follows it.
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * max(1, abs(b).max()))


def test_networks_take_what_they_should():
    images = jnp.zeros((1, 8, 8, 3))
    supernet = BenchNetwork(3, channels=2, num_cells=1)
    logits, _ = jax.eval_shape(
        lambda: supernet.init_with_output(
            jax.random.key(0), images, jnp.zeros((6, 5)), train=False
        )
    )
    assert logits.shape == (1, 3)
    with pytest.raises(InputError, match=r"takes logits of shape \(6, 5\)"):
        supernet.init(jax.random.key(0), images, train=False)
    derived = supernet.clone(architecture=Architecture(("none",) * 6))
    with pytest.raises(InputError, match="an architecture none; got"):
        derived.init(jax.random.key(0), images, jnp.zeros((6, 5)), train=False)
    with pytest.raises(InputError, match=r"halves 6x7 pixels: .* multiples of 4"):
        derived.init(jax.random.key(0), jnp.zeros((1, 6, 7, 3)), train=False)
