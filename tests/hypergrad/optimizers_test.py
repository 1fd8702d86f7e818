"""Every optimiser of optax: three steps and their derivatives against plain autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import one_step

BY_LEAF = {"kernel": "sgd", "bias": "adam"}
ADAM = optax.adam(0.1, eps_root=1e-3)
SGD = optax.sgd(0.1)

OPTIMIZERS = {
    # Of the kinds that differ most: these are tested by default.
    "adagrad": optax.adagrad(0.1),
    "apply_if_finite": optax.apply_if_finite(ADAM, 2),
    "lamb": optax.lamb(0.1, eps_root=1e-3),
    "lion": optax.lion(0.1),
    "multi_steps": optax.MultiSteps(ADAM, 2).gradient_transformation(),
    "partition": optax.partition({"sgd": SGD, "adam": ADAM}, BY_LEAF),
    "schedule_free_sgd": contrib.schedule_free_sgd(0.1),
    "yogi": optax.yogi(0.1),
}
OTHERS = {
    "acprop": contrib.acprop(0.1),
    "adabelief": optax.adabelief(0.1),
    "adadelta": optax.adadelta(0.1),
    "adafactor": optax.adafactor(0.1),
    "adam": ADAM,
    "adamax": optax.adamax(0.1),
    "adamaxw": optax.adamaxw(0.1),
    "adamw": optax.adamw(0.1, eps_root=1e-3),
    "adan": optax.adan(0.1),
    "adopt": contrib.adopt(0.1),
    "ademamix": contrib.ademamix(0.1, eps_root=1e-3),
    "amsgrad": optax.amsgrad(0.1, eps_root=1e-3),
    "cocob": contrib.cocob(0.1),
    "dadapt_adamw": contrib.dadapt_adamw(),
    "fromage": optax.fromage(0.1),
    "lars": optax.lars(0.1),
    "madgrad": contrib.madgrad(0.1),
    "muon": contrib.muon(0.1),
    "noisy_sgd": optax.noisy_sgd(0.1, key=0),
    "novograd": optax.novograd(0.1, eps_root=1e-3),
    "optimistic_adam_v2": optax.optimistic_adam_v2(0.1, eps_root=1e-3),
    "optimistic_gradient_descent": optax.optimistic_gradient_descent(0.1),
    "prodigy": contrib.prodigy(),
    "rmsprop": optax.rmsprop(0.1, eps=1e-3),
    "rprop": optax.rprop(0.1),
    "schedule_free_adamw": contrib.schedule_free_adamw(0.1),
    "sgd": SGD,
    "sign_sgd": optax.sign_sgd(0.1),
    "signum": optax.signum(0.1),
    "simplified_ademamix": contrib.simplified_ademamix(0.1, eps_root=1e-3),
    "sm3": optax.sm3(0.1),
}
# They take roots: the first two of zero, at the first step, the last of a negative number
# that it does not use.
NOT_DIFFERENTIABLE = {
    "dog": contrib.dog(0.1),
    "mechanize": contrib.mechanize(SGD),
    "radam": optax.radam(0.1),
}
ASK_FOR_MORE = {
    "lbfgs": optax.lbfgs(0.1),  # refused in one_step_test.py
    "polyak_sgd": optax.polyak_sgd(),
    "reduce_on_plateau": contrib.reduce_on_plateau(),
}


def loss(active, reads, images):
    hidden = jnp.sin(images @ active["kernel"] * reads[None] + active["bias"][None])
    return jnp.mean(hidden**2) + jnp.sum(jnp.exp(reads) * active["bias"] ** 2)


def plain(optimizer):
    """The step in optax's own words."""

    def step(active, reads, state, images):
        value, gradient = jax.value_and_grad(loss)(active, reads, images)
        updates, state = optimizer.update(gradient, state, active)
        return jax.tree.map(jnp.add, active, updates), state, value

    return step


def exact(optimizer):
    step = one_step(loss, optimizer)

    def of(active, reads, state, images):
        active, info = step(active, reads, state, images)
        return active, info.opt_state, info.loss

    return of


def three_steps(step, optimizer, scramble):
    """Returns a function of weights, reads and images: objective and gradients.

    Not jitted: where a maximum is taken, a program that computes it twice may find a
    derivative on either side.
    """

    def objective(active, reads, images):
        state = optimizer.init(active)
        for _ in range(3):
            active, state, value = step(active, reads, state, images)
        return scramble((active, state, value))

    return jax.value_and_grad(objective, argnums=(0, 1, 2))


@pytest.fixture
def given():
    rng = np.random.default_rng(3)
    active = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    return active, rng.normal(size=4), rng.normal(size=(5, 3))


@pytest.mark.parametrize(
    "name",
    [*OPTIMIZERS, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)],
)
def test_three_steps_of_an_optimiser_equal_plain_autodiff(
    name, given, scramble, assert_close
):
    optimizer = {**OPTIMIZERS, **OTHERS}[name]
    got, want = (
        three_steps(step, optimizer, scramble)(*given)
        for step in (exact(optimizer), plain(optimizer))
    )
    assert_close(got, want, rtol=1e-11)


@pytest.mark.parametrize("name", NOT_DIFFERENTIABLE)
def test_where_an_optimiser_has_no_derivative_neither_has_the_step(
    name, given, scramble, floats
):
    """What docs/hypergradients.md says of them: once that is mended, it must go."""
    optimizer = NOT_DIFFERENTIABLE[name]
    for step in (exact(optimizer), plain(optimizer)):
        value, gradients = three_steps(step, optimizer, scramble)(*given)
        assert np.isfinite(value)
        assert any(np.isnan(leaf).any() for leaf in floats(gradients).values())


@pytest.mark.parametrize("name", ["polyak_sgd", "reduce_on_plateau"])
def test_an_optimiser_that_asks_for_more_is_refused(name, given):
    active, reads, images = given
    optimizer = ASK_FOR_MORE[name]
    with pytest.raises(InputError, match="asks for more"):
        one_step(loss, optimizer)(active, reads, optimizer.init(active), images)


def test_no_optimiser_of_optax_is_missing():
    """Those that a user finds in its list of common optimisers."""
    of_optax = {
        name
        for name in dir(optax)
        if getattr(getattr(optax, name), "__module__", "") == optax.adam.__module__
    }
    # Another signature of one that is there: adaptive gradients before the momentum.
    of_optax -= {"optimistic_adam"}
    assert "lamb" in of_optax
    assert of_optax <= {*OPTIMIZERS, *OTHERS, *NOT_DIFFERENTIABLE, *ASK_FOR_MORE}
