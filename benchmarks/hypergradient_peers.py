"""The same hypergradient by other libraries, where they are installed; one JSON line each.

    python benchmarks/hypergradient_peers.py

Ridge regression with one log-penalty a coordinate, in float64, small enough that everything
has a closed form: that of one step of gradient descent from a cold start (`one-step`), and
that of the minimiser (`implicit`). A line says which of the two a library's method is meant
to be and how far it is from it. Libraries that are not there are named on stderr.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from machine import machine

from skillearn_jax import ConjugateGradient, Exact, at_solution, one_step

RATE, N = 0.1, 10
_RNG = np.random.default_rng(0)
X, Y = _RNG.normal(size=(40, N)), _RNG.normal(size=40)
X_VAL, Y_VAL = _RNG.normal(size=(30, N)), _RNG.normal(size=30)
START, T = _RNG.normal(size=N), 0.5 * _RNG.normal(size=N)
HESSIAN = X.T @ X / 40 + np.diag(np.exp(T))
SOLUTION = np.linalg.solve(HESSIAN, X.T @ Y / 40)


def inner(w: Any, t: Any, _: Any = None) -> Any:
    return jnp.mean((X @ w - Y) ** 2) / 2 + jnp.sum(jnp.exp(t) * w**2) / 2


def outer(w: Any, t: Any = None, _: Any = None) -> Any:
    del t
    return jnp.mean((X_VAL @ w - Y_VAL) ** 2) / 2


def one_step_truth() -> np.ndarray:
    """-eta e^t w v, with v the slope at the new w."""
    new = START - RATE * (HESSIAN @ START - X.T @ Y / 40)
    v = X_VAL.T @ (X_VAL @ new - Y_VAL) / 30
    return -RATE * np.exp(T) * START * v


def implicit_truth() -> np.ndarray:
    """-e^t w* H^-1 v, with v the slope at w*."""
    v = X_VAL.T @ (X_VAL @ SOLUTION - Y_VAL) / 30
    return -np.exp(T) * SOLUTION * np.linalg.solve(HESSIAN, v)


def ours() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    optimizer = optax.sgd(RATE)
    step = one_step(inner, optimizer, Exact())
    solution = at_solution(inner, ConjugateGradient(N))

    def through_step(t: Any) -> Any:
        return outer(step(jnp.asarray(START), t, optimizer.init(START))[0])

    of_step = jax.jit(jax.grad(through_step))
    of_solution = jax.jit(jax.grad(lambda t: outer(solution(jnp.asarray(SOLUTION), t))))
    yield "skillearn_jax Exact", "one-step", lambda: of_step(T)
    yield "skillearn_jax ConjugateGradient", "implicit", lambda: of_solution(T)


def jaxopt() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    from jaxopt import linear_solve
    from jaxopt.implicit_diff import custom_root

    @custom_root(jax.grad(inner), solve=linear_solve.solve_cg)
    def solver(init: Any, t: Any) -> Any:
        del init, t
        return jnp.asarray(SOLUTION)

    of_solution = jax.jit(jax.grad(lambda t: outer(solver(None, t))))
    yield "jaxopt custom_root, solve_cg", "implicit", lambda: of_solution(T)


def gradhpo() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    import gradhpo as library

    for name in ("OneStepOptimizer", "T1T2Optimizer"):
        method = getattr(library, name)(optax.sgd(RATE), optax.sgd(0.1))
        state = method.init(jnp.asarray(START), jnp.asarray(T))

        def call(method: Any = method, state: Any = state) -> Any:
            return method.compute_hypergradient(state, None, None, inner, outer)

        yield f"gradhpo {name}", "one-step", call


def torchopt() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    import torch
    import torchopt as library

    x, y, x_val, y_val = (torch.tensor(a) for a in (X, Y, X_VAL, Y_VAL))

    class Ridge(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(START))

    def call() -> Any:
        t = torch.tensor(T, requires_grad=True)
        model = Ridge()
        optimizer = library.MetaSGD(model, lr=RATE)
        fit = ((x @ model.w - y) ** 2).mean() / 2
        optimizer.step(fit + (torch.exp(t) * model.w**2).sum() / 2)
        loss = ((x_val @ model.w - y_val) ** 2).mean() / 2
        return torch.autograd.grad(loss, t)[0]

    yield "torchopt MetaSGD", "one-step", call


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    truth = {"one-step": one_step_truth(), "implicit": implicit_truth()}
    for library, methods in (
        ("", ours),
        ("jaxopt", jaxopt),
        ("gradhpo", gradhpo),
        ("torchopt", torchopt),
    ):
        if library and importlib.util.find_spec(library) is None:
            print(f"{library} is not installed: left out", file=sys.stderr)
            continue
        for name, meant, call in methods():
            found = np.asarray(call(), np.float64)
            start = time.perf_counter()
            call()
            want = truth[meant]
            line = {
                "method": name,
                "meant": meant,
                "rel_error": float(np.linalg.norm(found - want) / np.linalg.norm(want)),
                "cosine": float(
                    found @ want / (np.linalg.norm(found) * np.linalg.norm(want))
                ),
                "call_s": round(time.perf_counter() - start, 5),
            }
            libraries = ("jax", "torch", "jaxopt", "gradhpo", "torchopt")
            print(json.dumps({**line, **machine(libraries)}), flush=True)


if __name__ == "__main__":
    main()
