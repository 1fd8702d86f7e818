import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas import Network, random_genotype
from skillearn_jax.nas.counting import count_macs, num_params
from skillearn_jax.nas.space import DARTS_OPS, CellSpace
from skillearn_jax.nas.supernet import Supernet

pytestmark = pytest.mark.usefixtures("quick_module")

# One cell of each kind is checked in cell_test; here the smallest chain will do.
SPACE = CellSpace(num_nodes=1)


def _shapes(net, images, **kwargs):
    return jax.eval_shape(
        lambda key: net.init_with_output(
            key, images, net.space.init_alphas(key), train=False, **kwargs
        ),
        jax.random.key(0),
    )


@pytest.mark.parametrize(
    ("num_nodes", "num_cells", "shape"),
    [(4, 3, (2, 8, 8, 1)), (1, 1, (2, 7, 9, 3)), (3, 5, (1, 28, 28, 1))],
)
def test_any_size_of_image_and_depth(num_nodes, num_cells, shape):
    net = Supernet(CellSpace(num_nodes=num_nodes), num_cells, 4, 10)
    logits, _ = _shapes(net, jnp.zeros(shape))
    assert logits.shape == (shape[0], 10)


def test_alphas_are_no_variable():
    net = Supernet(SPACE, 2, 4, 10)
    _, variables = _shapes(net, jnp.zeros((2, 4, 4, 1)))
    assert set(variables) == {"params", "batch_stats"}
    assert not any(
        "alpha" in str(path) for path, _ in jax.tree.leaves_with_path(variables)
    )


@pytest.mark.parametrize(
    "alphas", [None, {}, {"normal": jnp.zeros((8, 2))}, {"normal": [[0], [0, 0]]}]
)
def test_alphas_that_do_not_fit_are_refused(alphas):
    net = Supernet(SPACE, 1, 2, 3)
    with pytest.raises(
        InputError, match=r"alphas\['normal'\] must have shape \(2, 8\)"
    ):
        net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), alphas, train=False)


def test_none_on_all_edges_leaves_the_bias_of_the_head():
    space = CellSpace(ops=("none", "skip_connect"), num_nodes=1)
    net = Supernet(space, 1, 2, 3)
    images = jnp.ones((2, 4, 4, 1))
    alphas = {kind: jnp.array([[99.0, -99.0]] * 2) for kind in ("normal", "reduction")}
    init = jax.jit(lambda key: net.init(key, images, alphas, train=False))
    variables = init(jax.random.key(0))
    logits = net.apply(variables, images, alphas, train=False)
    bias = variables["params"]["head"]["bias"]
    np.testing.assert_allclose(logits, jnp.stack([bias, bias]), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_hessian_along_a_direction_equals_a_difference_of_gradients():
    rng = np.random.default_rng(0)
    net = Supernet(SPACE, 1, 2, 3)
    images = jnp.array(rng.normal(size=(4, 4, 4, 1)))
    _, shapes = _shapes(net, images)

    def normal(tree):
        return jax.tree.map(lambda v: jnp.array(rng.normal(size=v.shape)), tree)

    params, direction = normal(shapes["params"]), normal(shapes["params"])
    alphas = normal(jax.eval_shape(lambda: SPACE.init_alphas(jax.random.key(0))))
    stats = jax.tree.map(lambda v: jnp.zeros(v.shape), shapes["batch_stats"])

    def loss(params, alphas):
        variables = {"params": params, "batch_stats": stats}
        logits = net.apply(variables, images, alphas, train=True)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0])

    gradient = jax.grad(loss, argnums=(0, 1))

    @jax.jit
    def both(params):
        """The gradient, and its derivative along the direction."""
        return jax.jvp(lambda p: gradient(p, alphas), (params,), (direction,))

    def moved(step):
        return both(jax.tree.map(lambda p, d: p + step * d, params, direction))[0]

    step = 1e-6
    difference = jax.tree.map(
        lambda plus, minus: (plus - minus) / (2 * step), moved(step), moved(-step)
    )
    for exact, approximate in zip(
        jax.tree.leaves(both(params)[1]), jax.tree.leaves(difference), strict=True
    ):
        np.testing.assert_allclose(exact, approximate, rtol=1e-5, atol=1e-6)
    mixed = both(params)[1][1]["reduction"]
    assert jnp.abs(mixed).max() > 1e-3


# Options of the methods. cell_test holds their arithmetic.


def _size(net, side=8):
    shapes = _shapes(net, jnp.zeros((2, side, side, 3)))[1]
    alphas = jax.tree.map(
        jnp.zeros, net.space.alpha_shapes(), is_leaf=lambda v: isinstance(v, tuple)
    )
    return num_params(shapes), count_macs(net, (side, side, 3), alphas)


def _counted_by_hand(space, num_cells, c, side, classes):
    """Returns parameters and multiply-adds of a supernet, operation by operation."""
    pixels = side * side
    params, macs = 27 * 3 * c + 2 * 3 * c, 27 * 3 * c * pixels
    before, last = 3 * c, 3 * c  # channels of the two inputs
    for i in range(num_cells):
        reduction = i in (num_cells // 3, 2 * num_cells // 3)
        c *= 2 if reduction else 1
        params += (before + last) * c
        macs += (before + last) * c * pixels
        pixels //= 4 if reduction else 1
        candidates = space.edge_ops("reduction" if reduction else "normal")
        for (source, _), ops in zip(space.edges, candidates, strict=True):
            for op in ops:
                kind, _, size = op.partition("_conv_")
                weights = 0
                if kind in ("sep", "dil"):
                    weights = int(size[0]) ** 2 * c + c * c
                    weights *= 2 if kind == "sep" else 1
                elif op == "skip_connect" and reduction and source < 2:
                    weights = c * c
                params += weights
                macs += weights * pixels
        before, last = last, space.num_nodes * c
    return params + last * classes + classes, macs + last * classes


@pytest.mark.parametrize(("num_cells", "keep"), [(5, 8), (11, 5), (17, 3)])
def test_dropped_candidates_cost_nothing_in_any_stage_of_pdarts(num_cells, keep):
    rng = np.random.default_rng(keep)

    def some():
        chosen = set(rng.permutation(DARTS_OPS)[:keep])
        ops = tuple(op for op in DARTS_OPS if op in chosen)
        return ops if set(ops) - {"none"} else DARTS_OPS[:keep]

    normal, reduction = (tuple(some() for _ in range(14)) for _ in range(2))
    space = CellSpace(normal=normal, reduction=reduction)
    net = Supernet(space, num_cells, 16, 10)
    assert _size(net, 32) == _counted_by_hand(space, num_cells, 16, 32, 10)


def test_partial_channels_have_the_operations_of_a_thinner_cell():
    space = CellSpace(num_nodes=1, edge_normalization=True)
    whole, _ = _size(Supernet(space, 1, 8, 10))
    partial, _ = _size(Supernet(space, 1, 8, 10, partial=4))
    thin, _ = _size(Supernet(space, 1, 2, 10))

    def shell(channels):  # stem, inputs and head, with a cell of 2 C channels
        stem, inputs = 27 * 3 * channels + 6 * channels, 2 * 3 * channels * 2 * channels
        return stem + inputs + 10 * 2 * channels + 10

    assert partial - shell(8) == thin - shell(2) < whole - shell(8)
    assert set(space.alpha_shapes()) == {
        "normal",
        "reduction",
        "normal_edges",
        "reduction_edges",
    }


@pytest.fixture(scope="module")
def small(quick_module):
    """A supernet with identities, its variables, images and logits."""
    space = CellSpace(ops=("none", "skip_connect", "dil_conv_3x3"), num_nodes=2)
    net = Supernet(space, 3, 2, 3)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    alphas = space.init_alphas(jax.random.key(2), scale=1.0)
    init = jax.jit(lambda key: net.init(key, images, alphas, train=False))
    return net, init(jax.random.key(0)), images, alphas


def _logits(net, variables, images, alphas, **kwargs):
    apply = jax.jit(
        lambda v: net.apply(
            v, images, alphas, train=True, mutable=["batch_stats"], **kwargs
        )[0]
    )
    return apply(variables)


def test_rematerialised_cells_give_the_same_second_derivatives(small):
    net, _, images, alphas = small
    net = net.clone(num_cells=1)
    variables = jax.jit(lambda key: net.init(key, images, alphas, train=False))(
        jax.random.key(0)
    )

    @functools.partial(jax.jit, static_argnums=0)
    def along_a_direction(net):
        def loss(params, alphas):
            v = {**variables, "params": params}
            return jnp.sum(net.apply(v, images, alphas, train=True) ** 2)

        params = variables["params"]
        gradient = jax.grad(loss, argnums=(0, 1))
        return jax.jvp(lambda p: gradient(p, alphas), (params,), (params,))

    kept, anew = along_a_direction(net), along_a_direction(net.clone(remat=True))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(anew), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * jnp.abs(a).max())


def test_rematerialised_cells_take_less_memory(small):
    net, variables, images, alphas = small

    def memory(net):
        def loss(params):
            v = {**variables, "params": params}
            return jnp.sum(net.apply(v, images, alphas, train=True) ** 2)

        gradient = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
        return gradient.memory_analysis().temp_size_in_bytes

    assert memory(net.clone(remat=True)) < 0.8 * memory(net)


def test_skip_dropout_is_seeded_unbiased_and_absent_at_zero(small):
    net, variables, images, alphas = small
    plain = _logits(net, variables, images, alphas)

    def of_key(key, rate):
        rngs = {"skip_dropout": key}
        return _logits(
            net, variables, images, alphas, skip_dropout_rate=rate, rngs=rngs
        )

    key, other = jax.random.split(jax.random.key(0))
    dropped = jax.jit(of_key)
    assert (of_key(key, 0.0) == plain).all()
    once = dropped(key, 0.5)
    assert (once == dropped(key, 0.5)).all()
    assert (once != dropped(other, 0.5)).any()
    np.testing.assert_allclose(dropped(key, 1e-6), plain, rtol=1e-3, atol=1e-4)

    @jax.jit
    def predicted(rate):
        return net.apply(variables, images, alphas, train=False, skip_dropout_rate=rate)

    want = jax.jit(lambda: net.apply(variables, images, alphas, train=False))()
    np.testing.assert_allclose(predicted(0.5), want, rtol=1e-5)


def test_the_auxiliary_skip_at_weight_zero_is_plain_darts(small):
    net, _, images, alphas = small
    with_skip = net.clone(auxiliary_skip=True)
    init = jax.jit(lambda key: with_skip.init(key, images, alphas, train=False))
    variables = init(jax.random.key(0))
    at_zero = _logits(with_skip, variables, images, alphas, skip_weight=0.0)
    at_one = _logits(with_skip, variables, images, alphas)
    assert jnp.abs(at_zero - at_one).max() > 1e-3
    params = {
        name: {k: v for k, v in cell.items() if k != "auxiliary_skip"}
        for name, cell in variables["params"].items()
    }
    stats = jax.eval_shape(
        lambda key: net.init(key, images, alphas, train=False), jax.random.key(0)
    )["batch_stats"]
    plain = {"params": params, "batch_stats": jax.tree.map(jnp.zeros_like, stats)}
    np.testing.assert_allclose(
        at_zero, _logits(net, plain, images, alphas), rtol=1e-4, atol=1e-5
    )


def test_initialisations_have_the_variances_that_they_promise():
    space = CellSpace(ops=("sep_conv_3x3",), num_nodes=1)
    images = jnp.zeros((1, 8, 8, 3))
    for name, factor in (("torch", 1 / 3), ("flax", 1.0)):
        net = Supernet(space, 1, 16, 10, initialization=name)
        alphas = space.init_alphas(jax.random.key(0))
        variables = jax.jit(
            lambda key, n=net, a=alphas: n.init(key, images, a, train=False)
        )(jax.random.key(0))
        head = variables["params"]["head"]
        assert np.any(head["bias"]) == (name == "torch")
        fan_in = len(head["kernel"])
        assert np.var(head["kernel"]) * fan_in == pytest.approx(factor, rel=0.3)
        cell = variables["params"]["cell_0"]
        for leaf, fan_in in (("depthwise", 9), ("pointwise", 32)):
            draws = cell[f"sep_conv_3x3_{leaf}"]
            assert np.var(draws) * fan_in == pytest.approx(factor, rel=0.2)
        stem = variables["params"]["stem"]["Conv_0"]["kernel"]
        assert np.var(stem) * 27 == pytest.approx(factor, rel=0.2)


def test_the_supernet_of_pcdarts_on_imagenet_has_the_parameters_that_its_logs_state():
    """ "param size = 0.956512MB", in a log of the authors' code (their issue 15)."""
    space = CellSpace(edge_normalization=True)
    net = Supernet(space, 8, 16, 1000, partial=2, stem="imagenet")
    _, variables = _shapes(net, jnp.zeros((1, 224, 224, 3)))
    assert num_params(variables["params"]) == 956_512


def test_the_imagenet_stem_of_a_search_is_three_times_as_wide_as_the_derived_one():
    images = jnp.zeros((2, 64, 64, 3))
    net = Supernet(SPACE, 3, 4, 10, stem="imagenet", initialization="flax")
    logits, variables = _shapes(net, images)
    assert logits.shape == (2, 10)
    genotype = random_genotype(np.random.default_rng(0), SPACE)
    derived = Network(genotype, 3, 4, 10, stem="imagenet")
    expected = jax.eval_shape(
        lambda: derived.init(jax.random.key(0), images, train=False)
    )
    for of, width in ((variables, 12), (expected, 4)):
        stem = of["params"]["stem"]
        shapes = [stem[f"Conv_{i}"]["kernel"].shape for i in range(3)]
        halves = [(3, width // 2), (width // 2, width), (width, width)]
        assert shapes == [(3, 3, *channels) for channels in halves]
        assert of["batch_stats"]["stem"]["BatchNorm_2"]["mean"].shape == (width,)
        older = of["params"]["cell_0"]["inputs"]["older"]
        assert older["kernel"].shape == (2, width, 1, 2)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, {"skip_dropout_rate": 1.0}, "must be in .0, 1., got 1.0"),
        ({}, {"skip_dropout_rate": -0.1}, "must be in .0, 1., got -0.1"),
        ({}, {"skip_dropout_rate": jnp.array(1.5)}, "must be in .0, 1., got 1.5"),
        ({}, {"skip_weight": 0.5}, "set auxiliary_skip=True"),
        ({}, {"skip_weight": jnp.array(1.0)}, "set auxiliary_skip=True"),
        (
            {"initialization": "he"},
            {},
            "initialization='he'; it must be one of 'torch', 'flax'",
        ),
        ({"partial": 4}, {}, "multiple of 8"),
        ({"num_classes": -1}, {}, "num_classes must be at least 0, got -1"),
        ({"stem": "imagnet"}, {}, "stem='imagnet'; it must be one of 'cifar', 'image"),
        (
            {"stem": "imagenet", "channels": 3},
            {},
            "9 channels are odd: the ImageNet stem halves them",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options, call, message):
    net = Supernet(SPACE, 1, **{"channels": 2, "num_classes": 3, **options})
    with pytest.raises(InputError, match=message) as error:
        _shapes(net, jnp.zeros((1, 4, 4, 1)), **call)
    assert "\n" not in str(error.value)


def test_skip_dropout_does_not_see_the_number_of_devices(small):
    net, variables, images, alphas = small
    key = {"skip_dropout": jax.random.key(0)}

    def logits(devices):
        spread = net.clone(axis_name="devices")
        apply = jax.pmap(
            lambda x: spread.apply(
                variables, x, alphas, train=True, skip_dropout_rate=0.5, rngs=key
            ),
            axis_name="devices",
            devices=jax.devices()[:devices],
        )
        shards = images.reshape(devices, -1, *images.shape[1:])
        return apply(shards).reshape(len(images), -1)

    np.testing.assert_allclose(logits(1), logits(2), rtol=1e-3, atol=1e-4)
