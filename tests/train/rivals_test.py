"""The random cells that are trained beside the derived one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas import CellSpace, count_params, num_params, random_genotype
from skillearn_jax.train import rivals
from skillearn_jax.train.config import Config
from skillearn_jax.train.spaces import space_kind

SHAPE = (8, 8, 1)
OPS = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
DERIVED = random_genotype(np.random.default_rng(3), CellSpace(ops=OPS, num_nodes=2))


@pytest.fixture
def drawn(tiny):
    def draw(within, count=3, seed=0):
        config = tiny(
            {
                "seed": seed,
                "evaluation.num_random": count,
                "evaluation.random_params_within": within,
                "space.num_nodes": 2,
                "evaluation.cells": 3,
            }
        )
        return config, rivals.random_cells(config, DERIVED, 10, SHAPE)

    return draw


def size(config: Config, cells):
    network = space_kind(config).network(cells, config, 10, None, auxiliary=False)
    return count_params(network, SHAPE)


def test_random_cells_of_the_derived_ones_size(drawn):
    config, cells = drawn(0.05)
    assert list(cells) == ["random 1", "random 2", "random 3"]
    wanted = size(config, DERIVED)
    assert all(abs(size(config, of) / wanted - 1) <= 0.05 for of in cells.values())
    _, again = drawn(0.05)
    assert again == cells
    # Not by luck: cells as they come differ by more.
    config, plain = drawn(0.0)
    assert any(abs(size(config, of) / wanted - 1) > 0.05 for of in plain.values())


@pytest.mark.parametrize(("size", "taken"), [(50, 1), (150, 1), (151, 2), (49, 2)])
def test_a_size_differs_by_a_share_of_the_derived_ones(size, taken, drawn, monkeypatch):
    """Of 100 parameters; the first cell that is drawn has others, the second as many."""
    sizes = iter([100, size, 100])
    monkeypatch.setattr(rivals, "count_params", lambda *network: next(sizes))
    drawn(0.5, count=1)
    assert len([*sizes]) == 2 - taken


def test_a_size_that_no_cell_has_is_refused_in_one_line(drawn, monkeypatch):
    monkeypatch.setattr(rivals, "_DRAWS", 2)
    with pytest.raises(
        InputError, match=r"--config\.evaluation\.random_params_within"
    ) as info:
        drawn(1e-9, count=20)
    assert "\n" not in str(info.value)


def test_the_count_is_that_of_the_initialised_network(tiny):
    config = tiny({"evaluation.channels": 2})
    network = space_kind(config).network(DERIVED, config, 10, None, auxiliary=False)
    variables = network.init(jax.random.key(0), jnp.zeros((2, *SHAPE)), train=False)
    assert count_params(network, SHAPE) == num_params(variables)


@pytest.fixture
def read(tiny, tmp_path):
    """`read("a", "b/../c")`: rivals of such folders, which all hold cells."""

    def read(*names):
        for name in names:
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            file = tmp_path / name / "genotype.json"
            file.write_text(json.dumps(DERIVED.to_json()))
        given = tuple(str(tmp_path / name) for name in names)
        return rivals.read_rivals(tiny({"evaluation.rivals": given}))

    return read


def test_rivals_have_the_names_of_their_folders(read):
    (named,) = read("first/sub/..")
    assert named == "first"
    assert list(read("a.1", "random_search", "a-1")) == ["a.1", "random_search", "a-1"]


@pytest.mark.parametrize(
    "names",
    [
        ("derived",),
        ("Derived",),
        ("random 1",),
        ("random_1",),
        ("a b", "a_b"),
        ("x/a", "y/a"),
        ("x/a", "y/z/../../x/a"),
    ],
)
def test_rivals_whose_networks_would_share_a_folder_are_refused(read, names):
    with pytest.raises(InputError, match=r"already: set --config\.eval") as caught:
        read(*names)
    assert "\n" not in str(caught.value)
