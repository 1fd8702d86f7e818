import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.subroutines import subroutine


def _piece(x, w, power=2):
    return jnp.sin(x @ w) ** power


def _chain(piece):
    def loss(x, w):
        for _ in range(3):
            x = piece(x, w)
        return x.sum()

    return loss


def test_a_subroutine_is_the_function_and_its_derivatives():
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    piece = subroutine(_piece, static_argnames="power")
    np.testing.assert_allclose(piece(x, x, power=3), _piece(x, x, 3), rtol=1e-5)

    def curvature(loss):
        return jax.jvp(jax.grad(loss, (0, 1)), (x, x), (x, -x))

    got, want = curvature(_chain(piece)), curvature(_chain(_piece))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_subroutine_is_traced_once_for_its_uses():
    traces = []

    def counted(x, w):
        traces.append(x)
        return _piece(x, w)

    jax.grad(_chain(subroutine(counted)))(jnp.ones((2, 2)), jnp.ones((2, 2)))
    assert len(traces) == 1


def test_on_cpu_no_use_holds_a_copy():
    def calls(piece):
        lowered = jax.jit(_chain(piece)).lower(jnp.ones((2, 2)), jnp.ones((2, 2)))
        return lowered.compile().as_text().count(" call(")

    assert jax.default_backend() == "cpu"
    assert calls(subroutine(_piece)) == 3
    assert calls(jax.jit(_piece)) == 0


def test_what_a_subroutine_calls_is_put_in():
    inner = jax.jit(lambda x: jnp.cos(x) + 1)
    outer = subroutine(lambda x, w: inner(x) @ w)
    text = jax.jit(_chain(outer)).lower(jnp.ones((2, 2)), jnp.ones((2, 2)))
    assert text.compile().as_text().count(" call(") == 3


def test_on_accelerators_nothing_is_marked(monkeypatch):
    inner = jax.jit(lambda x: jnp.cos(x) + 1)
    outer = subroutine(lambda x, w: inner(x) @ w)
    ones = jnp.ones((2, 2))
    assert "inlineable" in jax.jit(_chain(outer)).lower(ones, ones).as_text()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    outer = subroutine(lambda x, w: inner(x) @ w)
    assert "inlineable" not in jax.jit(_chain(outer)).lower(ones, ones).as_text()
