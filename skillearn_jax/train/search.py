"""Floor 4: the search phase: from images to a genotype."""

import contextlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from skillearn_jax.data import Augmentation, Examples, ImageData, Stream, halves
from skillearn_jax.framework import State
from skillearn_jax.nas import Genotype, derive_genotype
from skillearn_jax.parallel import Devices
from skillearn_jax.train.build import SearchSetup, build_search
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.config import Config
from skillearn_jax.train.console import Console, Update
from skillearn_jax.train.loop import StepMetrics, compile_loop
from skillearn_jax.train.workdir import Workdir
from skillearn_jax.types import Key

_SHOWN = {
    "loss": "learner/loss",
    "objective": "validation/objective",
    "exam": "validation/exam_loss",
    "tester acc": "validation/tester_accuracy",
    "|dA|": "hypergrad/alphas/norm",
    "|dC|": "hypergrad/creator/norm",
}
"""What the progress bar shows, in this order, where a run has it."""


class SearchResult(NamedTuple):
    """What a search found, and what it took.

    Attributes:
        genotype: the derived cells.
        epochs: of the search, warm-up included.
        steps: taken in all.
        compile_s: seconds of compilation, of the last process that worked on the run.
        steps_s: seconds of stepping, likewise.
    """

    genotype: Genotype
    epochs: int
    steps: int
    compile_s: float
    steps_s: float


def search_streams(
    config: Config, train: Examples, data: ImageData
) -> dict[str, Stream]:
    """Returns the data streams of a search, on the device.

    The first part of the training images trains the learner and the tester, on the same
    batches; the rest is both validation set and exam bank, drawn independently. All
    three are augmented. The held-out images are not an argument.

    Args:
        config: sizes and augmentation.
        train: the training images.
        data: for the statistics of pixels.
    """
    first, second = halves(
        train, config.data.train_fraction, stratified=config.data.stratified
    )
    second = jax.device_put(second)
    augmentation = Augmentation(
        config.data.padding, config.data.flip, config.data.cutout
    )

    def stream(examples: Examples, order: str) -> Stream:
        return Stream(
            examples,
            config.data.batch_size,
            data.mean,
            data.std,
            order=order,
            augmentation=augmentation,
        )

    return {
        "train": stream(first, "epochs"),
        "val": stream(second, "random"),
        "bank": stream(second, "random"),
    }


def search(
    config: Config,
    data: ImageData,
    workdir: Workdir,
    devices: Devices,
    console: Console,
) -> SearchResult:
    """Runs the search phase, going on from the newest checkpoint if there is one.

    Args:
        config: of the run.
        data: whose training images are searched on; the held-out ones are not read.
        workdir: gets `config.json`, lines of `metrics.jsonl`, checkpoints at the end of
            each epoch, `genotype.json`.
        devices: to run on.
        console: for the printout and the progress bar.

    Raises:
        NonFiniteError: if a loss or a gradient becomes NaN or infinite.
        InputError: if the checkpoint cannot be read.
    """
    streams = search_streams(config, data.train, data)
    steps_per_epoch = streams["train"].steps_per_epoch
    build_key, run_key = jax.random.split(jax.random.key(config.seed))
    setup = build_search(config, data, build_key, steps_per_epoch, devices.axis_name)
    program = setup.phases[-1].program
    workdir.write_config(str(program))
    console.message(str(program))

    total = config.search.epochs * steps_per_epoch
    with (
        contextlib.closing(Checkpoints(workdir.path / "checkpoints")) as checkpoints,
        console.progress("search", total) as update,
    ):
        recorder = _Recorder(config, workdir, checkpoints, update, steps_per_epoch)
        state, compile_s, steps_s = _run_phases(
            setup, streams, run_key, devices, recorder
        )
    genotype = derive_genotype(
        jax.tree.map(np.asarray, state.params["alphas"]), setup.space
    )
    workdir.write_json("genotype.json", genotype.to_json())
    return SearchResult(genotype, config.search.epochs, total, compile_s, steps_s)


def _run_phases(
    setup: SearchSetup,
    streams: dict[str, Stream],
    key: Key,
    devices: Devices,
    recorder: "_Recorder",
) -> tuple[State, float, float]:
    """Steps through what is left of the phases.

    Returns:
        The last state, and the seconds of compilation and of stepping.
    """
    done = recorder.go_on()
    compile_s, steps_s, start = 0.0, 0.0, 0
    state: State | None = None
    for phase in setup.phases:
        begin, start = start, start + phase.epochs * recorder.steps_per_epoch
        if done > start:
            continue
        params = {name: setup.params[name] for name in phase.program.sets}
        state = phase.enter(params, key, setup.model_state, state)
        if done > begin:
            state = recorder.checkpoints.load(state)
        left = start - int(state.step)
        if not left:
            continue
        latest = placed = devices.place(state)
        loop = compile_loop(
            phase.program,
            placed,
            {name: streams[name] for name in phase.program.streams},
            devices,
            recorder.steps_per_epoch,
        )
        compile_s += loop.compile_s
        clock, step = time.perf_counter(), int(state.step)
        for latest, metrics in loop.steps(placed, left):
            step += len(metrics)
            recorder.record(phase.name, step, metrics)
            if step % recorder.steps_per_epoch == 0:
                recorder.keep(phase.name, step, devices.fetch(latest))
        steps_s += time.perf_counter() - clock
        state = devices.fetch(latest)
    assert state is not None
    return state, compile_s, steps_s


class _Recorder(NamedTuple):
    """Where the metrics and the states of a search go."""

    config: Config
    workdir: Workdir
    checkpoints: Checkpoints
    update: Update
    steps_per_epoch: int

    def go_on(self) -> int:
        """Returns the step to go on from, and forgets the metrics of later ones."""
        done = self.checkpoints.latest_step() or 0
        self.workdir.keep_metrics(
            lambda row: (
                row.get("phase") not in ("warmup", "search") or row["step"] <= done
            )
        )
        return done

    def record(self, phase: str, last: int, metrics: list[StepMetrics]) -> None:
        """Notes the metrics of some steps, up to the step `last`."""
        first = last - len(metrics) + 1
        self.workdir.append_metrics(
            self._row(phase, step, of_step)
            for step, of_step in enumerate(metrics, start=first)
            if step % self.config.log_every == 0
        )
        self.update(last, _shown(metrics[-1]))

    def keep(self, phase: str, step: int, state: State) -> None:
        """Saves the state that an epoch ends in."""
        # Rows first: a run that goes on drops those beyond its checkpoint.
        self.workdir.append_metrics([self._row(phase, step, _entropies(state))])
        self.checkpoints.save(state)

    def _row(self, phase: str, step: int, metrics: StepMetrics) -> dict[str, Any]:
        epoch = (step - 1) // self.steps_per_epoch
        return {"phase": phase, "step": step, "epoch": epoch, **metrics}


def _shown(metrics: StepMetrics) -> StepMetrics:
    return {label: metrics[name] for label, name in _SHOWN.items() if name in metrics}


def _entropies(state: State) -> StepMetrics:
    """Returns the mean entropy of an edge's operations, in nats, per kind of cell."""
    entropies = {}
    for kind, logits in state.params["alphas"].items():
        logits = np.asarray(logits, np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -np.sum(weights * np.log(weights), axis=1)
        entropies[f"alphas/entropy/{kind}"] = float(entropy.mean())
    return entropies
