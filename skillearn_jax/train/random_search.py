"""Floor 4: random search, the baseline that every search has to beat."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from skillearn_jax.data import ImageData, TrainingImages
from skillearn_jax.errors import NonFiniteError, told_with
from skillearn_jax.parallel import Devices
from skillearn_jax.randomness import Use, generator, named_key
from skillearn_jax.train.benchmark import Benchmark
from skillearn_jax.train.config import Config, EvaluationConfig
from skillearn_jax.train.console import Console
from skillearn_jax.train.evaluation_data import training_batches
from skillearn_jax.train.evaluation_training import Training
from skillearn_jax.train.fields import check_only
from skillearn_jax.train.records import open_records
from skillearn_jax.train.search import SearchResult, refuse_to_repeat
from skillearn_jax.train.search_streams import search_parts
from skillearn_jax.train.spaces import Cells, read_cells, space_kind
from skillearn_jax.train.wording import counted
from skillearn_jax.train.workdir import Workdir

CANDIDATES = "candidates.json"
CANDIDATE = {"genotype": {}, "params": 0.0, "macs": 0.0, "error": 0.0, "loss": 0.0}


def random_search(
    config: Config,
    data: TrainingImages,
    workdir: Workdir,
    devices: Devices,
    console: Console,
    benchmark: Benchmark | None = None,
) -> SearchResult:
    """Trains random cells briefly and returns the one with the lowest validation error.

    `search.num_random` cells are drawn from the space, each as likely; one that is drawn
    twice is trained once. Each is trained from scratch on the training half for
    `search.epochs`, at the size, in the dtype and with the weights' optimiser of a search
    (`search.cells`, `search.channels`, `search.stem`, `search.compute`, `search.weights`),
    without auxiliary head and drop path, and judged on the whole validation half, not
    augmented. Of equal errors, the lower loss wins. The held-out images are not read.
    Neither these cells nor their weights are those that the evaluation draws at random.

    Args:
        config: of the run.
        data: the training images, which are cut into both halves.
        workdir: gets `config.json`, `candidates.json`, lines of `metrics.jsonl`,
            checkpoints and `genotype.json`; a run that was stopped goes on from them.
        devices: to run on.
        console: for the progress bar and the table.
        benchmark: to look the candidates up in.

    Raises:
        InputError: if a finished search has lost its candidates.
        NonFiniteError: if a loss becomes NaN or infinite.
        Interrupted: after a save, if a signal asked for the end.
        StorageError: if the disk does not take what is to be written.

    Cost: `num_random * epochs` epochs of a network of one operation an edge.

    References:
        Li and Talwalkar 2019, Random search and reproducibility for neural architecture
        search, arXiv 1902.07638.
    """
    short, halved = short_training(config), _halved(config, data)
    candidates, batches = draw_candidates(config), training_batches(short, halved)
    epochs = counted(short.evaluation.epochs, "epoch")
    per_run = short.evaluation.epochs * batches.steps_per_epoch
    key = named_key(jax.random.key(config.seed), "random_search")
    found: dict[str, dict[str, Any]] = workdir.read_object(CANDIDATES, {"": CANDIDATE})
    if not found:
        refuse_to_repeat(workdir, CANDIDATES)
    workdir.write_config(
        f"Random search: {counted(len(candidates), 'random cell')}, each trained for "
        f"{epochs} and judged on the validation half."
    )
    total = len(candidates) * per_run
    with open_records(
        "search", config.checkpoint, workdir, console, batches.steps_per_epoch, total
    ) as records:
        records.go_on({name: {"0": entry} for name, entry in found.items()})
        for name, cells in candidates.items():
            if name in found:
                continue
            training = Training(short, halved, cells, batches, devices, key)
            with told_with(f"{name}: ", kind=NonFiniteError):
                judged, _ = training.run(name, 0, records, len(found) * per_run)
            row = training.describe(name, [judged.error])
            found[name] = {
                "genotype": row["genotype"],
                "params": row["params"],
                "macs": row["macs"],
                "error": judged.error,
                "loss": judged.loss,
                **(benchmark.look_up(cells) if benchmark else {}),
            }
            workdir.write_json(CANDIDATES, found)
    best = best_candidate(found)
    console.table(
        f"error on validation images, {epochs}; * is derived",
        ("cells", "parameters", "multiply-adds", "error %"),
        [
            (
                f"{name} *" if name == best else name,
                row["params"],
                row["macs"],
                f"{row['error']:.2f}",
            )
            for name, row in found.items()
        ],
    )
    genotype = read_cells(found[best]["genotype"])
    workdir.write_json("genotype.json", genotype.to_json())
    return SearchResult(genotype, len(candidates) * short.evaluation.epochs, total)


def best_candidate(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the name with the lowest validation error, then the lowest loss."""
    return min(found, key=lambda name: (found[name]["error"], found[name]["loss"]))


def draw_candidates(config: Config) -> dict[str, Cells]:
    """Returns the cells by name, in the order of the draws; more draws begin alike."""
    rng = generator(config.seed, Use.CANDIDATES)
    kind, space = space_kind(config), config.space.build()
    drawn = [kind.random(rng, space) for _ in range(config.search.num_random)]
    return {f"candidate {i}": cells for i, cells in enumerate(dict.fromkeys(drawn), 1)}


def check_random_search(config: Config) -> None:
    """Raises `InputError` for keys of a supernet, which a random search has not."""
    if config.skill != "random":
        return
    plain = {
        "search.warmup_epochs": 0,
        "search.stage_cells": (),
        "search.stop": "epochs",
        "search.partial": 1,
        "search.auxiliary_skip": "off",
        "search.initialization": "torch",
        "search.remat": False,
        "search.max_skips": -1,
        "space.edge_normalization": False,
    }
    check_only(config, plain, "a random search has no supernet and")


def short_training(config: Config) -> Config:
    """Returns the config of a candidate's training: of the search's size and length."""
    search = config.search
    evaluation = EvaluationConfig(
        epochs=search.epochs,
        batch_size=config.data.batch_size,
        cells=search.cells,
        channels=search.channels,
        stem=search.stem,
        compute=search.compute,
        cutout=config.data.cutout,
        auxiliary_weight=0.0,
        drop_path=0.0,
        weights=search.weights,
    )
    return dataclasses.replace(config, evaluation=evaluation)


def _halved(config: Config, data: TrainingImages) -> ImageData:
    """Returns the training half, with the validation half to be judged on."""
    train, val = search_parts(config, data.train)
    return ImageData(data.name, train, data.num_classes, data.mean, data.std, val)
