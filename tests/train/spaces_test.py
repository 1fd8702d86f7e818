"""Runs in the space of NAS-Bench-201: the same phases, other cells, a table beside."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES, OPS, Architecture
from skillearn_jax.nas.nasbench201.draw import architecture_svg
from skillearn_jax.nas.nasbench201.table import DATASETS
from skillearn_jax.nas.schedules import Stability
from skillearn_jax.train import run
from skillearn_jax.train.benchmark import describe, load_benchmark
from skillearn_jax.train.checks import check
from skillearn_jax.train.spaces import kind_of_cells, read_cells, space_kind
from skillearn_jax.train.stages import SearchStage

pytestmark = pytest.mark.usefixtures("quick_module")

BENCH = {
    "space.name": "nasbench201",
    "evaluation.drop_path": 0.0,
    "search.warmup_epochs": 0,
    "evaluation.num_seeds": 1,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table whose CIFAR-10 columns tell the number of a cell."""
    columns = [
        f"{name}_{split}" for name in DATASETS.values() for split in ("val", "test")
    ]
    lines = [",".join(["arch_str", *columns])]
    for i in range(NUM_ARCHITECTURES):
        text = Architecture.from_index(i).to_text()
        lines.append(f"{text},{i / 200:.3f},{99 - i / 200:.3f},1,1,1,1")
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_run_reports_what_the_table_knows(tiny_baseline, table, tmp_path, read_rows):
    config = tiny_baseline({**BENCH, "benchmark.table": table, "evaluation.epochs": 0})
    result = run(config, tmp_path / "run", quiet=True)
    cell = result.genotype
    assert isinstance(cell, Architecture)
    noted = json.loads((tmp_path / "run" / "genotype.json").read_text())
    assert read_cells(noted) == cell
    found = result.summary["benchmark"]
    assert found["benchmark/val_accuracy"] == pytest.approx(cell.index / 200, abs=1e-3)
    assert found["benchmark/val_rank"] == NUM_ARCHITECTURES - cell.index
    assert found["benchmark/test_rank"] == 1 + cell.index
    ends = [row for row in read_rows(tmp_path / "run") if "benchmark/val_rank" in row]
    assert len(ends) == config.search.epochs
    assert ends[-1].items() >= {k: v for k, v in found.items() if "/" in k}.items()
    assert ends[-1]["alphas/skips/cell"] == cell.ops.count("skip_connect")
    page = result.report.read_text()
    assert "tabulated test accuracy" in page
    assert cell.to_text() in page
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "benchmark table" in record["data"]  # so that it goes on with no other


@pytest.mark.parametrize(
    ("changes", "dataset"),
    [
        ({}, "cifar10"),
        ({"data.name": "cifar100"}, "cifar100"),
        ({"data.name": "tfds:cifar100"}, "cifar100"),
        ({"data.name": "cifar100", "benchmark.dataset": "imagenet16"}, "imagenet16"),
        ({"skill": "joint", "tasks": ("cifar100", "cifar10")}, "cifar10"),
    ],
)
def test_the_table_is_asked_for_the_data_set_of_the_run(
    changes, dataset, tiny_baseline, table
):
    config = tiny_baseline({**BENCH, "benchmark.table": table, **changes})
    assert load_benchmark(config).dataset == dataset


def test_the_sentence_on_a_table_has_every_figure_in_its_place():
    found = {"val_accuracy": 91.234, "val_rank": 1234.0}
    found |= {"test_accuracy": 94.37, "test_rank": 1.0}
    named = {f"benchmark/{name}": value for name, value in found.items()}
    assert describe(named, "cifar100") == (
        "table, cifar100: validation 91.23 % (rank 1,234), test 94.37 % (rank 1 of "
        "15,625)"
    )


@pytest.mark.long
def test_derived_and_random_cells_are_trained_alike(tiny_baseline, tmp_path):
    result = run(tiny_baseline(BENCH), tmp_path / "run", quiet=True)
    rows = result.summary["evaluation"]["rows"]
    assert [row["name"] for row in rows] == ["derived", "random 1"]
    assert all(isinstance(read_cells(row["genotype"]), Architecture) for row in rows)
    assert all(row["params"] > 0 for row in rows)


@pytest.mark.long
def test_a_tester_searches_it_too(tiny, tmp_path):
    first_order = {"hypergrad.adjoint": "first_order", "search.epochs": 1}
    config = tiny({**BENCH, **first_order, "evaluation.epochs": 0})
    assert isinstance(run(config, tmp_path / "run", quiet=True).genotype, Architecture)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search.partial": 2},
            "config.search.partial is 2; .* --config.search.partial=1",
        ),
        ({"search.max_skips": 2}, "config.search.max_skips is 2"),
        ({"evaluation.drop_path": 0.2}, "config.evaluation.drop_path is 0.2"),
        ({"search.auxiliary_skip": "linear"}, "config.search.auxiliary_skip"),
        (
            {"benchmark.table": "nowhere.csv"},
            "the table nowhere.csv cannot .*: set --config.benchmark.table$",
        ),
        ({"space.name": "darts", "benchmark.table": "a.csv"}, "config.benchmark.table"),
    ],
)
def test_keys_of_the_other_space_are_refused(changes, message, tiny_baseline):
    config = tiny_baseline({**BENCH, **changes})
    with pytest.raises(InputError, match=message) as error:
        check(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"search.partial": 2},
        {"search.initialization": "flax"},
        {"search.stem": "imagenet"},
        {"space.edge_normalization": True},
        {
            "search.stage_cells": (1,),
            "search.stage_candidates": (4,),
            "search.stage_skip_dropout": (0.0,),
        },
        {"evaluation.stem": "imagenet"},
        {"evaluation.auxiliary_weight": 0.4},
    ],
)
def test_no_key_of_the_other_space_is_ignored(changes, tiny_baseline):
    key, *_ = changes
    with pytest.raises(InputError, match=f"^config.{key} is .*the space nasbench201"):
        check(tiny_baseline({**BENCH, **changes}))
    if key.startswith("evaluation."):  # which there is none of
        check(tiny_baseline({**BENCH, **changes, "evaluation.epochs": 0}))


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (9, 9)])
def test_images_are_halved_twice_in_nasbench201(shape, tiny_baseline):
    kind = space_kind(tiny_baseline(BENCH))
    kind.check_images(SimpleNamespace(name="own", image_shape=(8, 12, 3)))
    height, width = shape
    with pytest.raises(
        InputError,
        match=f"own have {height}x{width} .* multiples of 4: set --config.data.image_size",
    ):
        kind.check_images(SimpleNamespace(name="own", image_shape=(*shape, 3)))


SIZES = {
    "search.cells": 4,
    "search.channels": 6,
    "evaluation.cells": 3,
    "evaluation.channels": 8,
}


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_a_search_and_its_evaluation_have_sizes_of_their_own(name, tiny_baseline):
    config = tiny_baseline({**SIZES, "space.name": name, "search.remat": True})
    kind, space = space_kind(config), config.space.build()
    stage = SearchStage(0, space, cells=5)
    supernet = kind.supernet(config, stage, 7, None)
    sizes = (supernet.num_cells, supernet.channels, supernet.num_classes)
    assert (sizes, supernet.remat) == ((5, 6, 7), True)
    cells = kind.random(np.random.default_rng(0), space)
    network = kind.network(cells, config, 7, None, auxiliary=False)
    sizes = (network.num_cells, network.channels, network.num_classes)
    assert sizes == (3, 8, 7)


def test_the_keys_of_a_method_are_those_of_the_supernet(tiny_baseline):
    changes = {
        "search.partial": 2,
        "search.auxiliary_skip": "linear",
        "search.initialization": "flax",
        "search.stem": "imagenet",
        "evaluation.stem": "cifar",
    }
    for config in (tiny_baseline({**SIZES, **changes}), tiny_baseline(SIZES)):
        stage = SearchStage(0, config.space.build(), cells=1)
        net = space_kind(config).supernet(config, stage, 10, None)
        search = config.search
        assert (net.partial, net.initialization) == (
            search.partial,
            search.initialization,
        )
        assert (net.stem, net.remat) == (search.stem, False)
        assert net.auxiliary_skip is (search.auxiliary_skip != "off")


def test_what_is_watched_is_told_by_the_kind_of_cell(tiny_baseline):
    """Nothing is preferred in the reduction cell: ln 4 nats; in the normal one skips."""
    config = tiny_baseline()  # one node, two edges, four operations
    alphas = {
        "normal": np.log([[1.0, 1.0, 7.0, 1.0], [2.0, 1.0, 4.0, 1.0]]),
        "reduction": np.zeros((2, 4)),
    }
    seen = space_kind(config).watch(alphas, config.space.build())
    shares = np.array([[0.1, 0.1, 0.7, 0.1], [0.25, 0.125, 0.5, 0.125]])
    entropy = -np.sum(shares * np.log(shares), axis=1).mean()
    assert seen == {
        "alphas/entropy/normal": pytest.approx(entropy, rel=1e-12),
        "alphas/entropy/reduction": pytest.approx(np.log(4), rel=1e-12),
        "alphas/skips/normal": 2.0,
        "alphas/skips/reduction": 0.0,
    }


def test_skips_are_counted_before_any_are_taken_away(tiny_baseline):
    """Five edges prefer them: a limit would hide that from the rule that stops."""
    config = tiny_baseline({"space.num_nodes": 2})
    skip = config.space.ops.index("skip_connect")
    alphas = dict.fromkeys(("normal", "reduction"), np.tile(np.eye(4)[skip], (5, 1)))
    seen = space_kind(config).watch(alphas, config.space.build())
    assert seen["alphas/skips/normal"] == seen["alphas/skips/reduction"] == 4


def test_none_is_left_out_on_demand(tiny_baseline):
    alphas = {"cell": np.eye(6, 5) + 2 * np.eye(1, 5)}  # `none` leads on every edge
    for allow_none in (True, False):
        config = tiny_baseline({**BENCH, "space.allow_none": allow_none})
        cell = space_kind(config).derive(alphas, config.space.build(), -1)
        assert ("none" in cell.ops) is allow_none


def test_the_ranking_of_convolutions_is_watched(tiny_baseline):
    config = tiny_baseline(BENCH)
    kind, space = space_kind(config), config.space.build()
    alphas = {"cell": np.tile([0.0, 0.0, 1.0, 2.0, 0.0], (6, 1))}
    ranks = kind.ranks(alphas, space)
    assert json.loads(json.dumps(ranks)) == ranks
    assert Stability().update(ranks).update(ranks).epochs == 1
    alphas["cell"][:, 1] = 9.0  # a skip has no parameters: it does not count
    assert kind.ranks(alphas, space) == ranks
    alphas["cell"][3, 2] = 3.0
    assert kind.ranks(alphas, space) != ranks
    alphas["cell"][:] = 0  # of equal ones, that of the lower index is the better
    assert kind.ranks(alphas, space) == [["nor_conv_1x1", "nor_conv_3x3"]] * 6


def test_a_drawing_shows_every_operation_but_none():
    cell = Architecture((OPS[3], OPS[0], OPS[1], OPS[2], OPS[4], OPS[0]))
    svg = architecture_svg(cell)
    assert svg.count('class="op ') == 4
    assert "nor conv 3×3" in svg
    assert list(kind_of_cells(cell).figures(cell)) == ["cell"]
