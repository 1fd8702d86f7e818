"""Over devices: the same hypergradient and the same steps as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Program, Stage, Validation
from skillearn_jax.skills import (
    LearnerModel,
    TesterModel,
    learning_by_passing_tests,
    normalized_exam_loss,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXIS = "d"
EXAMPLES = 32
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def lpt(axis_name):
    """Learning by passing tests on a toy, with clipping, decay and momentum."""

    def logits(weights, x):
        return jnp.tanh(x @ weights["in"]) @ weights["out"]

    def train_loss(moves, reads, model_state, batch, key):
        weights, batch = moves["weights"], batch["train"]
        decay = sum(
            jnp.sum(jnp.exp(rate) * leaf**2)
            for rate, leaf in zip(
                jax.tree.leaves(reads["decay"]), jax.tree.leaves(weights), strict=True
            )
        )
        out = logits(weights, batch["x"])
        mean = 0.9 * model_state["mean"] + 0.1 * out.mean(axis=0)
        loss = jnp.mean(cross_entropy(out, batch["y"])) + decay
        return loss, Aux(model_state={"mean": mean})

    sgd = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2, 0.9))
    learner = LearnerModel(
        train_loss,
        lambda weights, supporting, model_state, batch, key: cross_entropy(
            logits(weights, batch["x"]), batch["y"]
        ),
        sgd,
        {"decay": optax.adam(0.05)},
    )
    tester = TesterModel(
        encode=lambda encoder, model_state, batch, key: (
            jnp.tanh(batch["x"] @ encoder),
            {},
        ),
        losses=lambda executor, features, batch: cross_entropy(
            features @ executor, batch["y"]
        ),
        scores=lambda creator, features: jax.nn.sigmoid(features @ creator),
        optimizers={
            "encoder": sgd,
            "executor": optax.adam(0.05, eps_root=1e-8),
            "creator": optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.3)),
        },
        accuracies=lambda executor, features, batch: (
            (features @ executor).argmax(axis=-1) == batch["y"]
        ).astype(float),
    )
    return learning_by_passing_tests(
        learner, tester, interaction_weight=0.7, tester_weight=0.3, axis_name=axis_name
    )


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    weights = {"in": rng.normal(size=(3, 4)), "out": rng.normal(size=(4, 2))}
    params = {
        "weights": weights,
        "decay": jax.tree.map(lambda leaf: -3 + 0 * leaf, weights),
        "encoder": rng.normal(size=(3, 5)),
        "executor": rng.normal(size=(5, 2)),
        "creator": 2 * rng.normal(size=5),
    }

    def rows():
        x = rng.normal(size=(EXAMPLES, 3))
        return {"x": x, "y": (x[:, 0] * x[:, 1] + 0.3 * x[:, 2] > 0).astype(int)}

    batches = {name: rows() for name in ("train", "bank", "val")}
    # Scores that differ much from shard to shard: a mean of ratios would be far off.
    batches["bank"] = jax.tree.map(
        lambda leaf: leaf[np.argsort(batches["bank"]["x"] @ [1.0, 0.0, 0.0])],
        batches["bank"],
    )
    state = lpt(None).init(params, jax.random.key(0), {"mean": np.zeros(2)})
    return state, jax.tree.map(jnp.asarray, batches)


def over_pmap(function, count):
    """Splits the batches over devices; returns what the first device returned."""
    mapped = jax.pmap(function, AXIS, in_axes=(None, 0), devices=jax.devices()[:count])

    def call(state, batches):
        split = jax.tree.map(
            lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batches
        )
        out = mapped(state, split)
        # All devices hold the same values.
        for leaf in jax.tree.leaves(out):
            for other in leaf[1:]:
                np.testing.assert_array_equal(other, leaf[0])
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[0])), out)

    return call


def over_shard_map(function, count):
    mesh = Mesh(np.asarray(jax.devices()[:count]), (AXIS,))
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )


WAYS = pytest.mark.parametrize(
    "way", [over_pmap, over_shard_map], ids=["pmap", "shard_map"]
)
COUNTS = pytest.mark.parametrize("count", [2, 8])


def keyless(state):
    """A typed key does not go through numpy; nothing changes it anyway."""
    return state._replace(key=jnp.zeros(()))


def five_steps(program):
    def run(state, batches):
        def body(state, _):
            return program.step(state, batches)

        state, metrics = jax.lax.scan(body, state, length=5)
        return keyless(state), metrics

    return run


def close(actual, desired, rtol):
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for got, want in zip(
        jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True
    ):
        size = max(np.abs(np.asarray(want)).max(), 1e-6)
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * size)


@COUNTS
@WAYS
def test_the_hypergradient_is_that_of_one_device(problem, way, count):
    state, batches = problem
    grads, info = jax.jit(lpt(None).hypergrad)(state, batches)
    got, got_info = way(lpt(AXIS).hypergrad, count)(state, batches)
    for leaf in jax.tree.leaves(grads):
        assert np.any(leaf)
    close(got, grads, 1e-12)
    close(got_info._asdict(), info._asdict(), 1e-12)


def test_the_objective_is_that_of_one_device(problem):
    state, batches = problem
    want = jax.jit(lpt(None).objective)(state, batches)
    close(over_pmap(lpt(AXIS).objective, 2)(state, batches), want, 1e-12)


def test_a_shard_map_that_sums_gradients_by_itself_is_refused(problem):
    """With its default, every hypergradient would be the number of devices too large."""
    state, batches = problem
    mesh, whole = Mesh(np.asarray(jax.devices()[:2]), (AXIS,)), PartitionSpec()
    mapped = jax.shard_map(
        lambda *args: lpt(AXIS).hypergrad(*args)[0],
        mesh=mesh,
        in_specs=(whole, PartitionSpec(AXIS)),
        out_specs=whole,
    )
    with pytest.raises(InputError, match=r"axis_name='d' .*: give it check_vma=False"):
        jax.jit(mapped)(state, batches)


def test_an_axis_that_is_not_mapped_is_named(problem):
    with pytest.raises(InputError, match="axis_name='d' is not mapped here"):
        lpt(AXIS).step(*problem)


@pytest.mark.parametrize(
    ("way", "count"),
    [(over_pmap, 2), (over_shard_map, 8)],
    ids=["pmap-2", "shard_map-8"],
)
def test_five_steps_are_those_of_one_device(problem, way, count):
    state, batches = problem
    want, metrics = jax.jit(five_steps(lpt(None)))(state, batches)
    got, got_metrics = way(five_steps(lpt(AXIS)), count)(state, batches)
    close(got, want, 1e-9)
    close(got_metrics, metrics, 1e-9)
    for name in ("weights", "decay", "encoder", "executor", "creator"):
        for old, new in zip(
            jax.tree.leaves(state.params[name]),
            jax.tree.leaves(want.params[name]),
            strict=True,
        ):
            assert np.all(old != new)


def test_the_exam_loss_is_one_ratio_over_all_devices():
    rng = np.random.default_rng(1)
    losses, scores = jnp.asarray(rng.uniform(size=(2, 8)))
    ratio = jax.pmap(functools.partial(normalized_exam_loss, axis_name=AXIS), AXIS)(
        losses.reshape(2, 4), scores.reshape(2, 4)
    )
    want = float((losses * scores).sum() / scores.sum())
    np.testing.assert_allclose(ratio, [want, want], rtol=1e-14)
    of_shards = normalized_exam_loss(losses.reshape(2, 4)[0], scores.reshape(2, 4)[0])
    assert abs(of_shards - want) > 1e-3


@pytest.mark.parametrize("way", [over_pmap, over_shard_map])
def test_ratios_of_ones_own_losses_take_both_parts_over_devices(way):
    """As the documents say it; without, each device has a ratio of its own."""

    def of(axis_name, over=lambda part: part):
        def ratio(weights, losses):
            return over(jnp.sum(weights * losses)) / over(jnp.sum(weights))

        def losses(weights, batch):
            return (jnp.tanh(batch["x"] @ weights) - batch["y"]) ** 2

        def study(moves, reads, model_state, batch, key):
            batch = batch["train"]
            trust = jnp.exp(reads["trust"][batch["index"]])
            return ratio(trust, losses(moves["weights"], batch))

        def judge(moves, reads, model_state, batch, key):
            batch = batch["val"]
            hard = jnp.exp(batch["x"] @ moves["exam"])
            return ratio(hard, losses(reads["weights"], batch))

        learner = Stage(
            "learner",
            moves=("weights",),
            reads=("trust",),
            data=("train",),
            loss_fn=study,
            optimizer=optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2, 0.9)),
        )
        last = Validation(
            judge,
            reads=("weights",),
            data=("val",),
            minimize={"trust": optax.adam(0.1)},
            maximize={"exam": optax.sgd(0.1)},
            indirect=("trust",),
        )
        return Program((learner,), last, axis_name=axis_name)

    rng = np.random.default_rng(2)
    batches = {
        name: {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8)}
        for name in ("train", "val")
    }
    batches["train"]["index"] = np.arange(8)
    batches = jax.tree.map(jnp.asarray, batches)
    params = {
        "weights": rng.normal(size=3),
        "trust": np.linspace(-1, 1, 8),
        "exam": rng.normal(size=3),
    }
    state = of(None).init(params, jax.random.key(0))
    want, metrics = jax.jit(five_steps(of(None)))(state, batches)
    pmean = functools.partial(jax.lax.pmean, axis_name=AXIS)
    got, got_metrics = way(five_steps(of(AXIS, pmean)), 2)(state, batches)
    close(got, want, 1e-12)
    close(got_metrics, metrics, 1e-12)
    alone, _ = way(five_steps(of(AXIS)), 2)(state, batches)
    assert np.abs(alone.params["trust"] - want.params["trust"]).max() > 1e-3


def test_a_program_without_an_axis_differs_from_one_with(problem):
    """The comparison above can fail: shards alone give another hypergradient."""
    state, batches = problem
    want, _ = jax.jit(lpt(None).hypergrad)(state, batches)

    def local(state, batches):
        grads, _ = lpt(None).hypergrad(state, batches)
        return jax.lax.pmean(grads, AXIS)

    got = over_shard_map(local, 8)(state, batches)
    gap = np.abs(got["creator"] - want["creator"]).max()
    assert gap > 1e-3 * np.abs(want["creator"]).max()


def test_what_stages_return_beside_their_loss_is_a_mean_over_devices():
    """Counts and truths too, and the model states of a look-ahead."""

    def loss(moves, reads, model_state, batch, key):
        positive = batch["x"] > 0
        found = {
            "count": positive.sum(),
            "all": positive.all(),
            "sum": batch["x"].sum(),
        }
        return moves["w"] * batch["x"].mean(), Aux(found, {"mean": batch["x"].mean()})

    stage = Stage(
        "only", moves=("w",), loss_fn=loss, data=("x",), optimizer=optax.sgd(0.1)
    )
    program = Program((stage,), axis_name=AXIS)
    state = program.init({"w": 1.0}, jax.random.key(0), {"mean": 0.0})

    def both(state, batches):
        return program.step(state, batches)[1], program.look_ahead(state, batches)

    x = jnp.asarray([[1.0, 2.0], [3.0, -2.0]])
    metrics, ahead = jax.vmap(both, (None, 0), axis_name=AXIS)(state, {"x": x})
    for name, mean in (("count", 1.5), ("all", 0.5), ("sum", 2.0), ("loss", 1.0)):
        np.testing.assert_array_equal(metrics[f"only/{name}"], [mean, mean])
    np.testing.assert_array_equal(ahead.model_state["mean"], [1.0, 1.0])
