"""The evaluation: no claim without evidence."""

import contextlib
import copy
import dataclasses
import importlib
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import load
from skillearn_jax.errors import NonFiniteError
from skillearn_jax.framework import State
from skillearn_jax.layers import PerDevice
from skillearn_jax.nas import (
    KNOWN_GENOTYPES,
    Network,
    count_macs,
    count_params,
    random_genotype,
)
from skillearn_jax.parallel import AXIS_NAME, Devices
from skillearn_jax.train import evaluation_training
from skillearn_jax.train.evaluate import (
    _contestants,
    _means,
    _summarize,
    evaluate,
)
from skillearn_jax.train.evaluation_data import _deliver, training_batches
from skillearn_jax.train.evaluation_training import Training
from skillearn_jax.train.judge import Judgement
from skillearn_jax.train.records import TrainingRecords
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
    return {
        "name": name,
        "genotype": f"cells of {name}",
        "errors": errors,
        "mean": float(np.mean(errors)),
    }


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
    trains = training_batches(config, data).stream
    trained = trains.augmentation
    streams = search_streams(config, data)
    searched = streams["train"].augmentation
    for stream in streams.values():  # what validates is augmented too, and one bank
        assert stream.augmentation == searched
    for stream in (*streams.values(), trains):
        assert (stream.mean, stream.std) == (data.mean, data.std)
    assert (trained.cutout, searched.cutout) == (3, 2)
    assert dataclasses.replace(trained, cutout=2) == searched
    cropped = config.data.augmentation(3, crop=False)  # as those that are streamed
    assert cropped == dataclasses.replace(trained, padding=0) != trained


def test_rivals_are_compared_one_by_one_and_are_no_random_cells(tiny):
    config = tiny({"evaluation.rivals": ("/runs/x",)})
    rows = [row("derived", [1.0, 2.0]), row("x", [3.0, 5.0]), row("random 1", [9.0])]
    summary = _summarize(config, rows)
    assert summary["random"] == {"mean": 9.0, "std": None, "count": 1}
    assert "7.50 points below the random cells" in summary["verdict"]
    (text,) = summary["comparisons"].values()
    assert "2.50 points below that of the cells of x" in text


def test_measures_beside_the_error_are_means_over_seeds():
    one = {"top5_error": 3.0, "loss": 0.5, "calibration": 2.0, "error": 9.0}
    two = {"top5_error": None, "loss": 1.0, "calibration": 4.0, "error": 9.0}
    expected = {"top5_error": None, "loss": 0.75, "calibration": 3.0}
    assert _means([one, two]) == expected
    assert _means([one, one])["top5_error"] == 3.0
    assert set(_means([one, {}]).values()) == {None}
    assert set(_means([]).values()) == {None}


def test_every_training_of_every_run_reads_files_in_an_order_of_its_own():
    seeds, devices = [], Devices(1)

    def reread(seed):
        seeds.append(seed)
        return SimpleNamespace(deliveries=lambda step, place: iter([(step, place)]))

    data = SimpleNamespace(reread=reread)
    for run_seed, seed in itertools.product(range(3), range(3)):
        (first,) = _deliver(run_seed, data, seed, 5, devices)
        assert first == {"train": (5, devices.split)}
    assert len(set(seeds)) == 9
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_an_average_is_taken_of_updates(tiny, monkeypatch):
    seen = []

    def averaging(*how):
        seen.append(how)
        return print

    monkeypatch.setattr(evaluation_training, "averaging", averaging)
    config = tiny({"evaluation.average": 0.9, "evaluation.accumulate": 4})
    data = SimpleNamespace(num_classes=10, image_shape=(8, 8, 1))
    batches = SimpleNamespace(steps_per_epoch=2, stream=None)
    cells = KNOWN_GENOTYPES["DARTS_V2"]
    training = Training(config, data, cells, batches, Devices(1))
    assert seen == [(0.9, 4)]
    assert training._program.after is print


def test_a_training_notes_its_epochs_and_offers_every_step():
    """Two epochs of three steps, in calls of two and of one, after ten steps of others."""
    losses = [4.0, 2.0, 3.0, 8.0, 6.0, 1.0]
    rows, shown, offered = [], [], []
    training = object.__new__(Training)
    training._config = SimpleNamespace(epochs=2)
    training._batches = SimpleNamespace(steps_per_epoch=3, deliveries=lambda *of: None)
    training._devices = Devices(1)
    training._initial_state = lambda seed: State(
        {"weights": {}}, {}, {"network": {}}, jnp.int32(0), jax.random.key(seed)
    )
    training._judged = lambda variables: "the judgement"

    def steps(placed, count, deliveries):
        assert (count, deliveries) == (6, None)
        for part in ((0, 2), (2, 3), (3, 5), (5, 6)):
            of_calls = losses[slice(*part)]
            yield (
                placed,
                [{"network/loss": x, "network/error": 9 * x} for x in of_calls],
            )

    training._loop = SimpleNamespace(
        steps=steps, size=lambda step: 2 - step % 3 // 2, steps_per_epoch=3
    )

    def append_rows(added, name="metrics.jsonl"):
        if name == "metrics.jsonl":
            rows.extend(added)

    def offer(steps, state, note, *, offset, last):
        offered.append((list(steps), offset, last, copy.deepcopy(note())))

    records = TrainingRecords(
        "evaluate",
        SimpleNamespace(append_rows=append_rows),
        SimpleNamespace(offer=offer),
        lambda step, metrics, part: shown.append((step, metrics, part)),
        None,
    )
    found = training.run("derived", 1, records, 10)
    assert found == ("the judgement", {"params": {}, "batch_stats": {}})
    of_row = {"phase": "evaluate", "network": "derived", "seed": 1}
    assert rows == [
        {**of_row, "step": 3, "epoch": 0, "train_loss": 3.0, "train_error": 27.0},
        {**of_row, "step": 6, "epoch": 1, "train_loss": 5.0, "train_error": 45.0},
    ]
    assert shown == [
        (12, {"loss": 2.0}, "derived/1"),
        (13, {"loss": 3.0}, "derived/1"),
        (15, {"loss": 6.0}, "derived/1"),
        (16, {"loss": 1.0}, "derived/1"),
    ]
    note = {"network": "derived", "seed": 1}
    so_far = [[4.0, 2.0], [], [8.0, 6.0], []]
    assert offered == [
        (
            steps,
            10,
            steps == [6],
            {
                **note,
                "step": steps[-1],
                "values": {"loss": values, "error": [9 * x for x in values]},
            },
        )
        for steps, values in zip([[1, 2], [3], [4, 5], [6]], so_far, strict=True)
    ]


@pytest.mark.parametrize(
    ("norm", "axis"),
    [("synchronized", AXIS_NAME), ("per_device", PerDevice(AXIS_NAME))],
)
def test_a_training_has_the_statistics_of_the_config(tiny, norm, axis):
    config = tiny({"parallel.batch_norm": norm})
    data = SimpleNamespace(num_classes=10, image_shape=(8, 8, 1))
    batches = SimpleNamespace(steps_per_epoch=2)
    cells = KNOWN_GENOTYPES["DARTS_V2"]
    trainings = [Training(config, data, cells, batches, Devices(n)) for n in (1, 2)]
    assert [training._network.axis_name for training in trainings] == [None, axis]
    assert [training._deployed.axis_name for training in trainings] == [None, None]


def test_the_seed_of_the_run_is_in_every_training(tiny):
    data = SimpleNamespace(num_classes=10, image_shape=(8, 8, 1))
    batches = SimpleNamespace(steps_per_epoch=2)
    cells = KNOWN_GENOTYPES["DARTS_V2"]
    for seed in (2, 5):
        training = Training(tiny({"seed": seed}), data, cells, batches, Devices(1))
        assert training._root == jax.random.key(seed)


@pytest.mark.parametrize("lost", [False, True])
def test_an_evaluation_trains_what_is_left_and_notes_each_error_last(
    tiny, monkeypatch, lost
):
    """A crash in between repeats a training, and loses no network and no details."""
    done = []

    class Trains:
        def __init__(self, *of):
            pass

        def run(self, name, seed, records, before):
            done.append(("run", name, seed, before))
            judged = Judgement(10.0 * seed + 1, np.nan, 0.5, 2.0, [[1]])
            return judged, f"of {name}, {seed}"

        def describe(self, name, errors):
            return row(name, errors)

    @contextlib.contextmanager
    def open_records(*of):
        done.append(of)
        yield SimpleNamespace(saved=None, go_on=lambda errors: done.append(("go on",)))

    def keep(workdir, config, data, cells, *of):
        done.append(("keep", *of))

    module = importlib.import_module(evaluate.__module__)
    monkeypatch.setattr(module, "Training", Trains)
    monkeypatch.setattr(module, "open_records", open_records)
    monkeypatch.setattr(module, "keep", keep)
    batches = SimpleNamespace(steps_per_epoch=5)
    monkeypatch.setattr(module, "training_batches", lambda *of: batches)
    measures = {"top5_error": None, "loss": 1.5, "calibration": 4.0}
    cells = KNOWN_GENOTYPES["DARTS_V2"]
    files = {
        "evaluation.json": {"derived": {"0": 7.0}},
        "heldout.json": {"derived": {"0": measures}},
        "cells.json": {
            "derived": cells.to_json(),
            "random 7": "of a larger evaluation",
        },
    }
    if lost:
        del files["heldout.json"]
    else:  # and of a training that is not one of these any more
        files["heldout.json"]["derived"]["9"] = {**measures, "loss": 99.0}

    def write_json(name, value, indent=2):
        files[name] = copy.deepcopy(value)
        done.append(("write", name))

    workdir = SimpleNamespace(
        read_object=lambda name, like=None: copy.deepcopy(files.get(name, {})),
        write_json=write_json,
    )
    config = tiny({"evaluation.epochs": 3})
    data = SimpleNamespace(num_classes=10, image_shape=(8, 8, 1))
    found = evaluate(config, data, cells, workdir, Devices(1), "the console")
    # Four trainings of 15 steps, the first of which is there.
    options = (config.checkpoint, workdir, "the console", 5, 60)
    expected = [("evaluate", *options), ("go on",), ("write", "cells.json")]
    for name, seed, before in (
        ("derived", 1, 15),
        ("random 1", 0, 30),
        ("random 1", 1, 45),
    ):
        expected += [
            ("run", name, seed, before),
            ("keep", name, seed, f"of {name}, {seed}", 10.0 * seed + 1),
            ("write", "heldout.json"),
            ("write", "evaluation.json"),
        ]
    assert done == expected
    errors = {"derived": {"0": 7.0, "1": 11.0}, "random 1": {"0": 1.0, "1": 11.0}}
    assert files["evaluation.json"] == errors
    assert files["cells.json"].keys() == errors.keys()
    assert [each["errors"] for each in found["rows"]] == [[7.0, 11.0], [1.0, 11.0]]
    losses = [each["loss"] for each in found["rows"]]
    assert losses == [None if lost else 1.0, 0.5]  # no mean over one seed of two
    # A cell of four nodes beside random ones of the config's space.
    assert found["verdict"].endswith(
        "The derived cell is not of the space of the random cells: it has 4 nodes, and "
        "they have 1."
    )
    files.clear()
    cells = random_genotype(np.random.default_rng(0), config.space.build())
    found = evaluate(config, data, cells, workdir, Devices(1), "the console")
    assert "not of the space" not in found["verdict"]
    assert files["heldout.json"]["random 1"]["1"]["top5_error"] is None

    def explodes(*of):
        raise NonFiniteError("loss became nan at step 2")

    monkeypatch.setattr(Trains, "run", explodes)
    more = tiny({"evaluation.epochs": 3, "evaluation.num_seeds": 3})
    with pytest.raises(NonFiniteError, match=r"^derived, seed 2: loss became nan at"):
        evaluate(more, data, cells, workdir, Devices(1), "the console")
