"""Interleaving learning against the adjoint recursion written by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Autodiff, FirstOrder
from skillearn_jax.skills import (
    TaskModel,
    blocked,
    interleaved,
    interleaving_learning,
    joint_learning,
)

XI, LAMBDA = 0.07, 0.9
NAMES = ("a", "b", "c")
LAST = {"a": 2, "b": 3, "c": 2}  # classes differ


def losses(encoder, head, supporting, model_state, batch, key):
    del model_state, key
    x, y = batch
    hidden = jnp.tanh(x @ (encoder * supporting["alphas"][:, None]))
    return jnp.sum((hidden @ head - y) ** 2, -1), {}


def tasks(count):
    return [TaskModel(name, losses) for name in NAMES[:count]]


def problem(turns, seed=0):
    """Values of all sets, and batches, for a schedule."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.array(0.5 * rng.normal(size=shape))

    params = {"alphas": 1 + normal(4)}
    for i, turn in enumerate(turns, start=1):
        params[f"encoder_{i}"] = normal(4, 3)
        params[f"head_{i}"] = normal(3, LAST[turn])
    batches = {
        f"{part}_{name}": (normal(5, 4), normal(5, LAST[name]))
        for part in ("train", "val")
        for name in turns
    }
    return params, batches


def mean_loss(encoder, head, alphas, batch):
    return jnp.mean(losses(encoder, head, {"alphas": alphas}, {}, batch, None)[0])


def by_hand(params, batches, turns, coupling):
    """The gradient of the architecture by the recursion over turns, for plain SGD."""
    alphas = params["alphas"]
    encoders, heads, after = [], [], None
    for i, turn in enumerate(turns, start=1):
        w, h = params[f"encoder_{i}"], params[f"head_{i}"]
        g_w, g_h = jax.grad(mean_loss, (0, 1))(w, h, alphas, batches[f"train_{turn}"])
        if after is not None:
            g_w = g_w + 2 * LAMBDA * (w - after)
        after = w - XI * g_w
        encoders.append(after)
        heads.append(h - XI * g_h)
    total, v_next = jnp.zeros_like(alphas), None
    for i in reversed(range(len(turns))):
        turn, w, h = turns[i], params[f"encoder_{i + 1}"], params[f"head_{i + 1}"]
        v, u = jnp.zeros_like(w), jnp.zeros_like(h)
        if turn not in turns[i + 1 :]:
            v, u, direct = jax.grad(mean_loss, (0, 1, 2))(
                encoders[i], heads[i], alphas, batches[f"val_{turn}"]
            )
            total += direct
        if v_next is not None and coupling == "full":
            v = v + 2 * XI * LAMBDA * v_next

        def of_alphas(alphas, w=w, h=h, turn=turn, v=v, u=u):
            g_w, g_h = jax.grad(mean_loss, (0, 1))(
                w, h, alphas, batches[f"train_{turn}"]
            )
            return jnp.sum(g_w * v) + jnp.sum(g_h * u)

        total -= XI * jax.grad(of_alphas)(alphas)
        v_next = v
    return total


def program(count, turns, optimizer=None, **options):
    return interleaving_learning(
        tasks(count),
        supporting={"alphas": optax.adam(0.01)},
        optimizer=optimizer or optax.sgd(XI),
        schedule=turns,
        interaction_weight=options.pop("interaction_weight", LAMBDA),
        **options,
    )


def gradient(skill, params, batches):
    state = skill.init(params, jax.random.key(0))
    return jax.jit(skill.hypergrad)(state, batches)[0]["alphas"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("coupling", ["full", "stop_gradient"])
@pytest.mark.parametrize(
    ("count", "rounds"), list(itertools.product([1, 2, 3], [1, 2, 3]))
)
def test_the_gradient_is_that_of_the_recursion(count, rounds, coupling):
    turns = interleaved(NAMES[:count], rounds)
    params, batches = problem(turns)
    got = gradient(program(count, turns, coupling=coupling), params, batches)
    want = by_hand(params, batches, turns, coupling)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_coupling_matters():
    turns = interleaved(NAMES[:2], 2)
    params, batches = problem(turns)
    full, cut = (
        gradient(program(2, turns, coupling=c), params, batches)
        for c in ("full", "stop_gradient")
    )
    assert jnp.abs(full - cut).max() > 1e-3 * jnp.abs(full).max()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("transfer", ["proximal", "copy"])
def test_real_optimisers_equal_plain_autodiff(transfer):
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.add_decayed_weights(0.01),
        optax.sgd(XI, momentum=0.9),
    )
    turns = ("b", "a", "a", "b")
    params, batches = problem(turns)
    if transfer == "copy":
        params = {
            "alphas": params["alphas"],
            "encoder": params["encoder_1"],
            "head_b": params["head_1"],
            "head_a": params["head_2"],
        }
    skill = program(2, turns, optimizer, transfer=transfer)
    state = jax.jit(skill.step)(skill.init(params, jax.random.key(0)), batches)[0]
    got = skill.hypergrad(state, batches)[0]["alphas"]
    want = skill.with_adjoint(Autodiff()).hypergrad(state, batches)[0]["alphas"]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert jnp.abs(got).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_a_proximal_step_solves_the_pull_exactly():
    turns, heavy = ("a", "b"), 100.0
    params, batches = problem(turns)
    skill = program(
        2, turns, interaction_weight=heavy, step_size=XI, proximal_step=True
    )
    state = skill.init(params, jax.random.key(0))
    _, info = skill.hypergrad(state, batches)
    alphas, w, h = params["alphas"], params["encoder_2"], params["head_2"]
    g_w, g_h = jax.grad(mean_loss, (0, 1))(w, h, alphas, batches["train_b"])
    pull = 2 * XI * heavy
    want = (w - XI * g_w + pull * info.lookahead["encoder_1"]) / (1 + pull)
    np.testing.assert_allclose(info.lookahead["encoder_2"], want, rtol=1e-12)
    np.testing.assert_allclose(info.lookahead["head_2"], h - XI * g_h, rtol=1e-12)
    exact = skill.hypergrad(state, batches)[0]["alphas"]
    plain = skill.with_adjoint(Autodiff()).hypergrad(state, batches)[0]["alphas"]
    np.testing.assert_allclose(exact, plain, rtol=1e-12)


def test_a_copied_encoder_goes_from_turn_to_turn():
    turns = ("a", "b", "a")
    values, batches = problem(turns)
    params = {
        "alphas": values["alphas"],
        "encoder": values["encoder_1"],
        "head_a": values["head_1"],
        "head_b": values["head_2"],
    }
    skill = program(2, turns, transfer="copy")
    state = skill.training_only().init(params, jax.random.key(0))
    state, _ = skill.training_only().step(state, batches)
    encoder, heads = params["encoder"], {"a": params["head_a"], "b": params["head_b"]}
    for turn in turns:
        g_w, g_h = jax.grad(mean_loss, (0, 1))(
            encoder, heads[turn], params["alphas"], batches[f"train_{turn}"]
        )
        encoder, heads[turn] = encoder - XI * g_w, heads[turn] - XI * g_h
    np.testing.assert_allclose(state.params["encoder"], encoder, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.params["head_a"], heads["a"], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_joint_learning_is_one_stage_on_the_summed_losses():
    values, batches = problem(("a", "b"))
    params = {
        "alphas": values["alphas"],
        "encoder": values["encoder_1"],
        "head_a": values["head_1"],
        "head_b": values["head_2"],
    }
    skill = joint_learning(
        tasks(2), supporting={"alphas": optax.adam(0.01)}, optimizer=optax.sgd(XI)
    )

    def objective(alphas):
        def total(encoder, heads, part):
            return sum(
                mean_loss(encoder, heads[n], alphas, batches[f"{part}_{n}"])
                for n in ("a", "b")
            )

        heads = {"a": params["head_a"], "b": params["head_b"]}
        g_w, g_h = jax.grad(total, (0, 1))(params["encoder"], heads, "train")
        heads = {n: heads[n] - XI * g_h[n] for n in heads}
        return total(params["encoder"] - XI * g_w, heads, "val")

    np.testing.assert_allclose(
        gradient(skill, params, batches),
        jax.grad(objective)(params["alphas"]),
        rtol=1e-12,
    )


def test_one_compilation_and_the_same_structure_out():
    turns = interleaved(NAMES[:2], 2)
    params, batches = problem(turns)
    skill = program(2, turns)
    traces = []

    @functools.partial(jax.jit)
    def step(state, batches):
        traces.append(1)
        return skill.step(state, batches)

    state = skill.init(params, jax.random.key(0))
    for _ in range(3):
        new, metrics = step(state, batches)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        state = new
    assert len(traces) == 1
    assert {"validation/loss_a", "turn_4_b/interaction"} <= set(metrics)
    assert "turn_1_a/interaction" not in metrics
    assert "turn_2_b" in str(skill)
    first = skill.with_adjoint(FirstOrder())
    assert jnp.isfinite(gradient(first, params, batches)).all()


def test_schedules():
    assert interleaved(("a", "b"), 2) == ("a", "b", "a", "b")
    assert blocked(("a", "b"), 2) == ("a", "a", "b", "b")
    default = interleaving_learning(
        tasks(2), supporting={"alphas": optax.sgd(1.0)}, optimizer=optax.sgd(XI)
    )
    assert [s.name for s in default.stages] == [
        "turn_1_a",
        "turn_2_b",
        "turn_3_a",
        "turn_4_b",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": ("a", "x")}, "must hold every task and no other"),
        ({"turns": ("a", "a")}, "must hold every task and no other"),
        ({"interaction_weight": -1.0}, "must not be negative"),
        (
            {"interaction_weight": 100.0, "step_size": 0.025},
            "2 xi lambda is 5, .* over",
        ),
        ({"proximal_step": True}, "needs step_size="),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    turns = options.pop("turns", ("a", "b"))
    with pytest.raises(InputError, match=message):
        program(2, turns, **options)
    with pytest.raises(InputError, match="distinct names"):
        joint_learning([], supporting={}, optimizer=optax.sgd(1.0))
