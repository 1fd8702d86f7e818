"""The two-level program: DARTS, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.framework import Aux
from skillearn_jax.hypergrad import Autodiff, Exact, FirstOrder
from skillearn_jax.skills import baseline

pytestmark = pytest.mark.usefixtures("quick_compilation")
XI = 0.4


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this module computes in float64."""


def start(program, small, seed=0):
    params = {name: small.params[name] for name in ("weights", "alphas")}
    return program.init(params, jax.random.key(seed))


def train(small):
    return lambda weights, alphas: small.train_loss(
        {"weights": weights}, {"alphas": alphas}, {}, small.batches, None
    )


def validate(small):
    return lambda weights, alphas: jnp.mean(
        small.learner_losses(alphas, weights, small.batches["val"])
    )


def test_each_term_equals_the_chain_rule(small, assert_close):
    """dJ/dA = grad_A L_val(A, W') - xi d2L_tr/dA dW . grad_{W'} L_val."""
    program = baseline(small.learner())
    grads, info = program.hypergrad(start(program, small), small.batches)
    weights, alphas = small.params["weights"], small.params["alphas"]
    ahead = weights - XI * jax.grad(train(small))(weights, alphas)
    v, explicit = jax.grad(validate(small), (0, 1))(ahead, alphas)
    mixed = jax.jacobian(jax.grad(train(small)), 1)(weights, alphas)
    response = -XI * jnp.tensordot(v, mixed, 2)
    assert_close(info.lookahead["weights"], ahead)
    assert_close(info.direct["alphas"], explicit)
    assert_close(info.response["alphas"], response)
    assert_close(grads["alphas"], explicit + response)


@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()], ids=["exact", "autodiff"])
def test_the_lookahead_has_momentum_and_decay(small, assert_close, adjoint):
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.3),
        optax.add_decayed_weights(0.1),
        optax.sgd(XI, 0.9),
    )
    program = baseline(small.learner(optimizer=optimizer), adjoint=adjoint)
    state = start(program, small)
    for _ in range(2):
        state, _ = program.step(state, small.batches)
    weights, alphas = state.params["weights"], state.params["alphas"]

    def objective(alphas):
        active = {"weights": weights}
        gradient = {"weights": jax.grad(train(small))(weights, alphas)}
        updates, _ = optimizer.update(gradient, state.opt_states["learner"], active)
        return validate(small)(weights + updates["weights"], alphas)

    grads, _ = program.hypergrad(state, small.batches)
    assert_close(grads["alphas"], jax.grad(objective)(alphas))


def test_first_order_is_the_gradient_at_the_current_weights(small, assert_close):
    program = baseline(small.learner(), adjoint=FirstOrder())
    grads, info = program.hypergrad(start(program, small), small.batches)
    want = jax.grad(validate(small), 1)(small.params["weights"], small.params["alphas"])
    assert_close(grads["alphas"], want)
    np.testing.assert_array_equal(info.response["alphas"], np.zeros(3))


def test_a_step_moves_the_alphas_then_the_weights(small, assert_close):
    program = baseline(small.learner())
    state = start(program, small)
    grads, info = program.hypergrad(state, small.batches)
    new, metrics = program.step(state, small.batches)
    alphas = small.params["alphas"] - 0.1 * grads["alphas"]
    weights = small.params["weights"]
    assert_close(new.params["alphas"], alphas)
    want = weights - XI * jax.grad(train(small))(weights, alphas)
    assert_close(new.params["weights"], want)
    value = validate(small)(info.lookahead["weights"], small.params["alphas"])
    assert_close(metrics["validation/objective"], value)
    assert_close(metrics["learner/loss"], train(small)(weights, alphas))


def test_several_supporting_sets_each_have_their_own_optimizer(small, assert_close):
    """A learned weight decay that only the training loss reads, beside the alphas."""

    def train_loss(moves, reads, model_state, batch, key):
        loss = small.train_loss(moves, reads, model_state, batch, key)
        decay = jnp.exp(reads["decay"])[:, None]
        return loss + jnp.sum(decay * moves["weights"] ** 2)

    supporting = {"alphas": optax.sgd(0.1), "decay": optax.sgd(0.5)}
    program = baseline(small.learner(train_loss=train_loss, supporting=supporting))
    params = {name: small.params[name] for name in ("weights", "alphas")}
    params["decay"] = jnp.asarray([-3.0, -2.0, -4.0])
    state = program.init(params, jax.random.key(0))
    grads, info = program.hypergrad(state, small.batches)
    new, _ = program.step(state, small.batches)
    np.testing.assert_array_equal(info.direct["decay"], np.zeros(3))
    weights = small.params["weights"]
    ahead = info.lookahead["weights"]
    v = jax.grad(validate(small))(ahead, params["alphas"])
    # d2/d(decay_i) dW_ij = 2 exp(decay_i) W_ij
    want = -XI * jnp.sum(v * 2 * jnp.exp(params["decay"])[:, None] * weights, axis=1)
    assert_close(grads["decay"], want)
    assert_close(new.params["decay"], params["decay"] - 0.5 * want)


def test_model_state_and_aux_go_through(small):
    def train_loss(moves, reads, model_state, batch, key):
        loss = small.train_loss(moves, reads, model_state, batch, key)
        state = {"count": model_state["count"] + 1}
        return loss, Aux({"key": jax.random.uniform(key)}, state)

    seen = []

    def example_losses(weights, supporting, model_state, batch, key):
        seen.append(set(model_state))
        return small.learner_losses(supporting["alphas"], weights, batch)

    learner = small.learner(train_loss=train_loss, example_losses=example_losses)
    program = baseline(learner)
    params = {name: small.params[name] for name in ("weights", "alphas")}
    state = program.init(params, jax.random.key(0), {"count": 0})
    state, metrics = program.step(state, small.batches)
    state, other = program.step(state, small.batches)
    assert int(state.model_state["count"]) == 2
    assert metrics["learner/key"] != other["learner/key"]
    assert seen == [{"count"}] * 2


def test_the_printout(small):
    text = str(baseline(small.learner(task="two classes")))
    assert "learner learner: two classes" in text
    assert "moves    weights" in text
    assert "alphas -> objective  (direct)" in text
    assert "alphas -> learner -> objective" in text
    assert baseline(small.learner()).streams == ("train", "val")
    assert baseline(small.learner(), axis_name="d").axis_name == "d"
