"""The evaluation: no claim without evidence."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from skillearn_jax.data import load
from skillearn_jax.nas import (
    KNOWN_GENOTYPES,
    Network,
    count_macs,
    count_params,
    random_genotype,
)
from skillearn_jax.parallel import Devices
from skillearn_jax.train.evaluate import _contestants, _summarize
from skillearn_jax.train.evaluation_data import training_batches
from skillearn_jax.train.evaluation_training import Training
from skillearn_jax.train.search_streams import search_streams


def test_sizes_are_those_of_the_network_as_deployed(tiny):
    """Without the auxiliary head, which is for training."""
    config = tiny({"evaluation.auxiliary_weight": 0.4, "evaluation.cells": 3})
    data = SimpleNamespace(num_classes=10, image_shape=(32, 32, 3))
    batches = SimpleNamespace(steps_per_epoch=2)
    cells = KNOWN_GENOTYPES["DARTS_V2"]
    row = Training(config, data, cells, batches, Devices(1)).describe("derived", [3.0])
    channels = config.evaluation.channels
    network = Network(cells, num_cells=3, channels=channels, num_classes=10)
    assert row["macs"] == count_macs(network, data.image_shape)
    assert row["params"] == count_params(network, data.image_shape)
    assert (row["mean"], row["std"]) == (3.0, None)


def test_random_cells_are_of_the_same_space_and_of_the_runs_seed(tiny):
    config = tiny({"evaluation.num_random": 4, "space.num_nodes": 2})
    rng = np.random.default_rng(0)
    data = SimpleNamespace(num_classes=10, image_shape=(8, 8, 1))
    cells = _contestants(config, data, random_genotype(rng, space_of(config)))
    assert list(cells) == ["derived", *(f"random {i}" for i in range(1, 5))]
    assert len({str(genotype) for genotype in cells.values()}) == 5
    for genotype in cells.values():
        ops = {op for op, _ in (*genotype.normal, *genotype.reduction)}
        assert ops <= set(config.space.ops) - {"none"}
        assert len(genotype.normal) == len(cells["derived"].normal)
    again = _contestants(config, data, cells["derived"])
    assert again == cells
    other = _contestants(
        tiny({"evaluation.num_random": 4, "space.num_nodes": 2, "seed": 3}),
        data,
        cells["derived"],
    )
    assert other != cells


def space_of(config):
    from skillearn_jax.nas import CellSpace

    return CellSpace(ops=config.space.ops, num_nodes=config.space.num_nodes)


def row(name, errors):
    return {"name": name, "errors": errors, "mean": float(np.mean(errors))}


def test_random_cells_are_summed_up_over_cells_and_seeds(tiny):
    rows = [row("derived", [1.0, 2.0]), row("a", [3.0, 5.0]), row("b", [4.0, 8.0])]
    summary = _summarize(tiny(), rows)
    assert summary["rows"] == rows
    assert summary["random"] == {
        "mean": 5.0,
        "std": pytest.approx(np.std([3, 5, 4, 8], ddof=1)),
        "count": 2,
    }
    assert "3.50 points below" in summary["verdict"]


def test_rivals_with_the_derived_cells_are_said_to_have_them(tiny):
    """Their training is the same one: nothing is to be learned from equal errors."""
    config = tiny({"evaluation.rivals": ("a", "b")})
    cells = [{"genotype": cell} for cell in ("x", "x", "y")]
    rows = [row(name, [1.0]) | cells.pop(0) for name in ("derived", "a", "b")]
    same, other = _summarize(config, rows)["comparisons"].values()
    assert same == "The cells of a are the derived ones."
    assert "equals that of the cells of b" in other


def test_without_random_cells_nothing_is_compared(tiny):
    summary = _summarize(tiny(), [row("derived", [1.0])])
    assert "random" not in summary
    assert "verdict" not in summary
    single = _summarize(tiny(), [row("derived", [1.0]), row("a", [2.0])])
    assert single["random"]["std"] is None


def test_the_cutout_of_the_evaluation_is_its_own(tiny):
    config = tiny({"data.cutout": 2, "evaluation.cutout": 3, "data.flip": True})
    data = load("digits")
    trained = training_batches(config, data).stream.augmentation
    searched = search_streams(config, data)["train"].augmentation
    assert (trained.cutout, searched.cutout) == (3, 2)
    assert dataclasses.replace(trained, cutout=2) == searched
