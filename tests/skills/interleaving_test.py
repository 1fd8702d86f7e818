"""Interleaving learning against the adjoint recursion written by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Autodiff, Exact, FirstOrder
from skillearn_jax.skills import (
    LearnerModel,
    TaskModel,
    baseline,
    blocked,
    interleaved,
    interleaving_learning,
    joint_learning,
    sequential_fine_tuning,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


STORED = [
    ("proximal", "copies"),
    ("proximal", "per_task"),
    ("copy", "copies"),
    ("copy", "per_task"),
    ("copy", "shared"),
]
"""All ways to hand an encoder on, and to store it."""


def names(turns, weights):
    """The names of encoder and head, turn by turn."""
    if weights == "copies":
        return [(f"encoder_{i}", f"head_{i}") for i in range(1, len(turns) + 1)]
    encoders = {"shared": "encoder", "per_task": "encoder_{}"}[weights]
    return [(encoders.format(turn), f"head_{turn}") for turn in turns]


def stored(params, turns, weights):
    """The values of `problem`, of the first turn where turns share a set."""
    kept = {"alphas": params["alphas"]}
    for i, pair in enumerate(names(turns, weights), start=1):
        for kind, name in zip(("encoder", "head"), pair, strict=True):
            kept.setdefault(name, params[f"{kind}_{i}"])
    return kept


def turn_by_turn(params, batches, turns, transfer, weights):
    """The sets after plain SGD steps in order, written as a loop over turns."""
    now, before = dict(params), None
    pairs = names(turns, weights)
    for i, (turn, (encoder, head)) in enumerate(zip(turns, pairs, strict=True)):
        w, h = now[encoder], now[head]
        if transfer == "copy":
            w = now[pairs[i - 1][0]] if i == 0 else before
        g_w, g_h = jax.grad(mean_loss, (0, 1))(
            w, h, now["alphas"], batches[f"train_{turn}"]
        )
        # A set that was just moved is at distance zero from itself.
        if transfer == "proximal" and i and pairs[i - 1][0] != encoder:
            g_w = g_w + 2 * LAMBDA * (w - before)
        before = now[encoder] = w - XI * g_w
        now[head] = h - XI * g_h
    return now


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("transfer", "weights"), STORED)
@pytest.mark.parametrize("turns", [("b", "a", "b", "a"), ("a", "a", "b")], ids="".join)
def test_every_way_to_store_and_hand_on(transfer, weights, turns):
    values, batches = problem(turns)
    params = stored(values, turns, weights)
    skill = program(2, turns, transfer=transfer, weights=weights)
    last = dict(zip(turns, names(turns, weights), strict=True))

    @jax.jit
    @jax.value_and_grad
    def objective(alphas):
        now = turn_by_turn(
            {**params, "alphas": alphas}, batches, turns, transfer, weights
        )
        return sum(
            mean_loss(now[last[n][0]], now[last[n][1]], alphas, batches[f"val_{n}"])
            for n in last
        )

    state = skill.init(params, jax.random.key(0))
    got, info = jax.jit(skill.hypergrad)(state, batches)
    value, want = objective(params["alphas"])
    np.testing.assert_allclose(info.objective, value, rtol=1e-13)
    np.testing.assert_allclose(got["alphas"], want, rtol=1e-11)
    train = skill.training_only()
    state, _ = jax.jit(train.step)(train.init(params, jax.random.key(0)), batches)
    now = turn_by_turn(params, batches, turns, transfer, weights)
    for name in params:
        np.testing.assert_allclose(state.params[name], now[name], rtol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("transfer", "weights"), [STORED[0], STORED[3]])
def test_real_optimisers_equal_plain_autodiff(transfer, weights):
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.add_decayed_weights(0.01),
        optax.sgd(XI, momentum=0.9),
    )
    turns = ("b", "a", "a", "b")
    values, batches = problem(turns)
    params = stored(values, turns, weights)
    skill = program(2, turns, optimizer, transfer=transfer, weights=weights)
    state = jax.jit(skill.step)(skill.init(params, jax.random.key(0)), batches)[0]
    got = jax.jit(skill.hypergrad)(state, batches)[0]["alphas"]
    plain = skill.with_adjoint(Autodiff())
    want = jax.jit(plain.hypergrad)(state, batches)[0]["alphas"]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert jnp.abs(got).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_a_clip_takes_encoder_and_head_together_unless_each_has_its_own():
    turns = ("a",)
    params, batches = problem(turns)
    clip = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    for optimizer, norm in (
        (clip, 1e-3),
        ({"encoder": clip, "head": clip}, 2**0.5 * 1e-3),
    ):
        skill = program(1, turns, optimizer)
        _, info = skill.hypergrad(skill.init(params, jax.random.key(0)), batches)
        moved = [info.lookahead[n] - params[n] for n in ("encoder_1", "head_1")]
        np.testing.assert_allclose(optax.tree.norm(moved), norm, rtol=1e-9)


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


@pytest.mark.usefixtures("x64")
def test_a_proximal_step_leaves_the_first_turn_as_it_is_and_holds_any_weight():
    """The first turn has no pull; a huge one makes the encoders one, at once."""
    turns, heavy = ("a", "b", "a"), 1e6
    params, batches = problem(turns)
    skill = program(
        2, turns, interaction_weight=heavy, step_size=XI, proximal_step=True
    )
    _, info = skill.hypergrad(skill.init(params, jax.random.key(0)), batches)
    g = jax.grad(mean_loss)(
        params["encoder_1"], params["head_1"], params["alphas"], batches["train_a"]
    )
    first = params["encoder_1"] - XI * g
    np.testing.assert_allclose(info.lookahead["encoder_1"], first, rtol=1e-12)
    np.testing.assert_allclose(info.lookahead["encoder_3"], first, rtol=1e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("apart", [False, True])
def test_a_proximal_step_scales_the_gradient_and_not_what_the_optimiser_adds(apart):
    """W' = W - xi ((grad L + 2 lambda (W - W_1')) / (1 + 2 xi lambda) + r W)."""
    turns, rate = ("a", "b"), 0.3
    params, batches = problem(turns)
    decayed = optax.chain(optax.add_decayed_weights(rate), optax.sgd(XI))
    optimizer = {"encoder": decayed, "head": decayed} if apart else decayed
    skill = program(2, turns, optimizer, step_size=XI, proximal_step=True)
    ahead = skill.look_ahead(skill.init(params, jax.random.key(0)), batches).params
    w, h = params["encoder_2"], params["head_2"]
    g_w, g_h = jax.grad(mean_loss, (0, 1))(w, h, params["alphas"], batches["train_b"])
    g_w = (g_w + 2 * LAMBDA * (w - ahead["encoder_1"])) / (1 + 2 * XI * LAMBDA)
    for name, old, g in (("encoder_2", w, g_w), ("head_2", h, g_h)):
        want = old - XI * (g + rate * old)
        np.testing.assert_allclose(ahead[name], want, rtol=1e-12)


@pytest.mark.parametrize("weights", ["copies", "per_task", "shared"])
def test_a_copied_encoder_is_not_pulled_whatever_the_step(weights):
    sgd = optax.sgd(1.0)
    options = {"step_size": 1.0, "interaction_weight": 100.0}
    skill = program(2, ("a", "b"), sgd, transfer="copy", weights=weights, **options)
    assert all(stage.interaction is None for stage in skill.stages)
    assert all(stage.optimizer is sgd for stage in skill.stages)


def test_a_plain_step_may_land_on_the_encoder_that_it_is_pulled_to():
    skill = program(2, ("a", "b"), interaction_weight=2.0, step_size=0.25)
    assert skill.stages[1].interaction_weight == 2


def test_model_states_go_on_from_task_to_task():
    """Every loss counts in a state of all and in one of its task."""

    def counting(task):
        def counted(*args):
            return losses(*args)[0], {n: args[3][n] + 1 for n in ("all", task)}

        return counted

    both = [TaskModel(name, counting(name)) for name in ("a", "b")]
    options = {"supporting": {"alphas": optax.sgd(0.1)}, "optimizer": optax.sgd(XI)}
    turns = ("a", "b", "a")
    apart, batches = problem(turns)
    at_once = {
        "alphas": apart["alphas"],
        "encoder": apart["encoder_1"],
        "head_a": apart["head_1"],
        "head_b": apart["head_2"],
    }
    none = {"all": 0.0, "a": 0.0, "b": 0.0}
    for skill, params, counts in (
        (interleaving_learning(both, schedule=turns, **options), apart, (3, 2, 1)),
        (joint_learning(both, **options), at_once, (2, 1, 1)),
    ):
        train = skill.training_only()
        state = train.init(params, jax.random.key(0), none)
        after = train.step(state, batches)[0].model_state
        assert tuple(float(after[name]) for name in none) == counts


def test_joint_learning_returns_the_model_states_that_it_changes():
    """The others are not averaged over devices."""

    def counted(encoder, head, supporting, model_state, batch, key):
        return jnp.zeros(5), {"seen": model_state["seen"] + 1}

    skill = joint_learning(
        [TaskModel(name, counted) for name in ("a", "b")],
        supporting={"alphas": optax.sgd(0.1)},
        optimizer=optax.sgd(XI),
    )
    (stage,) = skill.stages
    before = {"seen": jnp.zeros(()), "other": jnp.ones(2)}
    batch = {name: jnp.ones(5) for name in ("train_a", "train_b")}
    moves = {name: jnp.ones(1) for name in stage.moves}
    reads = {"alphas": jnp.ones(1)}
    _, aux = stage.loss_fn(moves, reads, before, batch, jax.random.key(0))
    assert {name: float(value) for name, value in aux.model_state.items()} == {
        "seen": 2
    }


def test_every_task_draws_from_a_key_of_its_own():
    def drawn(encoder, head, supporting, model_state, batch, key):
        return jax.random.uniform(key, (5,)), {}

    skill = joint_learning(
        [TaskModel(name, drawn) for name in ("a", "b")],
        supporting={"alphas": optax.sgd(0.1)},
        optimizer=optax.sgd(XI),
    )
    params = {name: jnp.ones(1) for name in skill.sets}
    batches = {name: jnp.ones(5) for name in skill.streams}
    _, metrics = skill.step(skill.init(params, jax.random.key(0)), batches)
    means = [
        float(metrics[f"{part}/loss_{name}"])
        for part in ("joint", "validation")
        for name in ("a", "b")
    ]
    assert len(set(means)) == 4


def test_a_detached_pull_is_shown_as_such():
    turns = ("a", "b")
    full, cut = (str(program(2, turns, coupling=c)) for c in ("full", "stop_gradient"))
    assert "alphas -> turn_1_a -> turn_2_b -> objective" in full
    assert "alphas -> turn_1_a -> turn_2_b -> objective" not in cut
    assert "encoder_1' (held fixed)" in cut
    assert "interact 0.9 x distance" in cut


@pytest.mark.usefixtures("x64")
def test_a_single_task_is_the_baseline():
    params, batches = problem(("a",))
    learner = LearnerModel(
        train_loss=lambda moves, reads, model_state, batch, key: mean_loss(
            *moves["weights"], reads["alphas"], batch["train"]
        ),
        example_losses=lambda weights, supporting, model_state, batch, key: losses(
            *weights, supporting, model_state, batch, key
        )[0],
        optimizer=optax.sgd(XI),
        supporting={"alphas": optax.adam(0.01)},
    )
    weights = (params["encoder_1"], params["head_1"])
    want = gradient(
        baseline(learner),
        {"weights": weights, "alphas": params["alphas"]},
        {"train": batches["train_a"], "val": batches["val_a"]},
    )
    got = gradient(program(1, ("a",)), params, batches)
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_sequential_fine_tuning_is_blocked_copying_without_a_pull():
    turns = ("a", "a", "b", "b")
    values, batches = problem(turns)
    params = stored(values, turns, "shared")
    skill = sequential_fine_tuning(
        tasks(2),
        supporting={"alphas": optax.adam(0.01)},
        optimizer=optax.sgd(XI),
        turns=2,
    )
    assert all(stage.interaction is None for stage in skill.stages)
    train = skill.training_only()
    state, _ = jax.jit(train.step)(train.init(params, jax.random.key(0)), batches)
    now = turn_by_turn(params, batches, turns, "copy", "shared")
    for name in params:
        np.testing.assert_allclose(state.params[name], now[name], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_same_key_gives_the_same_step_with_and_without_jit():
    def noisy(encoder, head, supporting, model_state, batch, key):
        keep = jax.random.bernoulli(key, 0.5, encoder.shape)
        return losses(encoder * keep, head, supporting, model_state, batch, key)

    turns = ("a", "a")
    params, batches = problem(turns)
    skill = interleaving_learning(
        [TaskModel("a", noisy)],
        supporting={"alphas": optax.sgd(0.1)},
        optimizer=optax.sgd(XI),
        schedule=turns,
    )
    one, again, other = (
        jax.jit(skill.step)(skill.init(params, jax.random.key(seed)), batches)[0].params
        for seed in (0, 0, 1)
    )
    plain = skill.step(skill.init(params, jax.random.key(0)), batches)[0].params
    for name in params:
        np.testing.assert_array_equal(one[name], again[name])
        np.testing.assert_allclose(one[name], plain[name], rtol=1e-12)
    assert jnp.any(one["encoder_2"] != other["encoder_2"])


@pytest.mark.parametrize(
    "skill", [interleaving_learning, joint_learning, sequential_fine_tuning]
)
def test_every_stage_has_the_adjoint_that_was_asked_for(skill):
    options = {"supporting": {"alphas": optax.sgd(0.1)}, "optimizer": optax.sgd(XI)}
    for adjoint in (FirstOrder(), Exact()):
        program = skill(tasks(2), **options, adjoint=adjoint, axis_name="devices")
        assert {stage.adjoint for stage in program.stages} == {adjoint}
        assert program.axis_name == "devices"
    alone = skill(tasks(2), **options)
    assert {stage.adjoint for stage in alone.stages} == {Exact()}
    assert alone.axis_name is None


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
        ({"turns": ()}, "must hold every task and no other"),
        ({"turns": "abab"}, r"schedule='abab' must be a tuple of names"),
        (
            {"interaction_weight": -1.0},
            "interaction_weight=-1.0; .* finite number >= 0",
        ),
        (
            {"interaction_weight": 100.0, "step_size": 0.025},
            "2 xi lambda is 5, .* over",
        ),
        ({"proximal_step": True}, "needs step_size="),
        (
            {"proximal_step": True, "step_size": XI, "transfer": "copy"},
            "'copy' has none: set proximal_step=False",
        ),
        ({"step_size": -1.0}, "step_size=-1.0; it must be a finite number > 0"),
        ({"weights": "shared"}, "nothing to pull to"),
        ({"weights": "all"}, "weights='all'; it must be one of 'copies', 'per_task'"),
        ({"transfer": "copy", "coupling": "stop_gradient"}, "'copy' has none"),
        ({"optimizer": {"encoder": optax.sgd(1.0)}}, "needs 'encoder' and 'head'"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    turns = options.pop("turns", ("a", "b"))
    with pytest.raises(InputError, match=message):
        program(2, turns, **options)
    for skill in (joint_learning, sequential_fine_tuning):
        for same in ([], tasks(1) * 2):
            with pytest.raises(InputError, match="distinct names"):
                skill(same, supporting={}, optimizer=optax.sgd(1.0))
        with pytest.raises(InputError, match=r"holds 'a'; it must be a TaskModel"):
            skill(["a"], supporting={}, optimizer=optax.sgd(1.0))
