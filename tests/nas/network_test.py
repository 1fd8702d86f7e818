import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.auxiliary import Auxiliary
from skillearn_jax.nas.derive import random_genotype
from skillearn_jax.nas.genotype import Genotype
from skillearn_jax.nas.network import Cell, Network
from skillearn_jax.nas.space import CellPlace, CellSpace

pytestmark = pytest.mark.usefixtures("quick_module")

POOLS = (("max_pool_3x3", 0), ("avg_pool_3x3", 1))
SKIPS = (("skip_connect", 0), ("skip_connect", 1))


def _init(network, images):
    init = jax.jit(lambda key: network.init(key, images, train=False))
    return init(jax.random.key(0))


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 7, 9, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("num_cells", [1, 2, 5])
def test_any_size_depth_and_genotype(shape, num_cells):
    genotype = random_genotype(np.random.default_rng(num_cells), CellSpace())
    network = Network(genotype, num_cells, 4, 7)
    logits, _ = jax.eval_shape(
        lambda: network.init_with_output(
            jax.random.key(0), jnp.zeros(shape), train=False
        )
    )
    assert logits.shape == (shape[0], 7)


def test_weights_fill_the_bounds_of_the_inputs_of_one_output():
    cell = (("sep_conv_3x3", 0), ("dil_conv_5x5", 1), *SKIPS)
    network = Network(Genotype(cell, cell), 1, 4, 4, auxiliary=Auxiliary())
    images = jnp.zeros((1, 16, 16, 3))
    params = jax.jit(lambda key: network.init(key, images, train=False)["params"])(
        jax.random.key(0)
    )
    kinds = set()
    for path, leaf in jax.tree.leaves_with_path(params):
        kind = path[-1].key.partition("_")[0]
        if kind in ("scale", "bias"):
            continue
        fan_in = np.prod(leaf.shape[:-1])
        if kind == "depthwise":
            fan_in = len(leaf) ** 2
        elif leaf.shape[2:3] == (1,):  # the two halves of a strided skip
            fan_in = leaf.shape[1]
        assert 0.8 < jnp.abs(leaf).max() * fan_in**0.5 <= 1.0001, path
        kinds.add(kind)
    assert kinds == {"kernel", "depthwise", "pointwise"}


def test_the_head_reads_the_concatenated_nodes_only():
    cell = POOLS + SKIPS
    genotype = Genotype(cell, cell, normal_concat=(3,), reduction_concat=(2, 3))
    network = Network(genotype, 4, 4, 7)
    variables = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    assert variables["params"]["head"]["kernel"].shape == (16, 7)
    assert variables["params"]["cell_2"]["inputs"]["newer"]["Conv_0"][
        "kernel"
    ].shape == (
        1,
        1,
        2 * 8,
        16,
    )


@pytest.fixture(scope="module")
def drop_path(quick_module):
    """A network of pools, and its logits for a rate and a key, compiled once."""
    network = Network(Genotype(POOLS, POOLS), 1, 2, 3)
    images = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    variables = _init(network, images)

    @jax.jit
    def logits(rate, key):
        return network.apply(
            variables,
            images,
            train=True,
            drop_path_rate=rate,
            rngs={"drop_path": key},
        )

    plain = network.apply(variables, images, train=True)
    return network, variables, images, logits, plain


def test_drop_path_is_the_plain_network_at_a_traced_rate_of_zero(drop_path):
    *_, logits, plain = drop_path
    got = logits(0.0, jax.random.key(0))
    np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-6)


def test_drop_path_is_unbiased_and_drops_examples_one_by_one(drop_path):
    # Pools, a mean and a linear head: the logits are linear in the masks.
    _, variables, _, logits, plain = drop_path
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(logits, (None, 0))(0.4, keys)
    spread = draws.std(0) / np.sqrt(len(keys))
    np.testing.assert_array_less(np.abs(draws.mean(0) - plain), 4 * spread)
    # Two edges: four outcomes, of which each example takes its own.
    assert len(np.unique(np.round(draws[:, 0, 0], 4))) == 4
    bias = variables["params"]["head"]["bias"][0]
    nothing_left = np.isclose(draws[:, 0, 0], bias, atol=1e-5).mean()
    np.testing.assert_allclose(nothing_left, 0.4**2, atol=0.03)
    correlation = np.corrcoef(draws[:, 0, 0], draws[:, 1, 0])[0, 1]
    assert abs(correlation) < 0.1


@pytest.mark.parametrize(("kind", "spared"), [("normal", True), ("reduction", False)])
def test_drop_path_spares_identities_only(kind, spared):
    cell = Cell(SKIPS, (2,), CellPlace(kind, 2, reduced_before=False))
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    variables = cell.init(jax.random.key(1), x, x, None, train=False)
    out = cell.apply(variables, x, x, jnp.zeros((2, 2)), train=False)
    whole = cell.apply(variables, x, x, None, train=False)
    np.testing.assert_array_equal(out, whole if spared else jnp.zeros_like(whole))


def test_drop_path_is_off_in_evaluation(drop_path):
    network, variables, images, _, _ = drop_path
    out = network.apply(variables, images, train=False, drop_path_rate=0.9)
    np.testing.assert_array_equal(out, network.apply(variables, images, train=False))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, jnp.float32(1.5)])
def test_a_rate_outside_its_range_is_refused(drop_path, rate):
    network, variables, images, _, _ = drop_path
    with pytest.raises(InputError, match="drop_path_rate must be in"):
        network.apply(variables, images, train=True, drop_path_rate=rate)


def test_a_network_without_classes_is_refused():
    network = Network(Genotype(POOLS, POOLS), 1, 2, 0)
    with pytest.raises(InputError, match="num_classes must be at least 1, got 0"):
        network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False)


# Stem and auxiliary head of the papers; cost_test holds their sizes.


def test_the_imagenet_stem_halves_three_times_before_the_cells():
    network = Network(Genotype(POOLS, POOLS), 1, 4, 5, stem="imagenet")
    images = jnp.zeros((2, 30, 40, 3))
    logits, variables = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), images, train=False)
    )
    assert logits.shape == (2, 5)
    stem = variables["params"]["stem"]
    shapes = [stem[f"Conv_{i}"]["kernel"].shape for i in range(3)]
    assert shapes == [(3, 3, 3, 2), (3, 3, 2, 4), (3, 3, 4, 4)]
    # The older input of the first cell has twice the resolution: it is halved too.
    assert "kernel" in variables["params"]["cell_0"]["inputs"]["older"]


def test_auxiliary_logits_come_in_training_only():
    head = Auxiliary(pool_stride=1)
    plain = Network(Genotype(POOLS, SKIPS), 2, 2, 3)
    network = plain.clone(auxiliary=head)
    with pytest.raises(InputError, match="feature map of 3x3; it needs 6x6"):
        _init(network, jnp.zeros((2, 12, 12, 1)))
    images = jax.random.normal(jax.random.key(1), (2, 21, 21, 1))
    variables = _init(network, images)
    assert "auxiliary" in variables["params"]

    @functools.partial(jax.jit, static_argnums=0)
    def train(net):
        return net.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    outputs = train(network)
    assert outputs.auxiliary.shape == (2, 3)
    np.testing.assert_allclose(outputs.logits, train(plain), rtol=1e-5)
    predict = jax.jit(lambda: network.apply(variables, images, train=False))
    assert predict().shape == (2, 3)


# Cells of equal shapes as one loop.


def _loop_lengths(network, variables, images):
    forward = functools.partial(network.apply, train=False)
    jaxpr = jax.make_jaxpr(forward)(variables, images)
    return [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"]


@pytest.mark.parametrize(
    ("reduction_concat", "lengths"), [((2, 3), [4, 5, 5]), ((3,), [4, 4, 4])]
)
def test_cells_of_equal_shapes_are_scanned(reduction_concat, lengths):
    # Cells 2 to 5, 8 to 12 and 15 to 19: the first two read the stem, and a cell after a
    # reduction halves its older input. Where a reduction cell returns fewer nodes, the
    # second cell after it stands alone too.
    cell = POOLS + POOLS
    genotype = Genotype(cell, cell, reduction_concat=reduction_concat)
    images = jnp.zeros((1, 8, 8, 3))
    network = Network(genotype, 20, 2, 3, scan_cells=True)
    variables = jax.eval_shape(
        lambda: network.init(jax.random.key(0), images, train=False)
    )
    assert "cell_19" in variables["params"]
    assert _loop_lengths(network, variables, images) == lengths
    assert _loop_lengths(network.clone(scan_cells=False), variables, images) == []


def test_scanned_cells_are_the_unrolled_ones(x64):
    # No maximum: drop path leaves images of one colour, in which rounding picks it.
    normal = (("dil_conv_3x3", 0), ("avg_pool_3x3", 1))
    network = Network(Genotype(normal, SKIPS), 11, 2, 3, auxiliary=Auxiliary(1))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(4, 21, 21, 1)))
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), images, train=False)
    )
    variables = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0, 1, x.shape)), shapes)
    scanned = network.clone(scan_cells=True)
    assert _loop_lengths(scanned, variables, images) == [2, 2]

    @functools.partial(jax.jit, static_argnums=0)
    def train(net):
        def loss(params):
            outputs, changed = net.apply(
                variables | {"params": params},
                images,
                train=True,
                drop_path_rate=0.3,
                mutable=["batch_stats"],
                rngs={"drop_path": jax.random.key(2)},
            )
            value = sum(jnp.sum(jnp.sin(logits)) for logits in outputs)
            return value, (outputs, changed["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    got, expected = train(scanned), train(network)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10),
        got,
        expected,
    )
    gradients, (_, statistics) = got
    assert all(np.any(x) for x in jax.tree.leaves(gradients["cell_6"]))
    # Every cell has statistics of its own, and they have moved.
    before, after = variables["batch_stats"], statistics
    moved = jax.tree.map(lambda x, y: not np.allclose(x, y), before, after)
    assert all(jax.tree.leaves(moved))
