"""Random search: what is drawn, how it is judged, that it goes on after a stop."""

import contextlib
import dataclasses
import importlib
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from skillearn_jax.data import from_arrays, halves, load
from skillearn_jax.errors import InputError, NonFiniteError
from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES, Table
from skillearn_jax.train import experiment, run
from skillearn_jax.train.benchmark import Benchmark
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.checks import check
from skillearn_jax.train.config import EvaluationConfig
from skillearn_jax.train.console import Console
from skillearn_jax.train.random_search import (
    best_candidate,
    draw_candidates,
    random_search,
    short_training,
)
from skillearn_jax.train.resume import differences
from skillearn_jax.train.rivals import random_cells

pytestmark = pytest.mark.usefixtures("quick_module")

RANDOM = {"skill": "random", "search.warmup_epochs": 0, "search.num_random": 3}
LEARNS = {
    **RANDOM,
    "search.num_random": 2,
    "search.epochs": 2,
    "search.weights.lr": 0.2,
    "data.batch_size": 32,
    "evaluation.epochs": 0,
}
STEPS = 22  # of an epoch: 719 training images


def read(workdir, name="candidates.json"):
    return json.loads((workdir / name).read_text())


PARTS = []  # of the search, a name for each step


@contextlib.contextmanager
def noted_progress(console, label, total):
    yield lambda step, metrics, part="": PARTS.append(part)


@pytest.fixture(scope="module")
def searched(quick_module, tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("random") / "run"
    config = tiny({**LEARNS, "checkpoint.every_steps": 11})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Console, "progress", noted_progress)
        return workdir, config, run(config, workdir, quiet=True)


def test_the_cell_with_the_least_validation_error_is_derived(searched, read_rows):
    workdir, config, result = searched
    found = read(workdir)
    drawn = draw_candidates(config)
    assert {name: entry["genotype"] for name, entry in found.items()} == {
        name: cells.to_json() for name, cells in drawn.items()
    }
    errors = {name: entry["error"] for name, entry in found.items()}
    assert min(errors.values()) < 80  # chance is 90
    assert len(set(errors.values())) == 2
    assert result.genotype == drawn[min(errors, key=errors.get)]
    assert read(workdir, "genotype.json") == result.genotype.to_json()
    assert result.summary["search"]["steps"] == 4 * STEPS
    assert result.summary["search"]["epochs"] == 4
    rows = read_rows(workdir)
    assert [(row["phase"], row["network"], row["step"]) for row in rows] == [
        ("search", name, step) for name in drawn for step in (STEPS, 2 * STEPS)
    ]
    # The pace begins anew with each network.
    assert [f"{name}/0" for name in drawn for _ in range(2 * STEPS)] == PARTS
    page = result.report.read_text()
    assert "Random search on digits" in page
    assert '<figure id="candidates">' in page
    assert '<figure id="trainings">' in page


def test_a_search_without_its_candidates_is_not_repeated(searched, tmp_path):
    workdir, config, _ = searched
    shutil.copytree(workdir, tmp_path / "run")
    for name in ("candidates.json", "summary.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=r"of a finished search, but no candidates"):
        run(config, tmp_path / "run", quiet=True)


def test_of_equal_errors_the_lower_loss_wins():
    found = {
        "a": {"error": 3.0, "loss": 1.0},
        "b": {"error": 2.0, "loss": 0.5},
        "c": {"error": 2.0, "loss": 0.4},
    }
    assert best_candidate(found) == "c"


def test_only_the_training_images_are_read(searched, tiny, tmp_path):
    """Other held-out images: the same errors, on the images of the second half."""
    workdir, config, _ = searched
    digits = load("digits")
    other = from_arrays(
        "digits",
        digits.train.image,
        digits.train.label,
        np.zeros_like(digits.heldout.image),
        digits.heldout.label,
    )
    run(config, tmp_path / "run", data=other, quiet=True)
    found = read(tmp_path / "run")
    assert found == read(workdir)
    for entry in found.values():
        wrong = entry["error"] * halves(digits.train, stratified=True)[1].size / 100
        assert wrong == pytest.approx(round(wrong), abs=1e-9)


@pytest.mark.parametrize("torn_after", [2 * STEPS, 2 * STEPS + 11])
def test_a_torn_search_ends_as_the_whole_one(
    torn_after, searched, tmp_path, read_rows, monkeypatch
):
    """Torn at the last step of the first cell, and within the second."""
    workdir, config, whole = searched
    save = Checkpoints.save

    def dies(self, at, *args):
        save(self, at, *args)
        if at == torn_after:
            self.close()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "candidates.json").exists() == (torn_after > 2 * STEPS)
    again = run(config, tmp_path / "run", quiet=True)
    assert again.genotype == whole.genotype
    assert read(tmp_path / "run") == read(workdir)
    assert read_rows(tmp_path / "run") == read_rows(workdir)


def test_candidates_have_the_stem_of_the_search(tiny):
    config = tiny({"skill": "random", "search.stem": "imagenet"})
    assert short_training(config).evaluation.stem == "imagenet"


def test_candidates_are_trained_as_a_search_trains(tiny):
    """And not by what the evaluation, which comes later, is asked for."""
    weights = {"lr": 0.5, "momentum": 0.25, "schedule": "linear"}
    changes = {f"search.weights.{key}": value for key, value in weights.items()}
    config = tiny(
        {
            **changes,
            "skill": "random",
            "search.epochs": 7,
            "search.cells": 4,
            "search.channels": 6,
            "data.batch_size": 32,
            "data.cutout": 3,
            "evaluation.cutout": 2,
            "evaluation.drop_path": 0.3,
            "evaluation.auxiliary_weight": 0.4,
            "evaluation.label_smoothing": 0.1,
            "evaluation.mixup": 1.0,
            "evaluation.average": 0.9,
            "evaluation.accumulate": 2,
            "evaluation.compute": "bfloat16",
        }
    )
    short = short_training(config)
    assert short.evaluation == EvaluationConfig(
        epochs=7,
        batch_size=32,
        cells=4,
        channels=6,
        cutout=3,
        auxiliary_weight=0.0,
        drop_path=0.0,
        weights=config.search.weights,
    )
    assert dataclasses.replace(short, evaluation=config.evaluation) == config


def test_candidates_are_distinct_and_more_draws_begin_alike(tiny):
    for space in ("darts", "nasbench201"):
        changes = {**RANDOM, "space.name": space, "space.num_nodes": 2}
        few = draw_candidates(tiny({**changes, "search.num_random": 4}))
        many = draw_candidates(tiny({**changes, "search.num_random": 9}))
        assert list(many.items())[: len(few)] == list(few.items())
        assert len(set(many.values())) == len(many)
        assert draw_candidates(tiny({**changes, "seed": 5})) != few


def test_a_cell_that_is_drawn_twice_is_trained_once(tiny):
    """Two cells of one node, two skips each: only the order of a node's edges is left."""
    ops = ("none", "skip_connect")
    config = tiny({**RANDOM, "space.ops": ops, "search.num_random": 20})
    drawn = draw_candidates(config)
    assert list(drawn) == [f"candidate {i}" for i in range(1, len(drawn) + 1)]
    assert len(set(drawn.values())) == len(drawn) <= 4


def test_the_evaluation_draws_other_random_cells(tiny):
    config = tiny({**RANDOM, "space.num_nodes": 4, "evaluation.num_random": 5})
    candidates = draw_candidates(config)
    drawn = random_cells(config, candidates["candidate 1"], 10, (8, 8, 1))
    assert len(drawn) == 5
    assert not set(drawn.values()) & set(candidates.values())


def test_in_the_space_of_nasbench201(tiny, tmp_path, monkeypatch):
    """What a table knows is noted of every candidate."""
    table = Table(np.random.default_rng(0).uniform(10, 95, (NUM_ARCHITECTURES, 6)))
    benchmark = Benchmark(table, "cifar10")
    monkeypatch.setattr(experiment, "load_benchmark", lambda config: benchmark)
    config = tiny(
        {
            **RANDOM,
            "space.name": "nasbench201",
            "search.num_random": 1,
            "evaluation.epochs": 0,
        }
    )
    result = run(config, tmp_path / "run", quiet=True)
    assert result.genotype in draw_candidates(config).values()
    assert len(result.genotype.ops) == 6
    known = benchmark.look_up(result.genotype)
    assert result.summary["benchmark"] == {"dataset": "cifar10", **known}
    (candidate,) = read(tmp_path / "run").values()
    assert candidate.items() >= known.items()
    assert '<figure id="cell">' in result.report.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search.warmup_epochs": 1},
            "warmup_epochs is 1; a random search has no super",
        ),
        ({"search.stop": "skips"}, "stop is 'skips'.* --config.search.stop=epochs"),
        ({"search.channels": 4, "search.partial": 2}, "partial is 2"),
        ({"search.initialization": "flax"}, "initialization is 'flax'; .*=torch"),
        ({"search.remat": True}, "remat is True; .*remat=False"),
        ({"search.max_skips": 2}, "max_skips is 2"),
        ({"search.auxiliary_skip": "linear"}, "auxiliary_skip is 'linear'"),
        (
            {
                "search.stage_cells": (1,),
                "search.stage_candidates": (4,),
                "search.stage_skip_dropout": (0.0,),
            },
            r"stage_cells is \(1,\); a random search has no",
        ),
        ({"space.edge_normalization": True}, "edge_normalization is True"),
        ({"tasks": ("digits",)}, "random searches on one data set"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, message, tiny):
    check(tiny(RANDOM))
    with pytest.raises(InputError, match=message):
        check(tiny({**RANDOM, **changes}))


def test_more_cells_may_follow_and_longer_trainings_may_not(tiny):
    def accepted(changes, evaluated=False):
        old, new = tiny(RANDOM).to_dict(), tiny({**RANDOM, **changes}).to_dict()
        more, refused = differences(old, new, {}, evaluated, True)
        assert len(more) + len(refused) == 1
        return bool(more)

    assert accepted({"search.num_random": 4})
    assert not accepted({"search.num_random": 2})
    assert not accepted({"search.num_random": 4}, evaluated=True)
    assert not accepted({"search.epochs": 3})


def test_weights_of_candidates_are_drawn_with_a_key_of_their_own(
    tiny, tmp_path, monkeypatch
):
    """Not with that of the evaluation, whose seeds are those of the run's key."""

    class Seen(Exception):
        pass

    def training(config, data, cells, batches, devices, key=None):
        raise Seen(key)

    module = importlib.import_module(random_search.__module__)
    monkeypatch.setattr(module, "Training", training)
    keys = []
    for seed in (2, 3):
        config = tiny({**RANDOM, "seed": seed, "evaluation.epochs": 0})
        with pytest.raises(Seen) as seen:
            run(config, tmp_path / str(seed), quiet=True)
        (key,) = seen.value.args
        keys += [jax.random.key_data(k).tolist() for k in (key, jax.random.key(seed))]
    assert len(set(map(tuple, keys))) == 4


def test_the_training_that_explodes_is_named(tiny, tmp_path, monkeypatch):
    def training(*of):
        def explodes(*of):
            raise NonFiniteError("network/loss became nan at step 2")

        return SimpleNamespace(run=explodes)

    module = importlib.import_module(random_search.__module__)
    monkeypatch.setattr(module, "Training", training)
    with pytest.raises(NonFiniteError, match=r"^candidate 1: network/loss became nan"):
        run(tiny({**RANDOM, "evaluation.epochs": 0}), tmp_path / "run", quiet=True)
