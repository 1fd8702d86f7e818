"""Derived networks and chains of mixed cells against ones written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.nas import CIFAR_AUXILIARY, IMAGENET_AUXILIARY, CellSpace, Genotype
from skillearn_jax.nas.auxiliary import AuxiliaryHead
from skillearn_jax.nas.cell import MixedCell, Mixture
from skillearn_jax.nas.nasbench201 import BenchNetwork, BenchSpace
from skillearn_jax.nas.network import Cell, Network
from skillearn_jax.nas.space import CellPlace, cell_places
from skillearn_jax.nas.supernet import Supernet

pytestmark = pytest.mark.usefixtures("quick_compilation")

NORMAL = (
    ("sep_conv_3x3", 1),
    ("dil_conv_5x5", 0),
    ("skip_connect", 0),
    ("avg_pool_3x3", 2),
)
REDUCTION = (
    ("max_pool_3x3", 0),
    ("skip_connect", 1),
    ("sep_conv_5x5", 2),
    ("dil_conv_3x3", 1),
)
GENOTYPE = Genotype(NORMAL, REDUCTION, (3,), (3, 2))


def relu(x):
    return jnp.maximum(x, 0)


def conv(x, kernel, stride=1, dilation=1, groups=1):
    pad = dilation * (len(kernel) // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def norm(x, params):
    mean = x.mean((0, 1, 2), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    x = (x - mean) / jnp.sqrt(var + 1e-5)
    return x * params["scale"][None, None, None] + params["bias"][None, None, None]


def pool(x, op, stride):
    def over(x, start, combine):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        strides = (1, stride, stride, 1)
        return lax.reduce_window(x, start, combine, (1, 3, 3, 1), strides, padding)

    if op == "max_pool_3x3":
        return over(x, -jnp.inf, lax.max)
    return over(x, 0.0, lax.add) / over(jnp.ones_like(x), 0.0, lax.add)


def project(x, params):
    if "kernel" not in params:
        return norm(conv(relu(x), params["Conv_0"]["kernel"]), params["BatchNorm_0"])
    even, odd = params["kernel"][:, None, None, :, 0]
    parts = [conv(relu(x), even, 2), conv(relu(x)[:, 1:, 1:], odd, 2)]
    return norm(jnp.concatenate(parts, -1), params["BatchNorm_0"])


def separable(x, params, op, stride):
    for i in range(2 if op[:3] == "sep" else 1):
        kernel = jnp.swapaxes(params[f"depthwise_{i}"], 2, 3)
        dilation = 2 if op[:3] == "dil" else 1
        x = conv(relu(x), kernel, stride, dilation, groups=x.shape[-1])
        x = conv(x, params[f"pointwise_{i}"][None, None])
        x, stride = norm(x, params[f"BatchNorm_{i}"]), 1
    return x


def written_out_cell(params, older, newer, edges, concat, kind):
    names = {"SeparableOp": 0, "FactorizedReduce": 0}

    def following(module):
        names[module] += 1
        return params[f"{module}_{names[module] - 1}"]

    inputs = params["inputs"]
    states = [project(older, inputs["older"]), project(newer, inputs["newer"])]
    for i, (op, source) in enumerate(edges):
        stride = 2 if kind == "reduction" and source < 2 else 1
        y = states[source]
        if "pool" in op:
            y = pool(y, op, stride)
        elif "conv" in op:
            y = separable(y, following("SeparableOp"), op, stride)
        elif stride == 2:
            y = project(y, following("FactorizedReduce"))
        states = [*states, y] if i % 2 == 0 else [*states[:-1], states[-1] + y]
    return jnp.concatenate([states[state] for state in concat], -1)


def dense(x, params):
    return x.mean((1, 2)) @ params["kernel"] + params["bias"][None]


def written_out_head(x, params, stride, second_norm):
    corners = [
        relu(x)[:, i : i + 5, j : j + 5].mean((1, 2))
        for i in (0, stride)
        for j in (0, stride)
    ]
    x = jnp.stack(corners, 1).reshape(-1, 2, 2, x.shape[-1])
    x = relu(norm(conv(x, params["Conv_0"]["kernel"]), params["BatchNorm_0"]))
    x = jnp.einsum("bijc,ijcd->bd", x, params["kernel"])[:, None, None]
    x = norm(x, params["BatchNorm_1"]) if second_norm else x
    return dense(relu(x), params["Dense_0"])


def written_out_stem(images, params, name):
    def layer(x, i, stride):
        x = conv(x, params[f"Conv_{i}"]["kernel"], stride)
        return norm(x, params[f"BatchNorm_{i}"])

    if name == "cifar":
        return (layer(images, 0, 1),) * 2
    older = layer(relu(layer(images, 0, 2)), 1, 2)
    return older, layer(relu(older), 2, 2)


@pytest.mark.usefixtures("x64")
def test_an_auxiliary_head_on_a_larger_map_means_over_all_places():
    x = jnp.array(np.random.default_rng(0).normal(size=(2, 11, 11, 3)))
    head = AuxiliaryHead(4)
    variables = jax.jit(lambda key: head.init(key, x, train=False))(jax.random.key(0))

    @jax.jit
    def predict(x):
        return head.apply(variables, x, train=False)

    parts = [predict(x[:, i : i + 8, j : j + 8]) for i in (0, 3) for j in (0, 3)]
    np.testing.assert_allclose(predict(x), sum(parts) / 4, rtol=1e-10)
    assert jnp.abs(parts[0] - parts[3]).max() > 1e-3


def drawn(shapes):
    """Parameters of every kind, drawn alike."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: jnp.array(rng.normal(size=v.shape)), shapes)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("stem", "side", "kinds", "auxiliary", "head"),
    [
        ("cifar", 32, ("normal", "reduction", "reduction"), CIFAR_AUXILIARY, (3, True)),
        ("imagenet", 112, ("reduction",), IMAGENET_AUXILIARY, (2, False)),
    ],
)
def test_a_derived_network_in_training(stem, side, kinds, auxiliary, head):
    images = jnp.array(np.random.default_rng(1).normal(size=(3, side, side, 1)))
    network = Network(GENOTYPE, len(kinds), 2, 4, stem=stem, auxiliary=auxiliary)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), images, train=False)
    )
    params, stats = map(drawn, (shapes["params"], shapes["batch_stats"]))

    @jax.jit
    def ours(params):
        variables = {"params": params, "batch_stats": stats}
        return tuple(network.apply(variables, images, train=True))

    @jax.jit
    def theirs(params):
        older, newer = written_out_stem(images, params["stem"], stem)
        for i, kind in enumerate(kinds):
            edges, concat = (
                (REDUCTION, (3, 2)) if kind == "reduction" else (NORMAL, (3,))
            )
            cell = params[f"cell_{i}"]
            y = written_out_cell(cell, older, newer, edges, concat, kind)
            older, newer = newer, y
        auxiliary = written_out_head(newer, params["auxiliary"], *head)
        return dense(newer, params["head"]), auxiliary

    for got, want in zip(ours(params), theirs(params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_supernet_mixes_its_cells_by_kind_and_its_edges_by_node():
    space = CellSpace(
        ("none", "skip_connect", "max_pool_3x3"), num_nodes=2, edge_normalization=True
    )
    net = Supernet(space, 3, 4, 3, partial=2, auxiliary_skip=True)
    images = jnp.array(np.random.default_rng(1).normal(size=(3, 8, 8, 1)))
    alphas = space.init_alphas(jax.random.key(0), scale=1.0)
    shapes = jax.eval_shape(
        lambda: net.init(jax.random.key(0), images, alphas, train=False)
    )
    params, stats = drawn(shapes["params"]), drawn(shapes["batch_stats"])

    @jax.jit
    def ours(params, alphas):
        variables = {"params": params, "batch_stats": stats}
        return net.apply(variables, images, alphas, train=True, skip_weight=0.3)

    def softmax(x):
        return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)

    @jax.jit
    def theirs(params, alphas):
        older, newer = written_out_stem(images, params["stem"], "cifar")
        for i, place in enumerate(cell_places(3, 4)):
            edges = alphas[f"{place.kind}_edges"]
            by_node = [softmax(edges[:2]), softmax(edges[2:])]
            mixture = Mixture(
                softmax(alphas[place.kind]), jnp.concatenate(by_node), jnp.array(0.3)
            )
            own = {"params": params[f"cell_{i}"], "batch_stats": stats[f"cell_{i}"]}
            cell = MixedCell(space, place, partial=2)
            y = cell.apply(own, older, newer, mixture, True)
            older, newer = newer, y
        return dense(newer, params["head"])

    got, want = ours(params, alphas), theirs(params, alphas)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def seen_by_cells(kind, module, *args, **kwargs):
    """Returns the arguments that each cell is called with; the cells give zeros."""
    seen = []

    def intercept(following, args, kwargs, context):
        if not isinstance(context.module, kind):
            return following(*args, **kwargs)
        seen.append(args)
        _, newer, *_ = args
        return jnp.zeros_like(newer)

    keys = {name: jax.random.key(0) for name in ("params", "drop_path", "skip_dropout")}
    with nn.intercept_methods(intercept):
        module.init(keys, *args, train=True, **kwargs)
    return seen


def test_drop_path_has_masks_of_its_own_for_each_cell_example_and_edge():
    network = Network(GENOTYPE, 6, 2, 3)
    seen = seen_by_cells(Cell, network, jnp.ones((16, 2, 2, 1)), drop_path_rate=0.25)
    masks = np.stack([np.asarray(args[2]) for args in seen])
    assert masks.shape == (6, 16, 4)
    np.testing.assert_allclose(np.unique(masks), [0, 1 / 0.75], rtol=1e-6)
    for axis in range(3):
        rows = np.moveaxis(masks, axis, 0).reshape(masks.shape[axis], -1)
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_skip_dropout_has_masks_of_its_own_for_each_cell_and_source():
    space = CellSpace(("skip_connect",), num_nodes=1)
    net = Supernet(space, 3, 2, 3)
    alphas = space.init_alphas(jax.random.key(0))
    images = jnp.ones((2, 4, 4, 1))
    seen = seen_by_cells(MixedCell, net, images, alphas, skip_dropout_rate=0.5)
    keys = [jax.random.key_data(args[2].skip_dropout.key) for args in seen]
    assert len({tuple(map(int, key)) for key in keys}) == 3

    # Two inputs that are equal in all elements: a sum of 0, 1 or 2 of them is left.
    cell = MixedCell(space, cell_places(3, 2)[0])
    mixture = Mixture(jnp.ones((2, 1)), skip_dropout=seen[0][2].skip_dropout)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    variables = cell.init(jax.random.key(2), x, x, mixture, False)
    params = jax.tree.map(jnp.ones_like, variables["params"])
    variables = {**variables, "params": params}
    whole = cell.apply(variables, x, x, mixture._replace(skip_dropout=None), True)
    left = cell.apply(variables, x, x, mixture, True) / whole
    assert set(np.unique(np.round(left, 3))) == {0, 1, 2}


@pytest.mark.usefixtures("x64")
def test_a_derived_network_over_devices_is_that_of_the_whole_batch():
    images = jnp.array(np.random.default_rng(1).normal(size=(4, 112, 112, 1)))
    network = Network(GENOTYPE, 1, 2, 4, "imagenet", IMAGENET_AUXILIARY)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), images, train=False)
    )
    variables = jax.tree.map(jnp.abs, drawn(shapes))

    def train(images, axis_name=None):
        return network.clone(axis_name=axis_name).apply(
            variables,
            images,
            train=True,
            drop_path_rate=0.3,
            mutable=["batch_stats"],
            rngs={"drop_path": jax.random.key(0)},
        )

    outputs, stats = jax.jit(train)(images)
    halves = jax.vmap(lambda half: train(half, "devices"), axis_name="devices")
    found, statistics = jax.jit(halves)(images.reshape(2, 2, 112, 112, 1))
    expected = jax.tree.map(lambda y: y.reshape(2, 2, 4), outputs)
    stats = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), stats)
    for got, want in zip(
        jax.tree.leaves((found, statistics)),
        jax.tree.leaves((expected, stats)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_mixed_cell_over_devices_is_that_of_the_whole_batch():
    rng = np.random.default_rng(1)
    images = jnp.array(rng.normal(size=(4, 4, 4, 3)))
    space = CellSpace(num_nodes=1)
    mixture = Mixture(jnp.array(rng.uniform(size=(2, 8))))
    cell = MixedCell(space, CellPlace("reduction", 2, reduced_before=False))
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), images, images, mixture, False)
    )
    variables = jax.tree.map(jnp.abs, drawn(shapes))

    def train(x, axis_name=None):
        mapped = cell.clone(axis_name=axis_name)
        return mapped.apply(variables, x, x, mixture, True, mutable=["batch_stats"])

    whole, stats = jax.jit(train)(images)
    halves = jax.vmap(lambda x: train(x, "devices"), axis_name="devices")
    found, statistics = jax.jit(halves)(images.reshape(2, 2, 4, 4, 3))
    np.testing.assert_allclose(found.reshape(whole.shape), whole, rtol=1e-9, atol=1e-9)
    for got, want in zip(
        jax.tree.leaves(statistics), jax.tree.leaves(stats), strict=True
    ):
        np.testing.assert_allclose(got, jnp.stack([want, want]), rtol=1e-9)


SPACE = CellSpace(("skip_connect", "dil_conv_3x3"), 1, edge_normalization=True)
ALPHAS = SPACE.init_alphas(jax.random.key(0)) | BenchSpace().init_alphas(
    jax.random.key(1)
)


@pytest.mark.parametrize(
    ("network", "call", "cells"),
    [
        (
            Network(GENOTYPE, 3, 2, 4, auxiliary=CIFAR_AUXILIARY),
            {"drop_path_rate": 0.2},
            {"Cell", "SeparableOp", "FactorizedReduce", "BatchNorm"},
        ),
        (
            Supernet(SPACE, 3, 4, 4, partial=2, auxiliary_skip=True),
            {"alphas": ALPHAS, "skip_weight": 0.5, "skip_dropout_rate": 0.2},
            {"MixedCell", "OutgoingEdges", "SideBySide"},
        ),
        (
            BenchNetwork(4, channels=2, num_cells=1),
            {"alphas": ALPHAS},
            {"BenchCell", "ResidualBlock"},
        ),
    ],
    ids=["derived", "supernet", "NAS-Bench-201"],
)
def test_half_precision_lasts_from_the_images_to_the_heads(network, call, cells):
    dtypes = {}

    def intercept(following, args, kwargs, context):
        outputs = following(*args, **kwargs)
        if context.method_name == "__call__":
            own = dtypes.setdefault(type(context.module).__name__, set())
            own |= {str(leaf.dtype) for leaf in jax.tree.leaves(outputs)}
        return outputs

    keys = {name: jax.random.key(0) for name in ("params", "drop_path", "skip_dropout")}
    images = jnp.zeros((2, 32, 32, 3), jnp.bfloat16)
    with nn.intercept_methods(intercept):
        jax.eval_shape(lambda: network.init(keys, images, train=True, **call))
    heads = {type(network).__name__, "AuxiliaryHead", "Dense"} & set(dtypes)
    assert len(heads) >= 2
    for name in heads:
        assert dtypes.pop(name) == {"float32"}
    assert set(map(tuple, dtypes.values())) == {("bfloat16",)}
    assert cells < set(dtypes)
