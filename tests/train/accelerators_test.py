"""What accelerators are given: other forms of the same arithmetic, which lower for them."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from skillearn_jax.data import from_arrays
from skillearn_jax.train.build import build_search
from skillearn_jax.tree import cast_floats

EVERYTHING = {
    "search.warmup_epochs": 0,
    "search.partial": 2,
    "search.channels": 4,
    "search.auxiliary_skip": "cosine",
    "search.remat": True,
    "space.edge_normalization": True,
    "space.ops": ("max_pool_3x3", "skip_connect", "dil_conv_3x3"),
}
BATCH = 4


@pytest.fixture
def searched(tiny):
    """`skill -> (program, state, batches)`, on images of noise."""

    def build(skill):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2 * BATCH, 8, 8, 3), dtype=np.uint8)
        labels = np.arange(2 * BATCH) % 4
        data = from_arrays("noise", images, labels, images, labels)
        config = tiny({**EVERYTHING, "skill": skill})
        setup = build_search(config, data, jax.random.key(0), steps_per_epoch=2)
        (phase,) = setup.phases
        state = phase.program.init(setup.params, jax.random.key(1), setup.model_state)
        batch = {
            "image": rng.normal(size=(BATCH, 8, 8, 3)).astype(np.float32),
            "label": labels[:BATCH].astype(np.int32),
        }
        return phase.program, state, dict.fromkeys(phase.program.streams, batch)

    return build


@pytest.fixture
def on(monkeypatch):
    """`on("gpu")`: what is traced from now on is for that backend."""

    def choose(backend):
        jax.clear_caches()
        monkeypatch.setattr(jax, "default_backend", lambda: backend)

    yield choose
    monkeypatch.undo()
    jax.clear_caches()


def test_their_forms_are_the_arithmetic_of_the_cpu(
    searched, on, x64, quick_compilation
):
    """A hypergradient in float64, with what a GPU is given compiled for the CPU."""
    program, state, batches = searched("baseline")
    args = cast_floats((state, batches), "float64")
    found, texts = [], []
    for backend in ("cpu", "gpu"):
        on(backend)
        lowered = jax.jit(lambda *args: program.hypergrad(*args)[0]).lower(*args)
        texts.append(lowered.as_text())
        found.append(lowered.compile()(*args))
    # The forms do differ: subroutines are the CPU's alone.
    assert ['inlineable = "false"' in text for text in texts] == [True, False]
    want, got = (ravel_pytree(gradient)[0] for gradient in found)
    size = np.linalg.norm(want)
    assert size > 0
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11 * size)


def test_a_chunk_of_search_steps_lowers_for_them(searched, on):
    program, state, batches = searched("lpt")

    def chunk(state, batches, count):
        return jax.lax.fori_loop(
            0, count, lambda _, state: program.step(state, batches)[0], state
        )

    for backend, platform in (("gpu", "cuda"), ("tpu", "tpu")):
        on(backend)
        traced = jax.jit(chunk).trace(state, batches, 3)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") > 50
