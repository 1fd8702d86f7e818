"""Floor 4: stepping a program: draw, step, collect metrics, stop at nonsense."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from skillearn_jax.data import Batch, Delivered, Drawn, sample
from skillearn_jax.errors import NonFiniteError
from skillearn_jax.framework import Program, State
from skillearn_jax.parallel import Devices
from skillearn_jax.randomness import named_key
from skillearn_jax.train.recompile import CompiledOnce
from skillearn_jax.types import Array, Metrics

Streams = Mapping[str, Drawn]
StepMetrics = dict[str, float]

_MOST_STEPS = 50
"""In one call: a signal, a progress bar and what is written wait for its end."""


class CompiledLoop(NamedTuple):
    """A program and its streams, compiled into one call for up to `chunk` steps.

    Attributes:
        call: `(state, streams, count) -> (state, metrics)`, metrics `[chunk]`, of which
            the first `count` are of steps.
        streams: placed on the devices.
        devices: that it runs on.
        chunk: the most steps of a call. One where a batch is delivered for each, and on
            CPU, where a call costs little beside a step.
        steps_per_epoch: no call crosses the end of an epoch.
        compile_s: seconds that compilation took.
    """

    call: CompiledOnce
    streams: Streams
    devices: Devices
    chunk: int
    steps_per_epoch: int
    compile_s: float

    def size(self, step: int) -> int:
        """Returns the steps of the call after `step` steps: to the end of their chunk.

        The same calls end at the same steps in a run that goes on from any checkpoint.
        """
        of_epoch = step % self.steps_per_epoch
        of_chunk = of_epoch % self.chunk
        return min(self.chunk - of_chunk, self.steps_per_epoch - of_epoch)

    def program_bytes(self) -> dict[str, int]:
        """Returns the memory that the compiled program needs, where XLA tells."""
        analysis = self.call.compiled.memory_analysis()
        if analysis is None:
            return {}
        return {
            f"{name}_bytes": int(getattr(analysis, f"{name}_size_in_bytes"))
            for name in ("argument", "output", "temp")
        }

    def steps(
        self,
        state: State,
        count: int,
        deliveries: Iterator[Streams] | None = None,
    ) -> Iterator[tuple[State, list[StepMetrics]]]:
        """Yields the state after each call, with the metrics of its steps.

        Args:
            state: placed on the devices; donated.
            count: steps to take, one or more.
            deliveries: the streams of each call, placed, if batches come from the host;
                by default `streams`, which hold all that is drawn.

        Raises:
            NonFiniteError: at the first step with a metric that is NaN or infinite.
        """
        inputs = deliveries or itertools.repeat(self.streams)
        placed = functools.cache(lambda size: self.devices.place(jnp.int32(size)))
        streams = next(inputs)
        step = int(self.devices.fetch(state.step))
        end = step + count
        while step < end:
            size = min(self.size(step), end - step)
            state, stacked = self.call(state, streams, placed(size))
            if step + size < end:  # while the devices compute
                streams = next(inputs)
            stacked = jax.device_get(self.devices.fetch(stacked))
            metrics = [
                {name: float(values[i]) for name, values in stacked.items()}
                for i in range(size)
            ]
            for number, of_step in enumerate(metrics, start=step + 1):
                _check_finite(of_step, number)
            step += size
            yield state, metrics


def compile_loop(
    program: Program,
    state: State,
    streams: Streams,
    devices: Devices,
    steps_per_epoch: int,
    prepare: Callable[[dict[str, Batch], jax.Array], dict[str, Batch]] | None = None,
) -> CompiledLoop:
    """Returns the compiled loop body: draw a batch of each stream, then step.

    The batches are a function of `state.key` and `state.step`, so a run that goes on
    from a checkpoint draws what the uninterrupted one would have drawn.

    Args:
        program: with `axis_name = devices.axis_name`.
        state: of the program, placed on the devices.
        streams: one for each stream that the program reads. With a `Delivered` among
            them, which is for its shapes alone, `CompiledLoop.steps` needs deliveries.
        devices: to run on.
        steps_per_epoch: a call never crosses the end of an epoch.
        prepare: `(batches, step) -> batches`, to add what a loss needs to know.

    Cost: one compilation, reported in `compile_s`.
    """
    delivered = any(isinstance(stream, Delivered) for stream in streams.values())
    single = delivered or jax.default_backend() == "cpu"
    calls = math.ceil(steps_per_epoch / _MOST_STEPS)
    chunk = 1 if single else math.ceil(steps_per_epoch / calls)

    def one(state: State, streams: Streams) -> tuple[State, Metrics]:
        data_key = named_key(state.key, "data")
        batches = sample(streams, data_key, state.step, devices.part)
        if prepare is not None:
            batches = prepare(batches, state.step)
        return program.step(state, batches)

    def body(state: State, streams: Streams, count: Array) -> tuple[State, Metrics]:
        if chunk == 1:
            state, metrics = one(state, streams)
            return state, jax.tree.map(lambda value: value[None], metrics)
        traced = jax.jit(one)  # once, for the shapes of its metrics and in the loop
        rows = jax.tree.map(
            lambda value: jnp.zeros((chunk, *value.shape), value.dtype),
            jax.eval_shape(traced, state, streams)[1],
        )

        def more(i: Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, rows = carry
            state, metrics = traced(state, streams)
            return state, jax.tree.map(
                lambda row, value: row.at[i].set(value), rows, metrics
            )

        return jax.lax.fori_loop(0, count, more, (state, rows))

    held = {n: s for n, s in streams.items() if not isinstance(s, Delivered)}
    placed = dict(devices.place(held, donated=False))
    placed |= {n: devices.split(s) for n, s in streams.items() if n not in held}
    start = time.perf_counter()
    call = CompiledOnce(
        functools.partial(devices.compile, body),
        ("state", "streams", "count"),
        state,
        placed,
        devices.place(jnp.int32(chunk)),
    )
    seconds = time.perf_counter() - start
    return CompiledLoop(call, placed, devices, chunk, steps_per_epoch, seconds)


def _check_finite(metrics: StepMetrics, step: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{name} became {value} at step {step}: lower the learning rate of what "
                "feeds it, or clip its gradient"
            )
