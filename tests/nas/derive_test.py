"""The rules that the papers add to DARTS's own, which genotype_test holds."""

import collections
import itertools

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.derive import (
    count_skips,
    derive_genotype,
    drop_candidates,
    random_genotype,
    rank_operations,
)
from skillearn_jax.nas.space import CellSpace

OPS = ("none", "skip_connect", "sep_conv_3x3")


def logits(*rows):
    return np.log(np.array(rows, float))


def test_edge_weights_decide_which_edges_stay():
    space = CellSpace(ops=OPS, num_nodes=2, edge_normalization=True)
    ops = logits(*[[0.1, 0.5, 0.4]] * 4, [0.1, 0.2, 0.7])
    alphas = {"normal": ops, "reduction": ops}
    # Edges 0->2, 1->2, then 0->3, 1->3, 2->3. Without betas, 2->3 would come first.
    betas = logits(*[[0.4], [0.6], [0.45], [0.50], [0.05]])[:, 0]
    alphas |= {"normal_edges": betas, "reduction_edges": np.zeros(5)}
    genotype = derive_genotype(alphas, space)
    skip, sep = "skip_connect", "sep_conv_3x3"
    assert genotype.normal == ((skip, 1), (skip, 0), (skip, 1), (skip, 0))
    assert genotype.reduction == ((skip, 0), (skip, 1), (sep, 2), (skip, 0))
    # A softmax over the edges of one node: a constant on them changes nothing.
    alphas["normal_edges"] = betas + np.array([3, 3, -2, -2, -2])
    assert derive_genotype(alphas, space) == genotype


def test_the_strongest_skips_stay_and_the_cell_is_derived_anew():
    space = CellSpace(ops=OPS, num_nodes=2)
    alphas = logits(
        [0.1, 0.80, 0.10],  # 0->2: a strong skip
        [0.1, 0.60, 0.30],  # 1->2: a weaker one
        [0.1, 0.50, 0.40],  # 0->3: the weakest; as a convolution it still stays
        [0.2, 0.10, 0.70],  # 1->3
        [0.6, 0.05, 0.35],  # 2->3
    )
    both = {"normal": alphas, "reduction": alphas}
    assert count_skips(derive_genotype(both, space)) == {"normal": 3, "reduction": 3}
    limited = derive_genotype(both, space, max_skips=1)
    skip, sep = "skip_connect", "sep_conv_3x3"
    assert limited.normal == ((skip, 0), (sep, 1), (sep, 1), (sep, 0))
    assert limited.reduction == derive_genotype(both, space).reduction
    assert count_skips(derive_genotype(both, space, max_skips=0))["normal"] == 0
    with pytest.raises(InputError, match="max_skips must be at least 0, got -1"):
        derive_genotype(both, space, max_skips=-1)


def test_of_skips_that_are_equally_weak_the_first_goes():
    """As in the code of P-DARTS, which takes the first of the smallest."""
    space = CellSpace(ops=OPS, num_nodes=1)
    alphas = dict.fromkeys(("normal", "reduction"), logits(*[[0.1, 0.6, 0.3]] * 2))
    genotype = derive_genotype(alphas, space, max_skips=1)
    assert genotype.normal == (("skip_connect", 1), ("sep_conv_3x3", 0))


@pytest.mark.parametrize(
    ("ops", "limit"), [(("skip_connect",), 1), (("none", "skip_connect"), 3)]
)
def test_a_limit_that_no_cell_can_keep_is_refused(ops, limit):
    space = CellSpace(ops=ops, num_nodes=2)
    alphas = {kind: np.zeros((5, len(ops))) for kind in ("normal", "reduction")}
    with pytest.raises(InputError, match=f"no normal cell with {limit} skip") as error:
        derive_genotype(alphas, space, max_skips=limit)
    assert "\n" not in str(error.value)
    assert derive_genotype(alphas, space, max_skips=4).num_nodes == 2


def test_a_node_with_no_other_candidates_keeps_its_skips():
    space = CellSpace(
        ops=OPS,
        num_nodes=2,
        normal=(*[("none", "sep_conv_3x3")] * 2, *[("none", "skip_connect")] * 3),
        reduction=(("none", "sep_conv_3x3"),) * 5,
    )
    alphas = dict.fromkeys(("normal", "reduction"), np.zeros((5, 2)))
    # Node 3 has skips only: with none of them left it has no operation at all.
    with pytest.raises(InputError, match="no normal cell with 1 skip"):
        derive_genotype(alphas, space, max_skips=1)
    assert count_skips(derive_genotype(alphas, space, max_skips=2))["normal"] == 2


def test_a_skip_whose_rivals_have_no_weight_at_all_can_still_be_taken_away():
    space = CellSpace(ops=("skip_connect", "sep_conv_3x3"), num_nodes=1)
    alphas = dict.fromkeys(("normal", "reduction"), np.array([[2000.0, 0.0]] * 2))
    genotype = derive_genotype(alphas, space, max_skips=0)
    assert genotype.normal == (("sep_conv_3x3", 0), ("sep_conv_3x3", 1))


def test_large_edge_logits_do_not_overflow():
    space = CellSpace(ops=OPS, num_nodes=2, edge_normalization=True)
    alphas = dict.fromkeys(("normal", "reduction"), np.zeros((5, 3)))
    alphas["normal_edges"] = np.array([0.0, 1.0, -900.0, 800.0, 900.0])
    alphas["reduction_edges"] = -alphas["normal_edges"]
    genotype = derive_genotype(alphas, space)
    assert [source for _, source in genotype.normal] == [1, 0, 2, 1]
    assert [source for _, source in genotype.reduction] == [0, 1, 0, 1]


def test_candidates_drop_edge_by_edge_and_none_never_stays_alone():
    space = CellSpace(ops=OPS, num_nodes=1)
    alphas = {
        "normal": logits([0.5, 0.2, 0.3], [0.1, 0.2, 0.7]),
        "reduction": logits([0.5, 0.3, 0.2], [0.6, 0.3, 0.1]),
    }
    two = drop_candidates(alphas, space, keep=2)
    assert two.normal == (("none", "sep_conv_3x3"), ("skip_connect", "sep_conv_3x3"))
    assert two.reduction == (("none", "skip_connect"),) * 2
    assert two.alpha_shapes() == {"normal": (2, 2), "reduction": (2, 2)}
    one = drop_candidates(
        {"normal": np.zeros((2, 2)), "reduction": np.array([[9.0, 0.0]] * 2)}, two, 1
    )
    assert one.normal == (("sep_conv_3x3",), ("skip_connect",))
    assert one.reduction == (("skip_connect",),) * 2
    genotype = derive_genotype({k: np.zeros((2, 1)) for k in alphas}, one)
    assert genotype.normal == (("sep_conv_3x3", 0), ("skip_connect", 1))
    with pytest.raises(InputError, match="keep must be from 1 to 2"):
        drop_candidates({k: np.zeros((2, 2)) for k in alphas}, two, 3)


def test_random_cells_hold_candidates_only():
    rng = np.random.default_rng(0)
    space = CellSpace(
        ops=OPS,
        num_nodes=1,
        normal=(("none", "sep_conv_3x3"), ("skip_connect", "sep_conv_3x3")),
        reduction=(("none", "skip_connect"),) * 2,
    )
    cells = [random_genotype(rng, space) for _ in range(50)]
    assert {op for cell in cells for op, source in cell.normal if source == 0} == {
        "sep_conv_3x3"
    }
    assert {op for cell in cells for op, source in cell.normal if source == 1} == {
        "skip_connect",
        "sep_conv_3x3",
    }
    assert {op for cell in cells for op, _ in cell.reduction} == {"skip_connect"}


def test_random_cells_are_drawn_from_all_of_them_alike():
    """Pairs of sources and operations of three nodes, in 600 cells, within 5 deviations."""
    rng, space = np.random.default_rng(0), CellSpace(ops=OPS, num_nodes=3)
    counts = collections.Counter()
    for _ in range(300):
        cell = random_genotype(rng, space)
        for edges in (cell.normal, cell.reduction):
            for node in range(3):
                pair = edges[2 * node : 2 * node + 2]
                counts[node, frozenset(source for _, source in pair)] += 1
            counts.update(op for op, _ in edges)
    for node in range(3):
        pairs = list(itertools.combinations(range(2 + node), 2))
        share = 1 / len(pairs)
        for pair in pairs:
            near = 5 * (600 * share * (1 - share)) ** 0.5
            assert abs(counts[node, frozenset(pair)] - 600 * share) <= near
    for op in OPS[1:]:
        assert abs(counts[op] - 1800) < 5 * 900**0.5


def test_the_ranking_holds_operations_with_parameters():
    space = CellSpace(ops=("skip_connect", "sep_conv_3x3", "dil_conv_3x3"), num_nodes=1)
    alphas = np.array([[9.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    ranks = rank_operations({"normal": alphas, "reduction": alphas}, space)
    assert ranks["normal"] == (
        ("dil_conv_3x3", "sep_conv_3x3"),
        ("sep_conv_3x3", "dil_conv_3x3"),
    )
    alphas[:] = 0  # of equal ones, that of the lower index is the better
    ranks = rank_operations({"normal": alphas, "reduction": alphas}, space)
    assert ranks["normal"] == (("sep_conv_3x3", "dil_conv_3x3"),) * 2
