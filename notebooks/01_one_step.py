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
# # One step, differentiated
#
# A learner moves its weights $w$ by one step of gradient descent on its own loss, which reads
# something that it does not move, $a$. How does what comes after the step depend on $a$?
#
# The toy of the DARTS paper (Liu, Simonyan, Yang 2018, figure 2, arXiv 1806.09055):
# $L_{train}(w, a) = w^2 - 2aw + a^2$ and $L_{val}(w, a) = aw - 2a + 1$.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from skillearn_jax import Exact, FiniteDifference, FirstOrder, one_step

jax.config.update("jax_enable_x64", True)


def train_loss(w, a):
    return w**2 - 2 * a * w + a**2


def hypergradient(a, w, rate, adjoint=Exact()):
    optimizer = optax.sgd(rate)
    step = one_step(train_loss, optimizer, adjoint)

    def after_the_step(a):
        w_new, _ = step(w, a, optimizer.init(w))
        return a * w_new - 2 * a + 1

    return jax.grad(after_the_step)(a)


# %% [markdown]
# By hand, with $w' = w - 2\xi(w - a)$: $\;dL_{val}/da = (w' - 2) + 2 \xi a$, which is
# $-4 + 12 \xi$ at $(a, w) = (2, -2)$. The first term is direct, the second the *response*: $a$ moves
# $w'$, and $w'$ moves the validation loss. First order leaves it out.

# %%
for rate in (0.0, 0.1, 0.5):
    exact = hypergradient(2.0, -2.0, rate)
    np.testing.assert_allclose(exact, -4 + 12 * rate, rtol=1e-12)
    first = hypergradient(2.0, -2.0, rate, FirstOrder("lookahead"))
    print(f"rate {rate}: exact {exact:+.3f}, first order {first:+.3f}")

# %% [markdown]
# It is not a detail: descending on $a$ while $w$ follows ends at $a = w = 2 / (1 + 2\xi)$, at another
# place for each rate, and without the response at 2. The optimum of the bilevel problem is
# $a = w = 1$.


# %%
@jax.jit(static_argnames=("rate", "adjoint"))
def trajectory(rate, adjoint, steps=4000, speed=0.01):
    def move(aw, _):
        a, w = aw
        a = a - speed * hypergradient(a, w, rate, adjoint)
        w = w - speed * jax.grad(train_loss)(w, a)
        return (a, w), (a, w)

    return jax.lax.scan(move, (2.0, -2.0), length=steps)[1]


fig, ax = plt.subplots(figsize=(5, 4))
for rate in (0.1, 0.25, 0.5):
    a, w = trajectory(rate, Exact())
    np.testing.assert_allclose(a[-1], 2 / (1 + 2 * rate), atol=1e-6)
    ax.plot(a, w, label=f"exact, rate {rate}")
a, w = trajectory(0.5, FirstOrder("lookahead"))
np.testing.assert_allclose(a[-1], 2, atol=1e-6)
ax.plot(a, w, "--", color="grey", label="first order")
ax.plot(1, 1, "k*", markersize=12, label="optimum")
ax.set(xlabel="a", ylabel="w", title="Where the search ends")
ax.legend()

# %% [markdown]
# ## Two stages
#
# Steps compose as functions do. A second learner reads the result of the first; the gradient
# flows back through both, with one Hessian-vector product (`jax.jvp` of a gradient) each.

# %%
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(32, 4)))
w1, w2, a = (jnp.asarray(rng.normal(size=s)) for s in ((4, 3), (4, 3), (3,)))


def first_loss(w, a):
    return jnp.mean((jnp.tanh(x @ w) * a - 0.5) ** 2)


def second_loss(w, reads):
    a, teacher = reads
    return jnp.mean((jnp.tanh(x @ w) * jnp.exp(a) - jnp.sin(x @ teacher)) ** 2)


def two_stages(a, adjoint, dtype=jnp.float64):
    optimizer = optax.sgd(0.3, momentum=0.9)
    one = one_step(first_loss, optimizer, adjoint)
    two = one_step(second_loss, optimizer, adjoint)
    start1, start2 = w1.astype(dtype), w2.astype(dtype)
    teacher, _ = one(start1, a, optimizer.init(start1))
    student, _ = two(start2, (a, teacher), optimizer.init(start2))
    return jnp.mean(jnp.cos(x.astype(dtype) @ student))


# %% [markdown]
# Exact against the finite difference that published codes take, for every radius, in float64.
# Too wide, it is not a derivative; too narrow, it is a difference of rounding errors.

# %%
gradient = jax.jit(jax.grad(two_stages), static_argnames=("adjoint", "dtype"))
exact = gradient(a, Exact())
radii = 10.0 ** np.arange(-8, 1)
errors = [
    np.linalg.norm(gradient(a, FiniteDifference(float(r))) - exact)
    / np.linalg.norm(exact)
    for r in radii
]
fig, ax = plt.subplots(figsize=(5, 3.5))
ax.loglog(radii, errors, "o-")
ax.axvline(0.01, color="grey", ls=":", label="radius of DARTS")
ax.set(xlabel="radius", ylabel="relative error", title="Finite difference, float64")
ax.legend()

# %%
# A check that owes nothing to either: plain autodiff through the same composition.
from skillearn_jax import Autodiff

np.testing.assert_allclose(exact, gradient(a, Autodiff()), rtol=1e-10)
assert min(errors) > 1e-13 and max(errors) > 1e-4
