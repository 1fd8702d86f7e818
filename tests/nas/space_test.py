import jax
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.space import (
    DARTS_OPS,
    CellPlace,
    CellSpace,
    cell_places,
    reduction_positions,
)

SKIP = ("skip_connect",)
TWO = (("none", "skip_connect"), ("max_pool_3x3", "sep_conv_3x3"))


def test_edges_go_target_by_target():
    space = CellSpace(num_nodes=2)
    assert space.edges == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert space.outgoing(1) == (1, 3)
    assert space.incoming(3) == (2, 3, 4)
    assert CellSpace().num_edges == 14


def test_lists_are_taken_for_tuples():
    lists = CellSpace(list(DARTS_OPS), 1, *[[list(ops) for ops in TWO]] * 2)
    tuples = CellSpace(DARTS_OPS, 1, TWO, TWO)
    assert lists == tuples
    assert hash(lists) == hash(tuples)


def test_init_alphas_are_small_and_differ_between_kinds():
    alphas = CellSpace().init_alphas(jax.random.key(0))
    assert {kind: a.shape for kind, a in alphas.items()} == {
        "normal": (14, 8),
        "reduction": (14, 8),
    }
    assert 0.8e-3 < np.std(alphas["normal"]) < 1.2e-3
    assert np.abs(alphas["normal"] - alphas["reduction"]).max() > 0
    space = CellSpace(edge_normalization=True)
    alphas = space.init_alphas(jax.random.key(0), scale=0.1)
    assert {name: leaf.shape for name, leaf in alphas.items()} == space.alpha_shapes()
    for leaf in alphas.values():
        assert 0.05 < np.std(leaf) < 0.15
    # Of two arrays drawn with one key, the shorter would begin the longer.
    drawn = np.concatenate([np.ravel(leaf) for leaf in alphas.values()])
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        ({"ops": ("none", "conv_9x9")}, "unknown operation 'conv_9x9'"),
        ({"ops": ("skip_connect", "skip_connect")}, "must not repeat"),
        ({"ops": ("none",)}, "one that is not 'none'"),
        ({"ops": ()}, "one that is not 'none'"),
        ({"normal": TWO}, "give candidates for both cells"),
        ({"normal": TWO, "reduction": TWO[:1]}, "reduction must .* for 2 edges, got 1"),
        (
            {"normal": TWO, "reduction": (TWO[0], TWO[1][::-1])},
            r"reduction\[1\] .* order",
        ),
        ({"normal": (("none",), SKIP), "reduction": TWO}, r"normal\[0\] .* alone, got"),
        ({"normal": (SKIP, TWO[0]), "reduction": TWO}, r"normal\[1\] must have 1 cand"),
        ({"normal": TWO, "reduction": (TWO[0], SKIP)}, r"reduction\[1\] must have 2 "),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(InputError, match=message) as error:
        CellSpace(**{"num_nodes": 1, **fields})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("num_cells", "positions"),
    [(1, {0}), (3, {1, 2}), (5, {1, 3}), (8, {2, 5}), (17, {5, 11}), (20, {6, 13})],
)
def test_reduction_positions(num_cells, positions):
    assert reduction_positions(num_cells) == positions


def test_cell_places_double_the_channels_at_each_reduction():
    assert cell_places(4, 16) == [
        CellPlace("normal", 16, reduced_before=False),
        CellPlace("reduction", 32, reduced_before=False),
        CellPlace("reduction", 64, reduced_before=True),
        CellPlace("normal", 64, reduced_before=True),
    ]
    assert [p.features for p in cell_places(1, 8)] == [16]
    with pytest.raises(InputError, match="num_cells"):
        cell_places(0, 16)
    with pytest.raises(InputError, match="channels"):
        cell_places(4, 0)


def test_only_the_inputs_of_a_reduction_cell_are_strided():
    normal, reduction = cell_places(3, 4)[:2]
    assert [normal.stride_from(s) for s in range(4)] == [1, 1, 1, 1]
    assert [reduction.stride_from(s) for s in range(4)] == [2, 2, 1, 1]


def test_the_operations_are_in_the_order_of_darts():
    assert DARTS_OPS.index("none") == 0
    assert DARTS_OPS.index("skip_connect") == 3
    assert DARTS_OPS[4:] == (
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
