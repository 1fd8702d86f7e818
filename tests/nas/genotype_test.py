import json

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.derive import derive_genotype, random_genotype
from skillearn_jax.nas.genotype import Genotype
from skillearn_jax.nas.known import KNOWN_GENOTYPES
from skillearn_jax.nas.space import CellSpace

OPS = ("none", "skip_connect", "sep_conv_3x3")
CELL = (("skip_connect", 0), ("sep_conv_3x3", 1))


def test_derivation_follows_a_hand_made_example():
    space = CellSpace(ops=OPS, num_nodes=2)
    # Rows: edges 0->2, 1->2, 0->3, 1->3, 2->3. Columns: none, skip, sep.
    normal = np.log(
        [
            [0.8, 0.05, 0.15],
            [0.1, 0.50, 0.40],
            [0.2, 0.45, 0.35],
            [0.9, 0.06, 0.04],  # the largest weight of all, but of none
            [0.3, 0.10, 0.60],
        ]
    )
    # Softmax does not see a constant; edges tie, and the lower index comes first.
    reduction = np.zeros((5, 3)) + np.arange(5)[:, None]
    genotype = derive_genotype({"normal": normal, "reduction": reduction}, space)
    assert genotype.normal == (
        ("skip_connect", 1),
        ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 2),
        ("skip_connect", 0),
    )
    assert genotype.reduction == (
        ("skip_connect", 0),
        ("skip_connect", 1),
        ("skip_connect", 0),
        ("skip_connect", 1),
    )
    assert genotype.normal_concat == (2, 3)


def test_none_is_never_derived_but_weighs_in_the_ranking():
    space = CellSpace(num_nodes=1)
    alphas = np.zeros((2, 8))
    alphas[0, 0], alphas[0, 5] = 9.0, 2.0  # larger logit, smaller weight
    alphas[1, 4] = 1.0
    genotype = derive_genotype({"normal": alphas, "reduction": alphas}, space)
    assert genotype.normal == (("sep_conv_3x3", 1), ("sep_conv_5x5", 0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, r"alphas\['normal'\] must have shape \(2, 8\), got nothing"),
        ({"normal": np.zeros((2, 3))}, r"must have shape \(2, 8\), got \(2, 3\)"),
        (
            dict.fromkeys(("normal", "reduction"), np.full((2, 8), np.nan)),
            r"alphas\['normal'\] must be finite",
        ),
    ],
)
def test_logits_that_do_not_fit_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        derive_genotype(bad, CellSpace(num_nodes=1))


@pytest.mark.parametrize("num_nodes", [1, 4])
def test_random_genotypes_are_valid_and_use_every_operation(num_nodes):
    space = CellSpace(num_nodes=num_nodes)
    rng = np.random.default_rng(0)
    genotypes = [random_genotype(rng, space) for _ in range(50)]
    for genotype in genotypes:
        sources = [source for _, source in genotype.normal]
        assert genotype.num_nodes == num_nodes
        assert all(a != b for a, b in zip(sources[::2], sources[1::2], strict=True))
        assert Genotype.from_json(genotype.to_json()) == genotype
    assert {op for g in genotypes for op, _ in g.reduction} == set(space.ops) - {"none"}
    assert random_genotype(np.random.default_rng(0), space) == genotypes[0]


@pytest.mark.parametrize("name", KNOWN_GENOTYPES)
def test_round_trips(name):
    genotype = KNOWN_GENOTYPES[name]
    assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
    assert Genotype.from_text(genotype.to_text()) == genotype
    assert hash(Genotype.from_text(genotype.to_text())) == hash(genotype)


def test_a_concat_with_gaps_is_kept():
    cell = CELL + (("skip_connect", 2), ("skip_connect", 0)) * 2
    genotype = Genotype(cell, cell, normal_concat=(2, 4), reduction_concat=[3, 4])
    text = genotype.to_text()
    assert "normal_concat=[2, 4], " in text
    assert "reduce_concat=range(3, 5))" in text
    assert Genotype.from_text(text) == genotype


def test_text_of_darts_v2():
    assert KNOWN_GENOTYPES["DARTS_V2"].to_text() == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), "
        "('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=range(2, 6), "
        "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), "
        "('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normal": ()}, "normal must list two edges per node"),
        ({"normal": CELL[:1]}, "normal must list two edges per node"),
        ({"normal": "skip"}, "normal must list two edges per node"),
        ({"normal": CELL + CELL}, "as many edges, got 4 and 2"),
        ({"normal": (("none", 0), CELL[1])}, r"normal\[0\]: 'none' is none of"),
        ({"reduction": (CELL[0], ("conv", 1))}, r"reduction\[1\]: 'conv' is none of"),
        ({"normal": (CELL[0], (["skip"], 1))}, r"normal\[1\]: \['skip'\] is none of"),
        ({"normal": (CELL[0], "ab")}, r"normal\[1\] must be \(operation, source\)"),
        ({"normal": (CELL[0], ("skip_connect", 2))}, r"from 0 to 1, got 2"),
        ({"normal": (CELL[0], ("skip_connect", -1))}, r"from 0 to 1, got -1"),
        ({"normal": (CELL[0], ("skip_connect", True))}, r"from 0 to 1, got True"),
        ({"normal": (CELL[0], ("skip_connect", 1.0))}, r"from 0 to 1, got 1\.0"),
        ({"normal_concat": (3,)}, "normal_concat must hold distinct states"),
        ({"normal_concat": (2, 2)}, "normal_concat must hold distinct states"),
        ({"reduction_concat": 2}, "reduction_concat must hold distinct states"),
    ],
)
def test_what_is_no_cell_is_refused_with_its_place(fields, message):
    with pytest.raises(InputError, match=message) as error:
        Genotype(**({"normal": CELL, "reduction": CELL} | fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"normal": CELL}, {"normal": CELL, "reduction": CELL, "x": 1}],
)
def test_json_with_other_keys_is_refused(data):
    with pytest.raises(InputError, match="a genotype has the keys"):
        Genotype.from_json(data)
