"""Floor 4: the search phase: from images to a genotype."""

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from skillearn_jax.data import Stream, TrainingImages, sample
from skillearn_jax.errors import InputError
from skillearn_jax.framework import Phase, State
from skillearn_jax.nas.schedules import Stability, has_settled
from skillearn_jax.parallel import Devices, check_same
from skillearn_jax.randomness import named_key
from skillearn_jax.train import interrupt
from skillearn_jax.train.benchmark import Benchmark
from skillearn_jax.train.build import SearchSetup
from skillearn_jax.train.build_tasks import build_program
from skillearn_jax.train.checkpoints import Checkpoints, Saved
from skillearn_jax.train.config import CheckpointConfig, Config
from skillearn_jax.train.console import Console, Update
from skillearn_jax.train.exam_contents import write_exam
from skillearn_jax.train.exams import EXAMS, append_exams, exams_are_over
from skillearn_jax.train.images import SearchImages
from skillearn_jax.train.loop import StepMetrics, compile_loop
from skillearn_jax.train.saving import Saver
from skillearn_jax.train.search_shown import shown
from skillearn_jax.train.search_streams import longest_epoch, streams_of
from skillearn_jax.train.spaces import Cells, space_kind
from skillearn_jax.train.stages import (
    STAGES,
    SearchStage,
    never_settles,
    next_space,
    note_stage,
    noted_stage,
    search_stage,
)
from skillearn_jax.train.telemetry import note_compilation, observed, parse_profile
from skillearn_jax.train.workdir import Workdir
from skillearn_jax.types import Key, Metrics


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
        genotype: the derived cells.
        epochs: of the search, warm-up included; fewer than asked for if a rule stopped it.
        steps: taken in all.
    """

    genotype: Cells
    epochs: int
    steps: int


def search(
    config: Config,
    data: SearchImages,
    workdir: Workdir,
    devices: Devices,
    console: Console,
    bank: TrainingImages | None = None,
    benchmark: Benchmark | None = None,
) -> SearchResult:
    """Runs the search phase, going on from the newest checkpoint if there is one.

    Args:
        config: of the run.
        data: the training images of one set or of several tasks.
        workdir: gets `config.json`, lines of `metrics.jsonl`, checkpoints,
            `genotype.json`; of a search in stages also `stages.json`, of one with
            exams `exam.json`.
        devices: to run on.
        console: for the printout and the progress bar.
        bank: that exams are drawn from; by default the validation set.
        benchmark: to look the derived cell up in, after each epoch.

    Raises:
        NonFiniteError: if a loss or a gradient becomes NaN or infinite.
        InputError: if no checkpoint of those that are there can be read, and if a
            finished search has none.
        Interrupted: after a save, if a signal asked for the end.
        StorageError: if the disk does not take what is to be written.
    """
    streams = streams_of(config, data, bank)
    steps_per_epoch = longest_epoch(streams)
    build_key, run_key = search_keys(config.seed)
    num_stages = config.search.num_stages
    total = num_stages * config.search.epochs * steps_per_epoch
    profiled = parse_profile(config.profile)
    if profiled.start >= total:
        raise InputError(
            f"config.profile is {config.profile!r}, but the search has {total} steps: set "
            "--config.profile"
        )
    space, state = config.space.build(), None
    checkpoints = Checkpoints(
        workdir.path / "checkpoints" / "search",
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric,
        beside=workdir.path,
        say=console.message,
    )
    with contextlib.closing(checkpoints):
        saved = checkpoints.newest()
        check_same(saved and saved.step, "the newest checkpoint")
        first = 0
        if saved is not None:
            first, space = noted_stage(config, saved.note)
            workdir.read_json(STAGES, [])  # refused here, not at the end of a stage
        else:
            refuse_to_repeat(workdir, "checkpoints/search")
        saver = Saver(checkpoints, config.checkpoint, steps_per_epoch)
        for index in range(first, num_stages):
            stage = search_stage(config, index, space)
            setup = build_program(
                config,
                data,
                jax.random.fold_in(build_key, index),
                steps_per_epoch,
                devices.axis_name,
                stage,
            )
            program = str(setup.phases[-1].program)
            if index == first:
                _check_best_metric(config, data, streams, steps_per_epoch, stage)
            workdir.write_config(program)  # at the end that of the last stage
            console.message(program)
            if index + 1 == num_stages and never_settles(config, stage):
                console.message(
                    "no edge of this stage has two operations with parameters left, so "
                    "the rule 'ranking' has nothing to judge: all epochs are taken"
                )
            name = f"search {index + 1}/{num_stages}" if num_stages > 1 else "search"
            with console.progress(name, total) as update:
                recorder = _Recorder(
                    config, stage, workdir, saver, update, steps_per_epoch, benchmark
                )
                state = _run_phases(
                    setup, streams, run_key, devices, recorder, state, saved
                )
            saved = None  # the next stage goes on from this one
            if index + 1 < num_stages:
                space = next_space(config, stage, _alphas(state), workdir)
    assert state is not None
    genotype = derived(state, space, config)
    workdir.write_json("genotype.json", genotype.to_json())
    if config.skill == "lpt" and not isinstance(data, Mapping):
        write_exam(config, data, state, streams, workdir, stage, bank)
    steps = int(state.step)
    if steps < total:
        console.message(f"stopped by the rule {config.search.stop!r} at step {steps}")
    return SearchResult(genotype, steps // steps_per_epoch, steps)


def search_keys(seed: int) -> tuple[Key, Key]:
    """Returns the keys of a search: of what its stages build, and of its steps.

    Children of a name: the seeds of the evaluation are those of a number.
    """
    build_key, run_key = jax.random.split(named_key(jax.random.key(seed), "search"))
    return build_key, run_key


def refuse_to_repeat(workdir: Workdir, lost: str) -> None:
    """Raises `InputError` for a finished search that could not go on, only begin anew.

    Args:
        workdir: of the run.
        lost: that a search goes on from, and is not there.
    """
    if workdir.read_json("genotype.json") is not None:
        path = workdir.path
        raise InputError(
            f"{path} holds the genotype.json of a finished search, but no {lost}, which it "
            f"would go on from: restore it, set --config.genotype={path} and --workdir to "
            f"a new folder, or remove {path / 'genotype.json'} to search again"
        )


def _check_best_metric(
    config: Config,
    data: SearchImages,
    streams: dict[str, Stream],
    steps_per_epoch: int,
    stage: SearchStage,
) -> None:
    """Raises `InputError` unless the search proper returns the metric; compiles nothing."""
    name = config.checkpoint.best_metric
    if not config.checkpoint.keep_best or name == CheckpointConfig().best_metric:
        return

    def metrics() -> Metrics:
        key = jax.random.key(0)
        # On one device: the number of them changes no name.
        setup = build_program(config, data, key, steps_per_epoch, None, stage)
        program = setup.phases[-1].program
        params = {name: setup.params[name] for name in program.sets}
        state = program.init(params, key, setup.model_state)
        read = {name: streams[name] for name in program.streams}
        return program.step(state, sample(read, key, state.step))[1]

    known = jax.eval_shape(metrics)
    if name not in known:
        raise InputError(
            f"config.checkpoint.best_metric is {name!r}; it must be among "
            f"{', '.join(sorted(known))}: set --config.checkpoint.best_metric"
        )


def derived(state: State, space: Any, config: Config) -> Cells:
    """Returns the cells that a state's architecture prefers."""
    return space_kind(config).derive(_alphas(state), space, config.search.max_skips)


def _alphas(state: State) -> dict[str, np.ndarray]:
    return jax.device_get(state.params["alphas"])


def _run_phases(
    setup: SearchSetup,
    streams: dict[str, Stream],
    key: Key,
    devices: Devices,
    recorder: "_Recorder",
    state: State | None,
    saved: Saved | None,
) -> State:
    """Steps through what is left of the phases of a stage; returns the last state.

    It goes on from the state that the stage before ended in, or from a checkpoint.
    """
    stability, stopped = Stability(), False
    if state is None:
        stability, stopped = recorder.go_on(saved)
    done = saved.step if saved else int(state.step) if state else 0
    stage = recorder.stage.index
    start = stage * recorder.config.search.epochs * recorder.steps_per_epoch
    for phase in setup.phases:
        begin, start = start, start + phase.epochs * recorder.steps_per_epoch
        if done > start:
            continue
        params = {name: setup.params[name] for name in phase.program.sets}
        state = phase.enter(params, key, setup.model_state, state)
        if saved and done > begin:
            state = saved.restore(state)
        step = int(state.step)
        left = start - step
        if not left or stopped:
            continue
        state = placed = devices.place(state)
        loop = compile_loop(
            phase.program,
            placed,
            {name: streams[name] for name in phase.program.streams},
            devices,
            recorder.steps_per_epoch,
        )
        note_compilation(recorder.workdir, phase.name, step, loop)
        with interrupt.deferred():
            for state, metrics in observed(
                loop,
                loop.steps(placed, left),
                recorder.workdir,
                phase.name,
                step,
                parse_profile(recorder.config.profile),
            ):
                step += len(metrics)
                recorder.record(phase.name, step, metrics)
                if step % recorder.steps_per_epoch == 0:
                    stability, stopped = recorder.end_epoch(
                        phase, step, devices.fetch(state), stability
                    )
                recorder.saver.offer(
                    range(step - len(metrics) + 1, step + 1),
                    partial(devices.fetch, state),
                    partial(recorder.note, phase, stability, stopped),
                    last=stopped or step == start,
                )
                if stopped:
                    break
        state = devices.fetch(state)
        del loop  # and the images that it placed, before the next one places its own
    assert state is not None
    return state


class _Recorder(NamedTuple):
    """Where the metrics and the states of a search go."""

    config: Config
    stage: SearchStage
    workdir: Workdir
    saver: Saver
    update: Update
    steps_per_epoch: int
    benchmark: Benchmark | None = None

    def go_on(self, saved: Saved | None) -> tuple[Stability, bool]:
        """Forgets the metrics of the steps after a checkpoint, or of all without one.

        Returns:
            How stable the ranking was at its last end of an epoch, and whether a rule had
            stopped the search there.
        """
        done = saved.step if saved else 0
        self.workdir.keep_rows(
            lambda row: (
                row.get("phase") not in ("warmup", "search") or row["step"] <= done
            )
        )
        for name in (EXAMS, "alphas.jsonl"):
            self.workdir.keep_rows(lambda row: row["step"] <= done, name)
        if saved is None:
            return Stability(), False
        return Stability(*saved.note["stability"]), saved.note["stopped"]

    def note(self, phase: Phase, stability: Stability, stopped: bool) -> dict[str, Any]:
        """Returns what a checkpoint holds beside the state."""
        return {
            "phase": phase.name,
            **note_stage(self.stage),
            "stability": list(stability),
            "stopped": stopped,
        }

    def record(self, phase: str, last: int, metrics: list[StepMetrics]) -> None:
        """Notes the metrics of some steps, up to the step `last`."""
        first = last - len(metrics) + 1
        rows = [
            self._row(phase, step, of_step)
            for step, of_step in enumerate(metrics, start=first)
        ]
        self.workdir.append_rows(
            row for row in rows if row["step"] % self.config.log_every == 0
        )
        append_exams(self.workdir, rows)
        for of_step in metrics:
            self.saver.watch(of_step)
        self.update(last, shown(metrics[-1]), phase)

    def end_epoch(
        self, phase: Phase, step: int, state: State, stability: Stability
    ) -> tuple[Stability, bool]:
        """Notes what an epoch ends with.

        Returns:
            The stability after this epoch, and whether a rule ends the search here.
        """
        searching = phase.program.validation is not None
        kind, alphas = space_kind(self.config), _alphas(state)
        if searching:
            stability = stability.update(kind.ranks(alphas, self.stage.space))
        row: dict[str, Any] = {**kind.watch(alphas, self.stage.space)}
        if self.benchmark is not None:
            cells = derived(state, self.stage.space, self.config)
            row |= self.benchmark.look_up(cells)
        stopped = searching and self._stops(row[kind.skips], stability, state)
        row |= {"alphas/stable_epochs": float(stability.epochs), "stopped": stopped}
        # Before the save: a run that goes on drops the rows beyond its checkpoint.
        self.workdir.append_rows([self._row(phase.name, step, row)])
        logits = {name: of_cell.tolist() for name, of_cell in alphas.items()}
        self.workdir.append_rows(
            [{"phase": phase.name, "step": step, **logits}], "alphas.jsonl"
        )
        return stability, stopped

    def _stops(self, normal_skips: float, stability: Stability, state: State) -> bool:
        search = self.config.search
        if self.stage.index + 1 < search.num_stages:
            return False
        if search.stop == "curriculum":
            return exams_are_over(self.config, state)
        if search.stop == "skips":
            return normal_skips >= search.stop_skips
        if search.stop != "ranking" or never_settles(self.config, self.stage):
            return False
        return has_settled(stability, search.stop_ranking_epochs)

    def _row(self, phase: str, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        epoch = (step - 1) // self.steps_per_epoch
        return {"phase": phase, "step": step, "epoch": epoch, **metrics}
