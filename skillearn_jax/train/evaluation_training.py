"""Floor 4: the training of one derived network, seed by seed, and its judgement."""

import contextlib
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.data import Batch
from skillearn_jax.framework import State
from skillearn_jax.layers import draw_variables
from skillearn_jax.nas import count_macs, count_params, mobile_setting
from skillearn_jax.parallel import Devices
from skillearn_jax.train import interrupt
from skillearn_jax.train.averaging import averaging, judged_variables, with_average
from skillearn_jax.train.config import Config
from skillearn_jax.train.evaluation_data import TrainingBatches, heldout_batches
from skillearn_jax.train.evaluation_program import training_program
from skillearn_jax.train.images import OneSet
from skillearn_jax.train.judge import Judgement, judge
from skillearn_jax.train.loop import CompiledLoop, compile_loop
from skillearn_jax.train.records import TrainingRecords
from skillearn_jax.train.spaces import Cells, space_kind
from skillearn_jax.train.spread import mean_and_std
from skillearn_jax.train.telemetry import note_compilation, observed
from skillearn_jax.types import Array, Key, PyTree


def training_keys(root: Key, seed: int) -> tuple[Key, Key]:
    """Returns the keys of one training: of its first weights, and of its steps."""
    init_key, run_key = jax.random.split(jax.random.fold_in(root, seed))
    return init_key, run_key


class Training:
    """The training of one network: compiled at its first seed, used for all."""

    def __init__(
        self,
        config: Config,
        data: OneSet,
        genotype: Cells,
        batches: TrainingBatches,
        devices: Devices,
        key: Key | None = None,
    ) -> None:
        """Prepares it.

        Args:
            config: of the run.
            data: training images; those that it is judged on, as its held-out ones.
            genotype: the cells.
            batches: of the training images.
            devices: to run on.
            key: that all seeds are folded into; by default that of the run's seed.
        """
        self._config = config.evaluation
        self._root = jax.random.key(config.seed) if key is None else key
        self._data, self._batches, self._devices = data, batches, devices
        self._genotype = genotype
        kind = space_kind(config)
        axis = config.parallel.statistics_axis(devices.axis_name)
        classes = data.num_classes
        self._network = kind.network(genotype, config, classes, axis, auxiliary=True)
        # As deployed: without the auxiliary head.
        self._deployed = kind.network(genotype, config, classes, None, auxiliary=False)
        self._program = training_program(
            self._network, config, batches.steps_per_epoch, devices.axis_name
        )
        if self._config.average:
            after = averaging(self._config.average, self._config.accumulate)
            self._program = self._program.replace(after=after)
        self._loop: CompiledLoop | None = None
        # Training may be mapped over devices; prediction is not, and needs no axis.
        plain = self._network.clone(axis_name=None)
        self._init = partial(draw_variables, plain)

        def logits(variables: PyTree, images: Array) -> Array:
            return cast(Array, plain.apply(variables, images, train=False))

        self._logits = jax.jit(logits)

    def run(
        self, name: str, seed: int, records: TrainingRecords, before: int
    ) -> tuple[Judgement, PyTree]:
        """Trains once, or what is left of it; judges the network on held-out images.

        Args:
            name: of the network.
            seed: of the training.
            records: where it goes on from, and what it leaves.
            before: steps of the trainings before.

        Returns:
            The judgement, and the variables that were judged.
        """
        state, step = self._initial_state(seed), 0
        values: dict[str, list[float]] = {"loss": [], "error": []}  # of this epoch
        saved = records.of(name, seed)
        if saved is not None:
            state, step = saved.restore(state), saved.note["step"]
            values = saved.note["values"]
        state = self._devices.place(state)
        steps_per_epoch = self._batches.steps_per_epoch
        total = self._config.epochs * steps_per_epoch
        if step < total:
            phase = f"{records.phase}/{name}"
            if self._loop is None:
                self._loop = self._compile(state)
                note_compilation(records.workdir, phase, step, self._loop)
            deliveries = self._batches.deliveries(seed, step, self._devices)
            taken = observed(
                self._loop,
                self._loop.steps(state, total - step, deliveries),
                records.workdir,
                f"{phase}/{seed}",
                step,
            )
            with interrupt.deferred(), contextlib.closing(taken):
                for state, metrics in taken:
                    step += len(metrics)
                    for metric, of_epoch in values.items():
                        of_epoch += [m[f"network/{metric}"] for m in metrics]
                    shown = {"loss": metrics[-1]["network/loss"]}
                    records.update(before + step, shown, f"{name}/{seed}")
                    note = {"network": name, "seed": seed, "step": step}
                    if step % steps_per_epoch == 0:
                        row = {"phase": records.phase, **note}
                        row["epoch"] = step // steps_per_epoch - 1
                        for metric, of_epoch in values.items():
                            row[f"train_{metric}"] = float(np.mean(of_epoch))
                            values[metric] = []
                        records.workdir.append_rows([row])
                    records.saver.offer(
                        range(step - len(metrics) + 1, step + 1),
                        partial(self._devices.fetch, state),
                        partial(dict, note, values=values),
                        offset=before,
                        last=step == total,
                    )
        variables = judged_variables(self._devices.fetch(state))
        return self._judged(variables), variables

    def describe(self, name: str, errors: list[float]) -> dict[str, Any]:
        """Returns the network's row of the summary."""
        mobile = {}
        if self._config.stem == "imagenet":
            channels = self._data.image_shape[2]
            mobile["mobile"] = mobile_setting(self._deployed, channels)
        return {
            "name": name,
            "genotype": self._genotype.to_json(),
            "params": count_params(self._deployed, self._data.image_shape),
            "macs": count_macs(self._deployed, self._data.image_shape),
            **mobile,
            "errors": errors,
            **mean_and_std(errors),
        }

    def _initial_state(self, seed: int) -> State:
        init_key, run_key = training_keys(self._root, seed)
        # Draw by draw: one program of all draws takes minutes to compile.
        images = jax.ShapeDtypeStruct((2, *self._data.image_shape), jnp.float32)
        variables = self._init(init_key, images, train=False)
        state = self._program.init(
            {"weights": variables["params"]},
            run_key,
            {"network": variables["batch_stats"]},
        )
        return with_average(state) if self._config.average else state

    def _compile(self, state: State) -> CompiledLoop:
        steps_per_epoch = self._batches.steps_per_epoch
        epochs = self._config.epochs

        def with_progress(batches: dict[str, Batch], step: Array) -> dict[str, Any]:
            return {**batches, "progress": step // steps_per_epoch / epochs}

        return compile_loop(
            self._program,
            state,
            {"train": self._batches.stream},
            self._devices,
            steps_per_epoch,
            prepare=with_progress,
        )

    def _judged(self, variables: PyTree) -> Judgement:
        """Returns what the network does on all held-out images."""
        batches, gather = heldout_batches(self._data)
        logits = partial(self._logits, variables)
        return judge(logits, batches, self._data.num_classes, gather)
