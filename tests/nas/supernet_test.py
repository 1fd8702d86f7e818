import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.space import CellSpace
from skillearn_jax.nas.supernet import Supernet

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


@pytest.mark.parametrize("alphas", [{}, {"normal": jnp.zeros((8, 2))}])
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
