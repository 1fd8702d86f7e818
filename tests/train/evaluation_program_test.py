"""The training of a fixed network: what each option changes in one step."""

import dataclasses
import shutil
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax import data
from skillearn_jax.data import Mixing
from skillearn_jax.nas import CellSpace, Outputs, random_genotype
from skillearn_jax.train import evaluation_training, load, run
from skillearn_jax.train.evaluation_program import training_program
from skillearn_jax.train.optimizers import learning_rate
from skillearn_jax.train.spaces import space_kind

pytestmark = pytest.mark.usefixtures("quick_compilation")
BATCH, CLASSES = 6, 7


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "train": {
            "image": jnp.asarray(rng.normal(size=(BATCH, 8, 8, 1)), jnp.float32),
            "label": jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32),
            "index": jnp.arange(BATCH),
        },
        "progress": jnp.float32(0.5),
    }


@pytest.fixture(scope="module")
def built(tiny):
    """`built(changes) -> (network, program, state)`; the same weights for all."""
    initial = []

    def build(changes=(), steps_per_epoch=10):
        config = tiny(
            {"space.num_nodes": 1, "evaluation.drop_path": 0.0, **dict(changes)}
        )
        space = CellSpace(ops=config.space.ops, num_nodes=1)
        cells = random_genotype(np.random.default_rng(1), space)
        kind = space_kind(config)
        network = kind.network(cells, config, CLASSES, None, auxiliary=False)
        if not initial:  # the same network for all
            init = jax.jit(partial(network.init, train=False))
            initial.append(init(jax.random.key(0), jnp.zeros((2, 8, 8, 1))))
        (variables,) = initial
        program = training_program(network, config, steps_per_epoch, None)
        state = program.init(
            {"weights": variables["params"]},
            jax.random.key(1),
            {"network": variables["batch_stats"]},
        )
        return network, program, state

    return build


def logits_of(network, state, images):
    variables = {
        "params": state.params["weights"],
        "batch_stats": state.model_state["network"],
    }
    apply = partial(network.apply, train=True, mutable=["batch_stats"])
    return jax.jit(apply)(variables, images)[0]


def loss_of(program, state, batch):
    moves, key = {"weights": state.params["weights"]}, jax.random.key(5)
    stage = jax.jit(lambda *args: program.stages[0](*args))
    return stage(moves, {}, state.model_state, batch, key)[0]


def test_the_loss_of_smoothed_labels(built, batch):
    network, program, state = built({"evaluation.label_smoothing": 0.1})
    logits = logits_of(network, state, batch["train"]["image"])
    soft = optax.losses.smooth_labels(
        jax.nn.one_hot(batch["train"]["label"], CLASSES), 0.1
    )
    expected = jnp.mean(optax.losses.softmax_cross_entropy(logits, soft))
    found = loss_of(program, state, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_loss_of_the_auxiliary_head_is_weighed_and_smoothed_too(tiny, batch):
    rng = np.random.default_rng(3)
    logits, auxiliary = jnp.asarray(rng.normal(size=(2, BATCH, CLASSES)), jnp.float32)

    def apply(variables, images, **options):
        return Outputs(logits, auxiliary), {"batch_stats": {}}

    changes = {"evaluation.auxiliary_weight": 0.3, "evaluation.label_smoothing": 0.1}
    config = tiny({**changes, "evaluation.drop_path": 0.0})
    program = training_program(SimpleNamespace(apply=apply), config, 10, None)
    key = jax.random.key(0)
    loss, told = program.stages[0]({"weights": {}}, {}, {"network": {}}, batch, key)
    labels = batch["train"]["label"]
    soft = optax.losses.smooth_labels(jax.nn.one_hot(labels, CLASSES), 0.1)
    of_both = [
        jnp.mean(optax.losses.softmax_cross_entropy(each, soft))
        for each in (logits, auxiliary)
    ]
    np.testing.assert_allclose(loss, of_both[0] + 0.3 * of_both[1], rtol=1e-6)
    wrong = np.mean(np.argmax(logits, -1) != labels)
    np.testing.assert_allclose(told.metrics["error"], 100 * wrong, rtol=1e-6)


def test_drop_path_rises_with_progress(built, batch):
    network, program, state = built({"evaluation.drop_path": 0.8})
    variables = {
        "params": state.params["weights"],
        "batch_stats": state.model_state["network"],
    }
    seen = []
    for progress, rate in ((0.0, 0.0), (0.5, 0.4), (0.75, 0.6)):
        apply = partial(network.apply, train=True, mutable=["batch_stats"])
        logits, _ = apply(
            variables,
            batch["train"]["image"],
            drop_path_rate=rate,
            rngs={"drop_path": jax.random.split(jax.random.key(5))[0]},
        )
        expected = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, batch["train"]["label"]
        ).mean()
        found = loss_of(program, state, {**batch, "progress": jnp.float32(progress)})
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        seen.append(float(found))
    assert len(set(seen)) == 3


class Seen(Exception):
    """Ends a run where what is tested is known."""


def test_progress_is_the_share_of_epochs_that_are_done(
    tiny_baseline, tmp_path, monkeypatch
):
    def compile_loop(*args, prepare, **options):
        del args, options
        raise Seen(prepare)

    monkeypatch.setattr(evaluation_training, "compile_loop", compile_loop)
    changes = {"genotype": "random:1", "evaluation.epochs": 4}
    config = tiny_baseline(changes)
    steps_per_epoch = data.load("digits").num_train // config.evaluation.batch_size
    assert steps_per_epoch > 1
    with pytest.raises(Seen) as seen:
        run(config, tmp_path / "run", quiet=True)
    (prepare,) = seen.value.args
    found = [
        float(prepare({}, jnp.int32(step))["progress"])
        for step in range(4 * steps_per_epoch)
    ]
    np.testing.assert_array_equal(found, np.repeat(np.arange(4) / 4, steps_per_epoch))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_loss_of_mixed_images_is_that_of_mixed_labels(
    name, built, batch, monkeypatch
):
    network, program, state = built({f"evaluation.{name}": 1.0})
    mixed = {}

    def noted(self, batch, key, axis_name):
        mixed.update(apply(self, batch, key, axis_name))
        return mixed

    apply = Mixing.apply
    monkeypatch.setattr(Mixing, "apply", noted)
    monkeypatch.setattr(jax, "jit", lambda function: function)  # to see the images
    loss = loss_of(program, state, batch)
    monkeypatch.undo()
    logits = jax.nn.log_softmax(logits_of(network, state, mixed["image"]))
    share = mixed["share"][:, None]
    soft = share * jax.nn.one_hot(batch["train"]["label"], CLASSES) + (
        1 - share
    ) * jax.nn.one_hot(mixed["other_label"], CLASSES)
    np.testing.assert_allclose(loss, -jnp.mean(jnp.sum(soft * logits, -1)), rtol=1e-5)
    assert jnp.any(mixed["image"] != batch["train"]["image"])


def test_accumulated_gradients_make_one_update_of_their_mean(built, batch):
    """Two half batches: SGD on the mean of their gradients, clipped as one."""
    changes = {
        "evaluation.weights.lr": 0.5,
        "evaluation.weights.clip": 0.01,
        "evaluation.weights.momentum": 0.0,
        "evaluation.weights.weight_decay": 0.0,
        "evaluation.epochs": 2,
    }
    _, program, state = built({**changes, "evaluation.accumulate": 2})
    halves = [
        {**batch, "train": jax.tree.map(lambda x, p=part: x[p], batch["train"])}
        for part in (slice(0, 3), slice(3, 6))
    ]
    step = jax.jit(program.step)
    first, _ = step(state, halves[0])
    second, _ = step(first, halves[1])
    jax.tree.map(np.testing.assert_array_equal, first.params, state.params)
    stage = program.stages[0]

    def gradient(state, part):
        def loss(moves):
            return stage(moves, {}, state.model_state, part, state.key)[0]

        return jax.jit(jax.grad(loss))({"weights": state.params["weights"]})

    mean = jax.tree.map(
        lambda a, b: (a + b) / 2, gradient(state, halves[0]), gradient(first, halves[1])
    )
    scale = 0.01 / optax.tree.norm(mean)
    assert scale < 1
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(
            new, old - 0.5 * scale * g, rtol=1e-4, atol=1e-7
        ),
        second.params,
        state.params,
        mean,
    )


def test_bfloat16_is_the_arithmetic_and_not_the_state(built, batch):
    _, plain, state = built()
    _, program, _ = built({"evaluation.compute": "bfloat16"})
    text = str(jax.make_jaxpr(program.step)(state, batch))
    assert "bf16[6,8,8" in text
    assert "bf16" not in str(jax.make_jaxpr(plain.step)(state, batch))
    expected, of_plain = jax.jit(plain.step)(state, batch)
    found, metrics = jax.jit(program.step)(state, batch)
    for leaf in jax.tree.leaves((found.params, found.model_state, found.opt_states)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    loss, exact = float(metrics["network/loss"]), float(of_plain["network/loss"])
    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.02)
    difference = jax.tree.map(jnp.subtract, found.params, expected.params)
    moved = jax.tree.map(jnp.subtract, expected.params, state.params)
    assert optax.tree.norm(difference) < 0.1 * optax.tree.norm(moved)


def test_the_rate_of_a_training_falls_over_its_own_epochs(tiny):
    """And is that of its optimiser: the search has others, and as many for both."""
    changes = {
        "evaluation.epochs": 4,
        "evaluation.weights.lr": 0.5,
        "evaluation.weights.momentum": 0.0,
        "evaluation.weights.weight_decay": 0.0,
        "evaluation.weights.clip": 0.0,
        "search.weights.lr": 9.0,
        "search.epochs": 9,
    }
    (stage,) = training_program(None, tiny(changes), 2, None).stages
    sets, one = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    state, moves = stage.optimizer.init(sets), []
    for _ in range(8):
        move, state = stage.optimizer.update(one, state, sets)
        moves.append(-float(move["w"][0]))
    rates = 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(moves, np.repeat(rates, 2), rtol=1e-5)


def test_images_are_mixed_over_all_devices_by_a_key_of_their_own(
    tiny, batch, monkeypatch
):
    seen = []

    def noted(self, batch, key, axis_name):
        seen.append((key, axis_name))
        return {**batch, "other_label": batch["label"], "share": jnp.ones(BATCH)}

    def network(variables, images, *, rngs, **options):
        seen.append(rngs["drop_path"])
        return jnp.zeros((BATCH, CLASSES)), {"batch_stats": {}}

    monkeypatch.setattr(Mixing, "apply", noted)
    config = tiny({"evaluation.mixup": 1.0, "evaluation.drop_path": 0.2})
    program = training_program(SimpleNamespace(apply=network), config, 10, "devices")
    key = jax.random.key(0)
    program.stages[0].loss_fn({"weights": {}}, {}, {"network": {}}, batch, key)
    (mixing, axis_name), drop_path = seen
    assert axis_name == "devices"
    keys = {tuple(jax.random.key_data(k).tolist()) for k in (key, mixing, drop_path)}
    assert len(keys) == 3


@pytest.mark.parametrize("by_step", [False, True])
def test_accumulation_leaves_the_schedule_by_epochs(tiny, by_step):
    weights = dataclasses.replace(
        tiny().evaluation.weights, lr=1.0, min_lr=0.0, by_step=by_step
    )
    every = learning_rate(weights, 4, steps_per_epoch=5)
    rates = learning_rate(weights, 4, steps_per_epoch=5, accumulate=2)
    for update in range(10):
        expected = float(every(jnp.int32(2 * update)))
        assert float(rates(jnp.int32(update))) == pytest.approx(expected, abs=1e-7)


def test_a_training_with_an_average_goes_on_bit_for_bit(tiny_baseline, tmp_path):
    """From the checkpoint of its first epoch; kept and judged is the average."""
    changes = {
        "genotype": "random:1",
        "evaluation.epochs": 2,
        "evaluation.num_random": 0,
        "evaluation.num_seeds": 1,
        "evaluation.average": 0.9,
        "evaluation.accumulate": 2,
        "evaluation.mixup": 0.5,
        "evaluation.compute": "bfloat16",
        "checkpoint.keep": 2,
    }
    workdir = tmp_path / "run"
    run(tiny_baseline(changes), workdir, quiet=True)
    before = load(workdir).variables
    held_out = (workdir / "heldout.json").read_text()
    *_, newest = sorted(
        (p for p in (workdir / "checkpoints" / "evaluation").iterdir() if p.is_dir()),
        key=lambda p: int("".join(filter(str.isdigit, p.name)) or -1),
    )
    for path in (newest, workdir / "networks"):
        shutil.rmtree(path)
    for name in ("evaluation.json", "heldout.json", "summary.json"):
        (workdir / name).unlink()
    run(tiny_baseline(changes), workdir, quiet=True)
    assert (workdir / "heldout.json").read_text() == held_out
    jax.tree.map(np.testing.assert_array_equal, load(workdir).variables, before)


@pytest.mark.parametrize(("backend", "scanned"), [("cpu", False), ("gpu", True)])
def test_the_backend_chooses_how_equal_cells_are_run(
    tiny, monkeypatch, backend, scanned
):
    config = tiny({"space.num_nodes": 1})
    space = CellSpace(ops=config.space.ops, num_nodes=1)
    cells = random_genotype(np.random.default_rng(1), space)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    network = space_kind(config).network(cells, config, CLASSES, None, auxiliary=False)
    assert network.scan_cells is scanned
