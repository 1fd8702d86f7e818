"""Floor 4: the evaluation phase: what a derived cell is worth beside random ones."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from skillearn_jax.errors import InputError, NonFiniteError, told_with
from skillearn_jax.parallel import Devices
from skillearn_jax.train.config import Config
from skillearn_jax.train.console import Console
from skillearn_jax.train.evaluation_data import training_batches
from skillearn_jax.train.evaluation_training import Training
from skillearn_jax.train.images import OneSet
from skillearn_jax.train.records import open_records
from skillearn_jax.train.rivals import random_cells, read_rivals
from skillearn_jax.train.spaces import Cells
from skillearn_jax.train.spread import mean_and_std, verdict
from skillearn_jax.train.trained import keep
from skillearn_jax.train.wording import counted
from skillearn_jax.train.workdir import Workdir

_MEASURES = ("top5_error", "loss", "calibration")
"""What the report tells beside the error, as means over seeds."""


def evaluate(
    config: Config,
    data: OneSet,
    genotype: Cells,
    workdir: Workdir,
    devices: Devices,
    console: Console,
) -> dict[str, Any]:
    """Trains the derived network and random ones alike; returns their errors.

    Every cell is trained `num_seeds` times from scratch on all training images, with the
    same budget, and judged once, after its last epoch, on the held-out images. Finished
    trainings are kept in `evaluation.json`; the one under way is in a checkpoint.

    Args:
        config: of the run.
        data: training and held-out images.
        genotype: the derived cells.
        workdir: gets `cells.json`, `evaluation.json`, `heldout.json`, `networks/`,
            checkpoints and lines of `metrics.jsonl`.
        devices: to run on.
        console: for the progress bar.

    Returns:
        The entry `evaluation` of `summary.json`; errors in percent.

    Raises:
        InputError: if cells that this workdir has trained have changed since.
    """
    errors: dict[str, dict[str, float]] = workdir.read_object(
        "evaluation.json", {"": {"": 0.0}}
    )
    details: dict[str, dict[str, Any]] = workdir.read_object(
        "heldout.json", {"": {"": dict.fromkeys(_MEASURES)}}
    )
    batches = training_batches(config, data)
    genotypes = _contestants(config, data, genotype)
    seeds = range(config.evaluation.num_seeds)
    per_run = config.evaluation.epochs * batches.steps_per_epoch
    rows = {}
    total = len(genotypes) * len(seeds) * per_run
    with open_records(
        "evaluate", config.checkpoint, workdir, console, batches.steps_per_epoch, total
    ) as records:
        records.go_on(errors)
        begun = [records.saved.note["network"]] if records.saved else []
        _note_cells(workdir, genotypes, {*errors, *begun})
        # Where seeds were added, that of a later network may be under way: it goes on.
        for name in sorted(genotypes, key=lambda name: name not in begun):
            cells = genotypes[name]
            training = Training(config, data, cells, batches, devices)
            of_network = errors.setdefault(name, {})
            for seed in seeds:
                if str(seed) in of_network:
                    continue
                done = sum(map(len, errors.values()))
                with told_with(f"{name}, seed {seed}: ", kind=NonFiniteError):
                    judged, variables = training.run(
                        name, seed, records, done * per_run
                    )
                # First the network and the details: the error says that the training
                # is done.
                keep(workdir, config, data, cells, name, seed, variables, judged.error)
                details.setdefault(name, {})[str(seed)] = judged.to_dict()
                # With indents, matrices of 1,000 classes would be 13 MB each.
                workdir.write_json("heldout.json", details, indent=None)
                of_network[str(seed)] = judged.error
                workdir.write_json("evaluation.json", errors)
            row = training.describe(name, list(of_network.values()))
            kept = details.get(name, {})
            means = _means([kept.get(seed, {}) for seed in of_network])
            rows[name] = {**row, **means}
    summary = _summarize(config, [rows[name] for name in genotypes])
    if "verdict" in summary:
        summary["verdict"] += _of_another_size(config, genotype)
    return summary


def _contestants(config: Config, data: OneSet, genotype: Cells) -> dict[str, Cells]:
    """Returns the derived cells, those of other runs, then random ones of the space."""
    rivals = read_rivals(config)
    random = random_cells(config, genotype, data.num_classes, data.image_shape)
    return {"derived": genotype, **rivals, **random}


def _of_another_size(config: Config, genotype: Cells) -> str:
    """Returns what to say where random cells have other nodes than cells that were given."""
    drawn = config.space.num_nodes
    given = getattr(genotype, "num_nodes", drawn)  # NAS-Bench-201 has one number
    if given == drawn:
        return ""
    return (
        f" The derived cell is not of the space of the random cells: it has "
        f"{counted(given, 'node')}, and they have {drawn}."
    )


def _note_cells(
    workdir: Workdir, cells: Mapping[str, Cells], begun: Collection[str]
) -> None:
    """Writes what is trained under which name; of those begun it must still be the same."""
    given = {name: each.to_json() for name, each in cells.items()}
    noted: dict[str, Any] = workdir.read_object("cells.json")
    changed = [
        name
        for name in given
        if name in begun and noted.get(name, given[name]) != given[name]
    ]
    if changed:
        raise InputError(
            f"the cells of {', '.join(map(repr, changed))} are not those that were trained "
            f"in {workdir.path} before (cells.json): restore their files, or set --workdir "
            "to a new folder"
        )
    # No others: an evaluation that had trained nothing yet may have become a smaller one.
    workdir.write_json("cells.json", given)


def _means(details: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns the means over seeds of the measures that are known of all, beside the error."""
    means: dict[str, float | None] = {}
    for measure in _MEASURES:
        given = [of_seed.get(measure) for of_seed in details]
        known = [value for value in given if value is not None]
        means[measure] = float(np.mean(known)) if known and known == given else None
    return means


def _summarize(config: Config, rows: list[dict[str, Any]]) -> dict[str, Any]:
    derived, *others = rows
    rivals = others[: len(config.evaluation.rivals)]
    others = others[len(rivals) :]
    evaluation = config.evaluation
    summary: dict[str, Any] = {
        "epochs": evaluation.epochs,
        "channels": evaluation.channels,
        "cells": evaluation.cells,
        "num_seeds": evaluation.num_seeds,
        "rows": rows,
    }
    if rivals:
        summary["comparisons"] = {
            row["name"]: f"The cells of {row['name']} are the derived ones."
            if row["genotype"] == derived["genotype"]
            else verdict(
                derived["errors"], row["errors"], f"that of the cells of {row['name']}"
            )
            for row in rivals
        }
    if others:
        errors = [error for row in others for error in row["errors"]]
        summary["random"] = {**mean_and_std(errors), "count": len(others)}
        summary["verdict"] = verdict(derived["errors"], errors)
    return summary
