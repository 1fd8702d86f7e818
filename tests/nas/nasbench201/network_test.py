"""Sizes from the benchmark, and networks against ones computed edge by edge."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.nas import count_macs, num_params
from skillearn_jax.nas.nasbench201 import OPS, Architecture, BenchNetwork, BenchSpace
from skillearn_jax.nas.nasbench201.architecture import EDGES

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Edges in the order in which they leave nodes 0, 1, 2.
STACK = sorted(range(6), key=lambda edge: EDGES[edge][0])
SIZES = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
MIXED = Architecture(
    (
        "nor_conv_3x3",
        "nor_conv_1x1",
        "nor_conv_3x3",
        "nor_conv_3x3",
        "avg_pool_3x3",
        "skip_connect",
    )
)


@pytest.mark.parametrize(
    ("op", "params", "macs"),
    [
        ("skip_connect", 73_306, 7_783_040),
        ("avg_pool_3x3", 73_306, 7_783_040),
        ("nor_conv_3x3", 1_531_546, 220_119_680),
        ("nor_conv_1x1", 241_306, 31_376_000),
    ],
)
def test_sizes_are_those_of_the_benchmark(op, params, macs):
    """Published: 7.783M, 220.12M, 31.376M; its tool adds one per bias of the head."""
    network = BenchNetwork(10, Architecture((op,) * 6))
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 32, 32, 3)), train=False),
        jax.random.key(0),
    )
    assert num_params(shapes) == params
    assert count_macs(network, (32, 32, 3)) == macs


def test_the_supernet_has_biases_in_place_of_scales():
    def size(network, *args):
        images = jnp.zeros((1, 32, 32, 3))
        return num_params(
            jax.eval_shape(
                lambda: network.init(jax.random.key(0), images, *args, train=False)
            )
        )

    sizes = {op: size(BenchNetwork(10, Architecture((op,) * 6))) for op in SIZES}
    around = size(BenchNetwork(10, Architecture(("none",) * 6)))
    channels = 5 * (16 + 32 + 64)
    # Of each convolution 2 C for scale and shift become C for the bias.
    expected = sum(sizes.values()) - around - 2 * 6 * channels
    assert (
        size(BenchNetwork(10), BenchSpace().init_alphas(jax.random.key(0))) == expected
    )


def test_convolutions_and_their_biases_fill_the_bounds_of_their_fan_in():
    images, alphas = (
        jnp.zeros((1, 8, 8, 3)),
        BenchSpace().init_alphas(jax.random.key(0)),
    )
    network = BenchNetwork(3, channels=4, num_cells=1)
    params = jax.jit(
        lambda key: network.init(key, images, alphas, train=False)["params"]
    )(jax.random.key(0))
    for op, size in SIZES.items():
        for name in (op, f"{op}_bias"):
            largest = jnp.abs(params["cell_1_0"][name]).max()
            assert 0.8 < largest * size * 8**0.5 <= 1.0001


def batch_norm(x):
    mean = x.mean((0, 1, 2), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5)


def fresh_norm(x):
    """With the running statistics of a new network."""
    return x / np.sqrt(1 + 1e-5)


def conv(x, kernel, stride=1):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def affine(x, params):
    return x * params["scale"][None, None, None] + params["bias"][None, None, None]


def pool(x):
    def total(v):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(v, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), padding)

    return total(x) / total(jnp.ones_like(x))


def naive_edge(params, x, edge, op, chosen, norm):
    """One operation on one edge; `chosen` are those of an architecture, or None."""
    if op in ("none", "skip_connect"):
        return x if op == "skip_connect" else 0 * x
    if op == "avg_pool_3x3":
        return pool(x)
    here = [e for e in STACK if chosen is None or chosen[e] == op]
    c = x.shape[-1]
    column = slice(here.index(edge) * c, (here.index(edge) + 1) * c)
    y = conv(jnp.maximum(x, 0), params[op][..., column])
    if chosen is None:
        return norm(y + params[f"{op}_bias"][column][None, None, None])
    source = EDGES[edge][0]
    side = [
        (size, e)
        for size in SIZES
        for e in STACK
        if EDGES[e][0] == source and chosen[e] == size
    ].index((op, edge))
    both = params[f"norm_{source}"]
    both = {name: v[side * c : (side + 1) * c] for name, v in both.items()}
    return affine(norm(y), both)


def naive_cell(params, x, weights, chosen, norm):
    nodes = [x]
    for target in (1, 2, 3):
        node = 0 * x
        for edge, (source, end) in enumerate(EDGES):
            for i, op in enumerate(OPS):
                if end == target and chosen is None:
                    y = naive_edge(params, nodes[source], edge, op, None, norm)
                    node += weights[edge, i] * y
                elif end == target and chosen[edge] == op:
                    node += naive_edge(params, nodes[source], edge, op, chosen, norm)
        nodes.append(node)
    return nodes[-1]


def naive_halving(params, x, norm):
    y = affine(
        norm(conv(jnp.maximum(x, 0), params["Conv_0"]["kernel"], 2)),
        params["BatchNorm_0"],
    )
    y = affine(
        norm(conv(jnp.maximum(y, 0), params["Conv_1"]["kernel"])),
        params["BatchNorm_1"],
    )
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return y + conv(sum(corners) / 4, params["Conv_2"]["kernel"])


def naive_network(params, images, alphas, architecture, norm):
    weights, chosen = None, None
    if architecture is None:
        exps = jnp.exp(alphas["cell"])
        weights = exps / exps.sum(1, keepdims=True)
    else:
        chosen = architecture.ops
    x = affine(norm(conv(images, params["stem"]["kernel"])), params["stem_norm"])
    for stage in range(3):
        if stage:
            x = naive_halving(params[f"reduce_{stage}"], x, norm)
        x = naive_cell(params.get(f"cell_{stage}_0"), x, weights, chosen, norm)
    x = jnp.maximum(affine(norm(x), params["last_norm"]), 0).mean((1, 2))
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]


def drawn(network, *args):
    """Random parameters of every kind, fresh statistics."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), *args, train=False),
    )
    params = jax.tree.map(
        lambda v: jnp.array(rng.normal(size=v.shape)), shapes["params"]
    )
    fill = {"mean": jnp.zeros, "var": jnp.ones}
    stats = jax.tree.map_with_path(
        lambda path, v: fill[path[-1].key](v.shape), shapes["batch_stats"]
    )
    return params, stats


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        # The bias of a convolution has no gradient in training.
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * max(1, abs(b).max()))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("architecture", [None, MIXED], ids=["supernet", "derived"])
@pytest.mark.parametrize("train", [True, False])
def test_the_network_equals_one_edge_by_edge(architecture, train):
    rng = np.random.default_rng(1)
    images = jnp.array(rng.normal(size=(3, 8, 8, 1)))
    # What a supernet reads beside the images; a derived network, nothing.
    alphas = {"cell": jnp.array(rng.normal(size=(6, 5)))} if not architecture else None
    network = BenchNetwork(3, architecture, channels=2, num_cells=1)
    params, stats = drawn(network, images, alphas)
    direction = jnp.array(rng.normal(size=(3, 3)))
    norm = batch_norm if train else fresh_norm

    def ours(params, images, alphas):
        variables = {"params": params, "batch_stats": stats}
        return network.apply(variables, images, alphas, train=train)

    def theirs(params, images, alphas):
        return naive_network(params, images, alphas, architecture, norm)

    def values_and_gradients(function):
        def loss(*args):
            y = function(*args)
            return jnp.sum(direction * y), y

        grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        # Evaluation differs in the normalisation only: its values will do.
        return jax.jit(grad if train else function)(params, images, alphas)

    assert_same(values_and_gradients(ours), values_and_gradients(theirs))


@pytest.mark.usefixtures("x64")
def test_rematerialised_and_mapped_networks_are_the_same():
    rng = np.random.default_rng(2)
    images = jnp.array(rng.normal(size=(4, 4, 4, 1)))
    alphas = {"cell": jnp.array(rng.normal(size=(6, 5)))}
    network = BenchNetwork(3, channels=1, num_cells=1)
    params, stats = drawn(network, images, alphas)

    def forward(network, params, alphas, images):
        variables = {"params": params, "batch_stats": stats}
        return network.apply(
            variables, images, alphas, train=True, mutable=["batch_stats"]
        )

    def gradients(network):
        def loss(params, alphas):
            logits, changed = forward(network, params, alphas, images)
            return jnp.mean(jnp.sin(logits)), (logits, changed)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, alphas)

    want, (logits, changed) = gradients(network)
    assert_same(gradients(network.clone(remat=True)), (want, (logits, changed)))

    @jax.jit
    def halves():
        """Two devices with half of the batch each."""
        mapped = network.clone(axis_name="d")
        return jax.vmap(lambda x: forward(mapped, params, alphas, x), axis_name="d")(
            images.reshape(2, 2, 4, 4, 1)
        )

    got, both = halves()
    assert_same(got.reshape(4, 3), logits)
    assert_same(both, jax.tree.map(lambda v: jnp.stack([v, v]), changed))


def test_networks_take_what_they_should():
    images = jnp.zeros((1, 8, 8, 3))
    supernet = BenchNetwork(3, channels=2, num_cells=1)
    alphas = BenchSpace().init_alphas(jax.random.key(0))
    logits, variables = jax.eval_shape(
        lambda: supernet.init_with_output(
            jax.random.key(0), images, alphas, train=False
        )
    )
    assert logits.shape == (1, 3)
    assert set(variables) == {"params", "batch_stats"}
    derived = supernet.clone(architecture=Architecture(("none",) * 6))

    def refused(network, message, images, *args):
        with pytest.raises(InputError, match=re.escape(message)):
            network.init(jax.random.key(0), images, *args, train=False)

    refused(supernet, "alphas['cell'] must have shape (6, 5), got nothing", images)
    transposed = {"cell": alphas["cell"].T}
    refused(supernet, "must have shape (6, 5), got (5, 6)", images, transposed)
    refused(derived, "an architecture takes no alphas", images, alphas)
    refused(derived, "halves 6x7 pixels: give images", jnp.zeros((1, 6, 7, 3)))
    refused(derived.clone(num_cells=0), "num_cells must be at least 1", images)


def test_without_a_head_the_features_are_returned():
    images = jnp.zeros((2, 8, 8, 3))
    network = BenchNetwork(
        0, Architecture(("skip_connect",) * 6), channels=3, num_cells=1
    )
    features, variables = jax.eval_shape(
        lambda key: network.init_with_output(key, images, train=False),
        jax.random.key(0),
    )
    assert features.shape == (2, 12)
    assert "head" not in variables["params"]
