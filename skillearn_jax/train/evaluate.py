"""Floor 4: the evaluation phase: what a derived cell is worth beside random ones."""

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.data import (
    Augmentation,
    Batch,
    Examples,
    ImageData,
    Stream,
    eval_batches,
)
from skillearn_jax.framework import Aux, Program, Stage, State
from skillearn_jax.nas import (
    Outputs,
    count_macs,
    num_params,
)
from skillearn_jax.parallel import Devices
from skillearn_jax.train import interrupt
from skillearn_jax.train.build import cross_entropy
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.config import Config
from skillearn_jax.train.console import Console
from skillearn_jax.train.judge import Judgement, judge
from skillearn_jax.train.loop import CompiledLoop, compile_loop
from skillearn_jax.train.optimizers import sgd
from skillearn_jax.train.records import TrainingRecords
from skillearn_jax.train.rivals import read_rivals
from skillearn_jax.train.saving import Saver
from skillearn_jax.train.spaces import Cells, Net, space_kind
from skillearn_jax.train.telemetry import Steps, note_compilation, observed
from skillearn_jax.train.workdir import Workdir
from skillearn_jax.types import Array, Key, ParamSets, PyTree

_EVAL_BATCH = 256


def evaluate(
    config: Config,
    data: ImageData,
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
        workdir: gets `evaluation.json`, `heldout.json`, checkpoints and lines of `metrics.jsonl`.
        devices: to run on.
        console: for the progress bar.

    Returns:
        The entry `evaluation` of `summary.json`; errors in percent.
    """
    errors: dict[str, dict[str, float]] = workdir.read_json("evaluation.json") or {}
    details: dict[str, dict[str, Any]] = workdir.read_json("heldout.json") or {}
    stream = Stream(
        data.train,
        config.evaluation.batch_size,
        data.mean,
        data.std,
        augmentation=Augmentation(
            config.data.padding, config.data.flip, config.data.cutout
        ),
    )
    genotypes = _contestants(config, genotype)
    seeds = range(config.evaluation.num_seeds)
    per_run = config.evaluation.epochs * stream.steps_per_epoch
    rows = []
    checkpoints = Checkpoints(
        workdir.path / "checkpoints" / "evaluation",
        keep=config.checkpoint.keep,
        beside=workdir.path / "metrics.jsonl",
        say=console.message,
    )
    with (
        contextlib.closing(checkpoints),
        console.progress("evaluate", len(genotypes) * len(seeds) * per_run) as update,
    ):
        records = TrainingRecords(
            workdir,
            Saver(checkpoints, config.checkpoint, stream.steps_per_epoch),
            update,
            checkpoints.newest(),
        )
        records.go_on(errors)
        for name, cells in genotypes.items():
            training = _Training(config, data, cells, stream, devices)
            of_network = errors.setdefault(name, {})
            for seed in seeds:
                if str(seed) not in of_network:
                    done = sum(len(seeds_done) for seeds_done in errors.values())
                    judged = training.run(name, seed, records, done * per_run)
                    # First the details: the error says that the training is done.
                    details.setdefault(name, {})[str(seed)] = judged.to_dict()
                    workdir.write_json("heldout.json", details)
                    of_network[str(seed)] = judged.error
                    workdir.write_json("evaluation.json", errors)
            row = training.describe(name, list(of_network.values()))
            rows.append({**row, **_means(details.get(name, {}))})
    return _summarize(config, rows)


class _Training:
    """The training of one network: compiled at its first seed, used for all."""

    def __init__(
        self,
        config: Config,
        data: ImageData,
        genotype: Cells,
        stream: Stream,
        devices: Devices,
    ) -> None:
        self._config = config.evaluation
        self._root = jax.random.key(config.seed)
        self._data, self._stream, self._devices = data, stream, devices
        self._genotype = genotype
        kind, axis = (
            space_kind(config),
            config.parallel.statistics_axis(devices.axis_name),
        )
        rest = (genotype, config, data.num_classes)
        self._network = kind.network(*rest, axis, auxiliary=True)
        # As deployed: without the auxiliary head.
        self._deployed = kind.network(*rest, None, auxiliary=False)
        self._program = _training_program(
            self._network, config, stream.steps_per_epoch, devices.axis_name
        )
        self._loop: CompiledLoop | None = None
        # Training may be mapped over devices; prediction is not, and needs no axis.
        plain = self._network.clone(axis_name=None)
        self._init = jax.jit(plain.init, static_argnames="train")

        def logits(variables: PyTree, images: Array) -> Array:
            return cast(Array, plain.apply(variables, images, train=False))

        self._logits = jax.jit(logits)

    def run(
        self, name: str, seed: int, records: TrainingRecords, before: int
    ) -> Judgement:
        """Trains once, or what is left of it; judges the network on held-out images.

        Args:
            name: of the network.
            seed: of the training.
            records: where it goes on from, and what it leaves.
            before: steps of the trainings before.
        """
        initial, step = self._initial_state(seed), 0
        values: dict[str, list[float]] = {"loss": [], "error": []}  # of this epoch
        saved = records.of(name, seed)
        if saved is not None:
            initial, step = saved.restore(initial), saved.note["step"]
            values = saved.note["values"]
        state = placed = self._devices.place(initial)
        steps_per_epoch = self._stream.steps_per_epoch
        total = self._config.epochs * steps_per_epoch
        if self._loop is None and step < total:
            self._loop = self._compile(placed, step)
            note_compilation(records.workdir, f"evaluate/{name}", step, self._loop)
        taken: Steps = iter(())
        if self._loop is not None:
            taken = observed(
                self._loop.steps(placed, total - step),
                self._loop,
                records.workdir,
                f"evaluate/{name}/{seed}",
                step,
                steps_per_epoch,
            )
        with interrupt.deferred():
            for latest, metrics in taken:
                state, step = latest, step + len(metrics)
                for metric, of_epoch in values.items():
                    of_epoch += [m[f"network/{metric}"] for m in metrics]
                records.update(before + step, {"loss": metrics[-1]["network/loss"]})
                note = {"network": name, "seed": seed, "step": step}
                if step % steps_per_epoch == 0:
                    row = {"phase": "evaluate", **note}
                    row["epoch"] = step // steps_per_epoch - 1
                    for metric, of_epoch in values.items():
                        row[f"train_{metric}"] = float(np.mean(of_epoch))
                        values[metric] = []
                    records.workdir.append_metrics([row])
                records.saver.offer(
                    range(step - len(metrics) + 1, step + 1),
                    partial(self._devices.fetch, latest),
                    partial(dict, note, values=values),
                    offset=before,
                    last=step == total,
                )
        return self._judged(self._devices.fetch(state))

    def describe(self, name: str, errors: list[float]) -> dict[str, Any]:
        """Returns the network's row of the summary."""
        shapes = jax.eval_shape(
            lambda key: self._deployed.init(key, self._images(), train=False),
            self._root,
        )
        spread = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
        return {
            "name": name,
            "genotype": self._genotype.to_json(),
            "params": num_params(shapes),
            "macs": count_macs(self._network, self._data.image_shape),
            "errors": errors,
            "mean": float(np.mean(errors)),
            "std": spread,
        }

    def _images(self) -> Array:
        return jnp.zeros((2, *self._data.image_shape))

    def _initial_state(self, seed: int) -> State:
        init_key, run_key = jax.random.split(jax.random.fold_in(self._root, seed))
        variables = self._init(init_key, self._images(), train=False)
        return self._program.init(
            {"weights": variables["params"]},
            run_key,
            {"network": variables["batch_stats"]},
        )

    def _compile(self, placed: State, begin: int) -> CompiledLoop:
        total = self._config.epochs * self._stream.steps_per_epoch

        def with_progress(batches: dict[str, Batch], step: Array) -> dict[str, Any]:
            return {**batches, "progress": step / total}

        return compile_loop(
            self._program,
            placed,
            {"train": self._stream},
            self._devices,
            self._stream.steps_per_epoch,
            prepare=with_progress,
            begin=begin,
        )

    def _judged(self, state: State) -> Judgement:
        """Returns what the network does on all held-out images."""
        variables = {
            "params": state.params["weights"],
            "batch_stats": state.model_state["network"],
        }
        heldout: Examples = self._data.heldout
        batches = eval_batches(heldout, _EVAL_BATCH, self._data.mean, self._data.std)
        return judge(partial(self._logits, variables), batches, self._data.num_classes)


def _training_program(
    network: Net, config: Config, steps_per_epoch: int, axis_name: str | None
) -> Program:
    """Returns the training of a fixed network: one stage, no validation."""
    evaluation = config.evaluation

    def smoothed(logits: Array, labels: Array) -> Array:
        """-sum_c q_c log p_c with q = (1 - eps) one_hot + eps / C."""
        plain, share = cross_entropy(logits, labels), evaluation.label_smoothing
        if not share:
            return plain
        return (1 - share) * plain - share * jnp.mean(jax.nn.log_softmax(logits), -1)

    def train_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: Mapping[str, PyTree],
        batch: Mapping[str, Any],
        key: Key,
    ) -> tuple[Array, Aux]:
        del reads
        # Without a rate there is no drop path in the compiled program.
        rates = {}
        if evaluation.drop_path:
            rates["drop_path_rate"] = evaluation.drop_path * batch["progress"]
        outputs, changed = network.apply(
            {"params": moves["weights"], "batch_stats": model_state["network"]},
            batch["train"]["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"drop_path": key},
            **rates,
        )
        labels = batch["train"]["label"]
        logits = outputs.logits if isinstance(outputs, Outputs) else outputs
        loss = jnp.mean(smoothed(logits, labels))
        if isinstance(outputs, Outputs):
            auxiliary = jnp.mean(smoothed(outputs.auxiliary, labels))
            loss += evaluation.auxiliary_weight * auxiliary
        metrics = {"error": 100 * jnp.mean(logits.argmax(-1) != labels)}
        return loss, Aux(metrics, {"network": changed["batch_stats"]})

    stage = Stage(
        "network",
        moves=("weights",),
        loss_fn=train_loss,
        data=("train", "progress"),
        optimizer=sgd(evaluation.weights, evaluation.epochs, steps_per_epoch),
    )
    return Program(stages=(stage,), axis_name=axis_name)


def _contestants(config: Config, genotype: Cells) -> dict[str, Cells]:
    """Returns the derived cells, those of other runs, then random ones of the space."""
    space = config.space.build()
    rng = np.random.default_rng(config.seed)
    count = config.evaluation.num_random
    rivals = read_rivals(config.evaluation.rivals)
    return {"derived": genotype, **rivals} | {
        f"random {i}": space_kind(config).random(rng, space)
        for i in range(1, count + 1)
    }


def _means(details: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns the means over seeds of the measures beside the error."""
    means: dict[str, float | None] = {}
    for measure in ("top5_error", "loss", "calibration"):
        values = [of_seed[measure] for of_seed in details.values()]
        known = bool(values) and None not in values
        means[measure] = float(np.mean(values)) if known else None
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
            row["name"]: verdict(
                derived["errors"], row["errors"], f"that of the cells of {row['name']}"
            )
            for row in rivals
        }
    if others:
        errors = [error for row in others for error in row["errors"]]
        mean = float(np.mean(errors))
        std = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
        summary["random"] = {"mean": mean, "std": std, "count": len(others)}
        summary["verdict"] = verdict(derived["errors"], errors)
    return summary


def verdict(
    derived: list[float], random: list[float], whose: str = "the random cells' mean"
) -> str:
    """Returns one sentence on whether the derived cell beats others.

    A gain is claimed only if the intervals mean +- one standard deviation are apart, and
    not at all without at least three trainings on both sides.

    Args:
        derived: held-out errors in percent, one per seed.
        random: those of all random cells and seeds, or of another run's cells.
        whose: mean, in words.
    """
    difference = np.mean(random) - np.mean(derived)
    points = f"{abs(difference):.2f} points {'below' if difference > 0 else 'above'}"
    text = f"The derived cell's mean error lies {points} {whose}"
    if min(len(derived), len(random)) < 3:
        return f"{text}; too few trainings to say whether that is more than chance."
    spread = np.std(derived, ddof=1) + np.std(random, ddof=1)
    if abs(difference) <= spread:
        return f"{text}; the intervals overlap, so no difference is claimed."
    return f"{text}; the intervals (one standard deviation) do not overlap."
