# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which hypergradient?
#
# The library separates *how a stage's solution is found* (`Steps(k)`; one step by default) from *how
# it is differentiated*:
#
# | adjoint | what it takes the result for |
# |---|---|
# | `Exact()` | what it is: steps of an optimiser |
# | `FiniteDifference(radius)` | the same, with the second derivative approximated |
# | `FirstOrder(at)` | a step along a constant gradient, or no step |
# | `Neumann`, `ConjugateGradient`, `FixedPoint` | a minimiser, by the implicit function theorem |
# | `Autodiff()` | the reference: plain reverse mode |
#
# Here on ridge regression, where all answers are known.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from skillearn_jax import (
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FixedPoint,
    Neumann,
    Program,
    Stage,
    Steps,
    Validation,
    compare,
    unroll,
)

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
n = 6
x, y, x_val, y_val = (
    jnp.asarray(rng.normal(size=s)) for s in ((40, n), (40,), (30, n), (30,))
)
t = jnp.asarray(rng.normal(size=n)) - 1  # log penalties, one a coordinate


def ridge(w, t, data=(x, y)):
    inputs, targets = data
    return jnp.mean((inputs @ w - targets) ** 2) / 2 + jnp.sum(jnp.exp(t) * w**2) / 2


hessian = np.asarray(x.T @ x / 40 + jnp.diag(jnp.exp(t)))
solution = np.linalg.solve(hessian, np.asarray(x.T @ y / 40))
v = np.asarray(x_val.T @ (x_val @ solution - y_val) / 30)
truth = -np.exp(t) * solution * np.linalg.solve(hessian, v)

# %% [markdown]
# From a cold start, gradient descent for $k$ steps, differentiated by each adjoint, against the
# gradient at the true minimiser. Unrolling is exact for the steps that were taken and needs many of
# them to say something about the minimiser; the implicit ones trust the point that they are given,
# so they are as good as it is.

# %%
rate = float(1 / np.linalg.eigvalsh(hessian)[-1])
optimizer = optax.sgd(rate)


def gradient(adjoint, steps):
    step = unroll(lambda w, t, _: ridge(w, t), optimizer, steps, adjoint, loop="scan")

    def outer(t):
        w, _ = step(jnp.zeros(n), t, optimizer.init(jnp.zeros(n)), jnp.zeros(steps))
        return jnp.mean((x_val @ w - y_val) ** 2) / 2

    return jax.jit(jax.grad(outer))(t)


counts = (1, 2, 4, 8, 16, 32, 64, 128)
fig, ax = plt.subplots(figsize=(6, 4))
errors = {}
for adjoint in (Exact(), Neumann(20, rate), FixedPoint(20), ConjugateGradient(n)):
    found = [gradient(adjoint, k) for k in counts]
    errors[adjoint] = [np.linalg.norm(g - truth) / np.linalg.norm(truth) for g in found]
    ax.loglog(counts, errors[adjoint], "o-", label=repr(adjoint))
ax.set(
    xlabel="steps of the solver", ylabel="relative error", title="Against the minimiser"
)
ax.legend(fontsize=8)
assert errors[ConjugateGradient(n)][-1] < 1e-6
assert errors[Exact()][-1] < 1e-3 < errors[Exact()][0]

# %% [markdown]
# ## As a program, with its residual
#
# In a `Program` each stage has its own solver and adjoint. An implicit one reports how well its
# linear equation was solved: a residual near one means that the gradient means little.


# %%
def ridge_loss(moves, reads, model_state, batch, key):
    return ridge(moves["w"], reads["t"], batch["train"])


def val_loss(moves, reads, model_state, batch, key):
    inputs, targets = batch["val"]
    return jnp.mean((inputs @ reads["w"] - targets) ** 2) / 2


def program(adjoint, solver=None):
    stage = Stage(
        "fit",
        moves=("w",),
        reads=("t",),
        data=("train",),
        loss_fn=ridge_loss,
        optimizer=optimizer,
        adjoint=adjoint,
        solver=solver,
    )
    return Program(
        (stage,),
        Validation(
            val_loss,
            reads=("w",),
            data=("val",),
            minimize={"t": optax.sgd(0.1)},
            indirect=("t",),
        ),
    )


batches = {"train": (x, y), "val": (x_val, y_val)}
# A solver of 64 steps takes 64 batches; here all are the whole set.
repeated = {**batches, "train": (jnp.stack([x] * 64), jnp.stack([y] * 64))}
for steps in (1, 2, 3, 6):
    p = program(ConjugateGradient(steps), Steps(64))
    state = p.init({"w": jnp.zeros(n), "t": t}, jax.random.key(0))
    grads, info = p.hypergrad(state, repeated)
    error = np.linalg.norm(grads["t"] - truth) / np.linalg.norm(truth)
    print(
        f"CG({steps}): residual {float(info.residuals['fit']):.1e}, "
        f"error against the minimiser {error:.1e}"
    )

# %% [markdown]
# ## Every adjoint, every number type, one call
#
# `compare` sets them beside plain autodiff in float64. In half precision the finite difference
# subtracts two numbers that agree in all digits that they have. First order has nothing to
# show here: all of this gradient flows through the step.

# %%
p = program(Exact())
state = p.init({"w": jnp.asarray(rng.normal(size=n)), "t": t}, jax.random.key(0))
report = compare(
    p, state, batches, adjoints=(Exact(), FiniteDifference(0.01)), repeats=3
)
print(report)

# %%
fig, ax = plt.subplots(figsize=(6, 4))
for dtype in ("float64", "float32", "bfloat16"):
    rows = [r for r in report.rows if r.dtype == dtype and r.stage == "total"]
    swept = sorted((r.radius, r.rel_error) for r in rows if r.radius)
    (line,) = ax.loglog(
        *zip(*swept, strict=True), "o-", label=f"finite difference, {dtype}"
    )
    exact = next(r.rel_error for r in rows if r.adjoint == "Exact()")
    if exact:
        ax.axhline(exact, color=line.get_color(), ls=":", label=f"exact, {dtype}")
ax.set(xlabel="radius", ylabel="relative error", title="One step, by number type")
ax.legend(fontsize=8)
best = {
    dtype: next(
        r.rel_error
        for r in report.rows
        if r.dtype == dtype and r.adjoint == "Exact()" and r.stage == "total"
    )
    for dtype in ("float64", "float32", "bfloat16")
}
assert best["float64"] < 1e-12 and best["float32"] < 1e-5 and best["bfloat16"] < 0.1
