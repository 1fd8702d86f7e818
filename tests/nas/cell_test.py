"""The cell computed source by source against one computed edge by edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.nas.cell import MixedCell, Mixture
from skillearn_jax.nas.edges import Branch, OutgoingEdges, SkipDropout
from skillearn_jax.nas.space import CellPlace, CellSpace

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
    size, dilation, c = depthwise.shape[1], 2 if "dil" in op else 1, x.shape[-1]
    for i in range(len(depthwise)):
        x = _conv(
            jnp.maximum(x, 0),
            depthwise[i, :, :, None, :, column],
            stride if i == 0 else 1,
            dilation * (size - 1) // 2,
            dilation,
            groups=c,
        )
        kernel = pointwise[i, :, column * c : (column + 1) * c]
        x = _norm(_conv(x, kernel[None, None]))
    return x


def _operation(params, x, op, column, stride):
    """The output of one operation on one edge, the column-th that has it."""
    count = _pool(jnp.ones_like(x), 0.0, lax.add, stride)
    if op == "none":
        return jnp.zeros_like(count)
    if op == "max_pool_3x3":
        return _norm(_pool(x, -jnp.inf, lax.max, stride))
    if op == "avg_pool_3x3":
        return _norm(_pool(x, 0.0, lax.add, stride) / count)
    if op in ("skip_connect", "auxiliary_skip"):
        return x if stride == 1 else _halve(x, *params[op][:, :, column])
    return _separable(x, params, op, column, stride)


def _mixed(params, x, space, kind, edge, mixture, stride):
    """The weighted sum of an edge's operations, its skip and its bypass included."""
    candidates = space.edge_ops(kind)
    row = space.edges.index(edge)
    total = 0.0
    for weight, op in zip(mixture.ops[row], candidates[row], strict=True):
        having = [e for e in STACK if op in candidates[space.edges.index(e)]]
        total += weight * _operation(params, x, op, having.index(edge), stride)
    if mixture.skip is not None:
        column = STACK.index(edge)
        total += mixture.skip * _operation(params, x, "auxiliary_skip", column, stride)
    return total


def _edge(params, x, space, kind, edge, mixture, stride, partial):
    mixed = x.shape[-1] // partial
    y = _mixed(params, x[..., :mixed], space, kind, edge, mixture, stride)
    if partial > 1:
        rest = x[..., mixed:]
        if stride == 2:
            window, strides = (1, 2, 2, 1), (1, 2, 2, 1)
            rest = lax.reduce_window(rest, -jnp.inf, lax.max, window, strides, "VALID")
        y = jnp.concatenate([y, rest], -1)
        y = jnp.stack(jnp.split(y, partial, -1), -1).reshape(y.shape)
    return y if mixture.edges is None else mixture.edges[space.edges.index(edge)] * y


def _reference(params, older, newer, mixture, space, place, partial):
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
            total += _edge(
                params,
                states[source],
                space,
                place.kind,
                (source, target),
                mixture,
                stride,
                partial,
            )
        states.append(total)
    return jnp.concatenate(states[2:], -1)


def _rows(*rows):
    return tuple(tuple(op for op in SPACE.ops if op in row) for row in rows)


PRUNED = CellSpace(
    num_nodes=2,
    normal=_rows(
        ("none", "sep_conv_3x3", "skip_connect"),
        ("max_pool_3x3", "dil_conv_3x3", "sep_conv_3x3"),
        ("none", "max_pool_3x3", "skip_connect"),
        ("avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"),
        ("skip_connect", "avg_pool_3x3", "dil_conv_5x5"),
    ),
    reduction=_rows(*[("none", "sep_conv_5x5", "skip_connect")] * 4, SPACE.ops[3:6]),
)
NORMAL, REDUCTION = CellPlace("normal", C, True), CellPlace("reduction", C, False)
# More mixed channels than groups: a shuffle of the others would be another one.
WIDE = NORMAL._replace(features=6), REDUCTION._replace(features=8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("space", "place", "partial", "edges", "skip"),
    [
        (SPACE, NORMAL, 1, False, False),
        (SPACE, REDUCTION, 1, False, False),
        (PRUNED, NORMAL, 1, False, False),
        (PRUNED, REDUCTION, 1, False, True),
        (PRUNED, WIDE[0], 2, True, True),
        (PRUNED, WIDE[1], 2, True, False),
    ],
    ids=[
        "normal",
        "reduction",
        "candidates",
        "candidates reduction with auxiliary skip",
        "all options",
        "partial reduction",
    ],
)
def test_source_by_source_equals_edge_by_edge(space, place, partial, edges, skip):
    rng = np.random.default_rng(0)
    older_side = 8 if place.reduced_before else 4
    older = jnp.array(rng.normal(size=(3, older_side, older_side, 3)))
    newer = jnp.array(rng.normal(size=(3, 4, 4, 5)))
    mixture = Mixture(
        jax.nn.softmax(jnp.array(rng.normal(size=(5, space.num_candidates))), -1),
        jnp.array(rng.uniform(size=5)) if edges else None,
        jnp.array(0.7) if skip else None,
    )
    cell = MixedCell(space, place, partial)
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), older, newer, mixture, True)
    )
    params = jax.tree.map(
        lambda leaf: jnp.array(rng.normal(size=leaf.shape)), shapes["params"]
    )
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["batch_stats"])

    def ours(params, older, newer, mixture):
        variables = {"params": params, "batch_stats": stats}
        return cell.apply(variables, older, newer, mixture, True)

    def theirs(params, older, newer, mixture):
        return _reference(params, older, newer, mixture, space, place, partial)

    side = 2 if place.kind == "reduction" else 4
    direction = jnp.array(rng.normal(size=(3, side, side, 2 * place.features)))

    def values_and_gradients(function):
        def loss(*args):
            y = function(*args)
            return jnp.sum(direction * y), y

        grad = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        return jax.jit(grad)(params, older, newer, mixture)

    got, want = values_and_gradients(ours), values_and_gradients(theirs)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * jnp.abs(b).max())


@pytest.mark.parametrize(
    ("place", "partial", "message"),
    [
        (NORMAL, 4, "2 channels of a normal cell cannot be .* multiple of 4"),
        (REDUCTION, 2, "2 channels of a reduction cell cannot be .* multiple of 4"),
        (NORMAL, 0, "partial must be at least 1, got 0"),
        (NORMAL, -2, "partial must be at least 1, got -2"),
    ],
)
def test_channels_that_cannot_be_split_are_refused(place, partial, message):
    cell = MixedCell(SPACE, place, partial=partial)
    x = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(InputError, match=message) as error:
        cell.init(jax.random.key(0), x, x, Mixture(jnp.zeros((5, 8))), True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("features", "partial"), [(3, 1), (3, 3), (4, 4)])
def test_a_normal_cell_may_have_an_odd_number_of_mixed_channels(features, partial):
    cell = MixedCell(SPACE, CellPlace("normal", features, False), partial=partial)
    x, mixture = jnp.zeros((1, 4, 4, 3)), Mixture(jnp.zeros((5, 8)))
    y, _ = jax.eval_shape(
        lambda key: cell.init_with_output(key, x, x, mixture, True), jax.random.key(0)
    )
    assert y.shape == (1, 4, 4, 2 * features)


def test_weights_are_drawn_by_the_number_of_inputs_of_one_output():
    def number(fan_in):
        return lambda key, shape, dtype=float: jnp.full(shape, fan_in, dtype)

    cell = MixedCell(SPACE, CellPlace("reduction", 8, True), partial=2, draw=number)
    older, newer = jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 4, 5))
    mixture = Mixture(jnp.ones((5, 8)), skip=jnp.array(1.0))
    params = jax.jit(lambda key: cell.init(key, older, newer, mixture, True)["params"])(
        jax.random.key(0)
    )
    found = jax.tree.map(lambda leaf: set(np.unique(leaf)), params)
    assert found.pop("inputs") == {
        "older": {"kernel": {3}},
        "newer": {"Conv_0": {"kernel": {5}}},
    }
    assert found.pop("skip_connect") == found.pop("auxiliary_skip") == {4}
    assert found == {
        f"{op}_{kind}": {4 if kind == "pointwise" else int(op[-1]) ** 2}
        for op in SPACE.ops[4:]
        for kind in ("depthwise", "pointwise")
    }


def test_skip_dropout_is_unbiased_and_drops_the_candidate_of_each_edge_alone():
    edges = OutgoingEdges(stride=1, num_targets=2)
    ones = jnp.ones(2)
    branches = {op: Branch((0, 1), ones) for op in ("skip_connect", "auxiliary_skip")}
    x = jnp.ones((4, 16, 16, 8))

    def leave(x, dropout):
        return edges.apply({}, x, {}, branches, dropout, train=True)

    dropout = SkipDropout(jnp.array(0.25), jax.random.key(0))

    # The auxiliary skip, no candidate, always adds its 1.
    first, second = (np.asarray(y) - 1 for y in leave(x, dropout))
    assert set(np.unique(np.round(first, 5))) == {0, np.float32(np.round(4 / 3, 5))}
    for y in (first, second):
        np.testing.assert_allclose(y.mean((1, 2, 3)), 1, atol=4 / 3 * 0.05)
    masks = np.stack([first[0], first[1], second[0]]).reshape(3, -1)
    assert np.abs(np.corrcoef(masks) - np.eye(3)).max() < 0.1
    np.testing.assert_array_equal(leave(x, None)[0], 2)
