"""The loop: draw, step, collect, stop at nonsense; the same in chunks of any size."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.data import Augmentation, Delivered, Examples, Stream
from skillearn_jax.errors import NonFiniteError
from skillearn_jax.framework import Aux, Program, Stage
from skillearn_jax.parallel import Devices
from skillearn_jax.randomness import named_key
from skillearn_jax.train.loop import compile_loop

pytestmark = pytest.mark.usefixtures("quick_module")

STEPS_PER_EPOCH = 6


def toy_program(bad_step=None, axis_name=None):
    """A linear fit whose `bias` metric is NaN at one step, if asked for."""

    def loss_fn(moves, reads, model_state, batch, key):
        pixels = batch["train"]["image"].reshape(-1, 4)
        noise = jax.random.uniform(key)
        errors = pixels @ moves["w"] - batch["train"]["label"] - noise
        bad = jnp.where(batch["step"] == bad_step, jnp.nan, 1.0) if bad_step else 1.0
        return jnp.mean(errors**2), Aux({"bias": bad * jnp.mean(errors)})

    stage = Stage(
        "fit",
        moves=("w",),
        loss_fn=loss_fn,
        data=("train", "step"),
        optimizer=optax.sgd(0.01),
    )
    return Program(stages=(stage,), axis_name=axis_name)


@pytest.fixture(scope="module")
def stream():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 2, 2, 1), dtype=np.uint8)
    labels = rng.integers(0, 3, 24).astype(np.int32)
    return Stream(Examples(images, labels), 4, (0.5,), (0.25,))


def with_step(batches, step):
    return {**batches, "step": step}


def run_toy(
    stream,
    count,
    *,
    backend="cpu",
    devices=1,
    way="pmap",
    bad_step=None,
    steps_per_epoch=STEPS_PER_EPOCH,
    before=None,
    monkeypatch,
):
    """Returns the loop, and the last state, all metrics and all sizes of calls."""
    devices = Devices(devices, way)
    program = toy_program(bad_step, devices.axis_name)
    state = before or program.init({"w": jnp.zeros(4)}, jax.random.key(1))
    placed = devices.place(state)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)
        loop = compile_loop(
            program, placed, {"train": stream}, devices, steps_per_epoch, with_step
        )
    collected, sizes = [], []
    for state, metrics in loop.steps(placed, count):
        collected += metrics
        sizes.append(len(metrics))
        latest = devices.fetch(state)
    return loop, latest, collected, sizes


def test_one_step_a_call_on_cpu(stream, monkeypatch):
    loop, state, metrics, sizes = run_toy(stream, 9, monkeypatch=monkeypatch)
    assert loop.chunk == 1
    assert sizes == [1] * 9
    assert int(state.step) == 9
    assert set(metrics[0]) == {"fit/loss", "fit/bias"}
    assert loop.compile_s > 0


def test_a_chunk_is_an_epoch_and_changes_nothing(stream, monkeypatch):
    _, one, expected, _ = run_toy(stream, 12, monkeypatch=monkeypatch)
    loop, many, metrics, sizes = run_toy(
        stream, 12, backend="gpu", monkeypatch=monkeypatch
    )
    assert loop.chunk == STEPS_PER_EPOCH
    assert sizes == [6, 6]
    assert int(many.step) == 12
    np.testing.assert_allclose(many.params["w"], one.params["w"], rtol=1e-5)
    for got, wanted in zip(metrics, expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)


def test_an_epoch_of_a_prime_number_of_steps_takes_few_calls(stream, monkeypatch):
    """97 steps of 256 images are half of CIFAR-10: no number of equal calls."""
    _, one, expected, _ = run_toy(stream, 194, monkeypatch=monkeypatch)
    loop, many, metrics, sizes = run_toy(
        stream, 194, backend="gpu", steps_per_epoch=97, monkeypatch=monkeypatch
    )
    assert loop.chunk == 49
    assert sizes == [49, 48, 49, 48]
    assert int(many.step) == 194
    np.testing.assert_allclose(many.params["w"], one.params["w"], rtol=1e-5)
    assert len(metrics) == len(expected) == 194
    for got, wanted in zip(metrics, expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("devices", "way"), [(1, "none"), (2, "pmap"), (2, "shard_map")]
)
def test_calls_end_where_they_did_after_going_on(devices, way, stream, monkeypatch):
    """From step 31 on, as after a signal on another machine: to the end of its chunk."""
    run = functools.partial(
        run_toy,
        stream,
        backend="gpu",
        devices=devices,
        way=way,
        steps_per_epoch=97,
        monkeypatch=monkeypatch,
    )
    _, whole, expected, _ = run(120)
    _, part, first, sizes = run(31)
    assert sizes == [31]
    _, again, rest, sizes = run(120 - 31, before=part)
    assert sizes == [18, 48, 23]
    assert int(again.step) == 120
    np.testing.assert_array_equal(again.params["w"], whole.params["w"])
    assert [*first, *rest] == expected


def test_a_step_is_traced_once_for_a_chunk(stream, monkeypatch):
    traces = []

    def traced(batches, step):
        traces.append(step)
        return with_step(batches, step)

    placed = Devices(1).place(
        toy_program().init({"w": jnp.zeros(4)}, jax.random.key(1))
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compile_loop(
        toy_program(), placed, {"train": stream}, Devices(1), STEPS_PER_EPOCH, traced
    )
    assert len(traces) == 1


def test_several_devices_change_nothing(stream, monkeypatch):
    _, one, expected, _ = run_toy(stream, 7, monkeypatch=monkeypatch)
    _, two, metrics, _ = run_toy(stream, 7, devices=2, monkeypatch=monkeypatch)
    np.testing.assert_allclose(two.params["w"], one.params["w"], rtol=1e-5)
    for got, wanted in zip(metrics, expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)


def test_batches_are_those_of_the_key_and_the_step(stream, monkeypatch):
    _, state, metrics, _ = run_toy(stream, 3, monkeypatch=monkeypatch)
    program = toy_program()
    again = program.init({"w": jnp.zeros(4)}, jax.random.key(1))
    key = named_key(named_key(again.key, "data"), "train")
    for step in range(3):
        batches = {"train": stream.draw(key, step), "step": step}
        again, wanted = program.step(again, batches)
        assert metrics[step]["fit/loss"] == pytest.approx(
            float(wanted["fit/loss"]), rel=1e-5
        )
    np.testing.assert_allclose(again.params["w"], state.params["w"], rtol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_first_bad_step_and_its_term_are_named(stream, backend, monkeypatch):
    """Steps are counted as in metrics.jsonl: the first one is 1."""
    with pytest.raises(NonFiniteError, match=r"fit/bias became nan at step 9:") as e:
        run_toy(stream, 12, backend=backend, bad_step=8, monkeypatch=monkeypatch)
    assert "\n" not in str(e.value)
    assert re.search(r"lower the learning rate", str(e.value))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_came_before_a_bad_step_was_yielded(stream, backend, monkeypatch):
    devices = Devices(1)
    program = toy_program(bad_step=8)
    placed = devices.place(program.init({"w": jnp.zeros(4)}, jax.random.key(1)))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)
        loop = compile_loop(
            program, placed, {"train": stream}, devices, STEPS_PER_EPOCH, with_step
        )
    taken = []

    def go_on():
        for _, metrics in loop.steps(placed, 12):
            taken.extend(metrics)

    with pytest.raises(NonFiniteError):
        go_on()
    assert len(taken) == (8 if backend == "cpu" else 6)


@pytest.mark.parametrize(("count", "way"), [(1, "none"), (2, "pmap"), (2, "shard_map")])
def test_every_step_takes_the_delivery_that_is_its_own(count, way):
    """None is asked for that no step takes; a run that goes on begins with its own."""
    devices, rows = Devices(count, way), jnp.arange(4, dtype=jnp.int32)

    def delivery(step):
        image = jnp.zeros((4, 1, 1, 1), jnp.uint8)
        labels = rows + 10 * step
        return Delivered(image, labels, rows, Augmentation(), (0.5,), (0.25,))

    def deliveries(first):
        for step in itertools.count(first):
            asked.append(step)
            yield {"train": devices.split(delivery(step))}

    def loss_fn(moves, reads, model_state, batch, key):
        told = {"label": jnp.mean(1.0 * batch["train"]["label"])}
        return jnp.sum(moves["w"] ** 2), Aux(told)

    stage = Stage(
        "fit", moves=("w",), loss_fn=loss_fn, data=("train",), optimizer=optax.sgd(0.1)
    )
    program = Program(stages=(stage,), axis_name=devices.axis_name)
    state = program.init({"w": jnp.ones(1)}, jax.random.key(0))
    streams = {"train": delivery(0)}
    loop = compile_loop(program, devices.place(state), streams, devices, 3)
    for first in (0, 2):
        asked = []
        placed = devices.place(state._replace(step=jnp.int32(first)))
        taken = [
            of_step["fit/label"]
            for _, metrics in loop.steps(placed, 5, deliveries(first))
            for of_step in metrics
        ]
        assert taken == [10 * step + 1.5 for step in range(first, first + 5)]
        assert asked == list(range(first, first + 5))
