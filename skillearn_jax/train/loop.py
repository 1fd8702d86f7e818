"""Floor 4: stepping a program: draw, step, collect metrics, stop at nonsense."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax

from skillearn_jax.data import Batch, Delivered, Drawn, sample
from skillearn_jax.errors import NonFiniteError
from skillearn_jax.framework import Program, State
from skillearn_jax.parallel import Devices
from skillearn_jax.randomness import named_key
from skillearn_jax.train.recompile import CompiledOnce
from skillearn_jax.types import Metrics

Streams = Mapping[str, Drawn]
StepMetrics = dict[str, float]


class CompiledLoop(NamedTuple):
    """A program and its streams, compiled into one call for `chunk` steps.

    Attributes:
        call: `(state, streams) -> (state, metrics)`, metrics stacked over the chunk.
        streams: placed on the devices.
        devices: that it runs on.
        chunk: steps in one call. One where a batch is delivered for each, and on CPU,
            where a call costs little beside a step.
        compile_s: seconds that compilation took.
    """

    call: Callable[..., tuple[State, Metrics]]
    streams: Streams
    devices: Devices
    chunk: int
    compile_s: float

    def program_bytes(self) -> dict[str, int]:
        """Returns the memory that the compiled program needs, where XLA tells."""
        compiled = getattr(self.call, "compiled", None)
        analysis = getattr(compiled, "memory_analysis", lambda: None)()
        names = ("argument", "output", "temp")
        return {
            f"{name}_bytes": int(getattr(analysis, f"{name}_size_in_bytes"))
            for name in names
            if hasattr(analysis, f"{name}_size_in_bytes")
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
            count: steps to take: a multiple of `chunk`.
            deliveries: the streams of each call, placed, if batches come from the host;
                by default `streams`, which hold all that is drawn.

        Raises:
            NonFiniteError: at the first step with a metric that is NaN or infinite.
        """
        inputs = deliveries or itertools.repeat(self.streams)
        calls = count // self.chunk
        streams = next(inputs) if calls else None
        before = int(self.devices.fetch(state.step)) if calls else 0
        for call in range(calls):
            state, stacked = self.call(state, streams)
            if call + 1 < calls:  # while the devices compute
                streams = next(inputs)
            stacked = jax.device_get(self.devices.fetch(stacked))
            metrics = [
                {name: float(values[i]) for name, values in stacked.items()}
                for i in range(self.chunk)
            ]
            first = before + call * self.chunk + 1
            for step, of_step in enumerate(metrics, start=first):
                _check_finite(of_step, step)
            yield state, metrics


def compile_loop(
    program: Program,
    state: State,
    streams: Streams,
    devices: Devices,
    steps_per_epoch: int,
    prepare: Callable[[dict[str, Batch], jax.Array], dict[str, Batch]] | None = None,
    *,
    begin: int = 0,
    step: Callable[..., tuple[State, Metrics]] | None = None,
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
        steps_per_epoch: a chunk never crosses the end of an epoch.
        prepare: `(batches, step) -> batches`, to add what a loss needs to know.
        begin: the step that it goes on from: one in mid-epoch may need shorter chunks.
        step: `(state, batches) -> (state, metrics)`; by default the program's own.

    Cost: one compilation, reported in `compile_s`.
    """
    whole = math.gcd(steps_per_epoch, begin)
    delivered = any(isinstance(stream, Delivered) for stream in streams.values())
    single = delivered or jax.default_backend() == "cpu"
    chunk = 1 if single else _divisor(whole, 50)

    def one(state: State, streams: Streams) -> tuple[State, Metrics]:
        data_key = named_key(state.key, "data")
        batches = sample(streams, data_key, state.step, devices.part)
        if prepare is not None:
            batches = prepare(batches, state.step)
        return (step or program.step)(state, batches)

    def body(state: State, streams: Streams) -> tuple[State, Metrics]:
        if chunk > 1:
            return jax.lax.scan(
                lambda state, _: one(state, streams), state, length=chunk
            )
        state, metrics = one(state, streams)
        return state, jax.tree.map(lambda value: value[None], metrics)

    placed = {
        name: devices.split(stream)
        if isinstance(stream, Delivered)
        else devices.place(stream, donated=False)
        for name, stream in streams.items()
    }
    start = time.perf_counter()
    call = CompiledOnce(
        partial(devices.compile, body), ("state", "streams"), state, placed
    )
    return CompiledLoop(
        call, placed, devices, chunk, compile_s=time.perf_counter() - start
    )


def _check_finite(metrics: StepMetrics, step: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{name} became {value} at step {step}: lower the learning rate of what "
                "feeds it, or clip its gradient"
            )


def _divisor(number: int, most: int) -> int:
    """Returns the largest divisor of a number that is at most `most`."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)
