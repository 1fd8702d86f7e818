"""The options and ablations of learning by passing tests, each against plain autodiff.

The references write one step of everything as a function of A and C, with a stop_gradient
where the option holds something fixed; they use nothing of the library.
"""

import dataclasses
import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Exact, FirstOrder, Steps
from skillearn_jax.skills import LPT_VARIANTS, learning_by_passing_tests

pytestmark = pytest.mark.usefixtures("quick_compilation")

XI_W, XI_E, XI_X = 0.4, 0.3, 0.2
GAMMA, LAMBDA = 0.7, 0.6
FIXED = jax.lax.stop_gradient


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this module computes in float64."""


def build(small, **options):
    options = {"interaction_weight": GAMMA, "tester_weight": LAMBDA, **options}
    program = learning_by_passing_tests(
        small.learner(), small.tester("label"), **options
    )
    params = {name: small.params[name] for name in program.sets}
    return program, program.init(params, jax.random.key(0))


def gradients(program, state, batches):
    return jax.jit(program.hypergrad)(state, batches)


def parts(small):
    """The functions that all references are made of."""
    batches, own = small.batches, small.tester_losses("label")
    bank, params = batches["bank"], small.params

    def learned(a):
        g = jax.grad(small.train_loss)(
            {"weights": params["weights"]}, {"alphas": a}, {}, batches, None
        )
        return params["weights"] - XI_W * g["weights"]

    def study(e, x, stream="train"):
        return jnp.mean(own(x, small.encode(e, batches[stream]), batches[stream]))

    def exam_losses(e, x):
        return own(x, small.encode(e, bank), bank)

    def scores(c, e):
        return small.scores(c, small.encode(e, bank))

    def bank_losses(a, w):
        return small.learner_losses(a, w, bank)

    def studied(loss):
        """E', X' on a loss of both."""
        e, x = params["encoder"], params["executor"]
        g_e, g_x = jax.grad(loss, (0, 1))(e, x)
        return e - XI_E * g_e, x - XI_X * g_x

    return SimpleNamespace(
        learned=learned,
        study=study,
        exam_losses=exam_losses,
        scores=scores,
        bank_losses=bank_losses,
        studied=studied,
    )


def ratio(losses, scores):
    return jnp.sum(scores * losses) / jnp.sum(scores)


def mean(losses, scores):
    return jnp.mean(scores * losses)


def paper(small, a, c, *, reduce=ratio, training=None, study=True, weight=LAMBDA):
    """The objective of A and C, with the tester's training loss on exams as given."""
    p = parts(small)
    training = training or (lambda e, x, c: mean(p.exam_losses(e, x), p.scores(c, e)))
    e, x = p.studied(lambda e, x: study * p.study(e, x) + GAMMA * training(e, x, c))
    value = reduce(p.bank_losses(a, p.learned(a)), p.scores(c, e))
    return value - weight * p.study(e, x, "val")


def compare(small, assert_close, objective, **options):
    program, state = build(small, **options)
    got, info = gradients(program, state, small.batches)
    value, want = jax.jit(jax.value_and_grad(objective, (0, 1)))(
        small.params["alphas"], small.params["creator"]
    )
    assert_close(got["alphas"], want[0])
    assert_close(got["creator"], want[1])
    return program, info, value


def test_the_paper_form_is_the_default(small, assert_close):
    _, info, value = compare(small, assert_close, functools.partial(paper, small))
    assert_close(info.objective, value)


def test_the_mean_exam_loss(small, assert_close):
    objective = functools.partial(paper, small, reduce=mean)
    _, info, value = compare(small, assert_close, objective, exam_loss="mean")
    assert_close(info.objective, value)


def test_fixed_scores_are_fixed_in_the_encoder_and_not_in_the_creator(
    small, assert_close
):
    p = parts(small)

    def training(e, x, c):
        return mean(p.exam_losses(e, x), p.scores(c, FIXED(e)))

    objective = functools.partial(paper, small, training=training)
    _, info, _ = compare(small, assert_close, objective, exam_scores="fixed")
    assert np.all(info.response["creator"])


@pytest.mark.parametrize(
    ("exam_loss", "reduce"), [("normalized", ratio), ("mean", mean)]
)
def test_normalized_scores_are_a_ratio_in_the_testers_training(
    exam_loss, reduce, small, assert_close
):
    p = parts(small)

    def training(e, x, c):
        return ratio(p.exam_losses(e, x), p.scores(c, e))

    objective = functools.partial(paper, small, training=training, reduce=reduce)
    options = {"exam_scores": "normalized", "exam_loss": exam_loss}
    compare(small, assert_close, objective, **options)


@pytest.mark.parametrize(
    ("scores", "shrinks"), [("live", True), ("fixed", False), ("normalized", False)]
)
def test_which_scores_let_the_encoder_shrink_the_exam(small, scores, shrinks):
    """A feature that only scales all scores alike: live descends it, the others not."""

    def encode(encoder, model_state, batch, key):
        del model_state, key
        return (batch["x"] @ encoder["w"], encoder["size"]), {}

    tester = small.tester(
        "label",
        encode=encode,
        losses=lambda x, f, batch: small.tester_losses("label")(x, f[0], batch),
        scores=lambda c, f: jax.nn.sigmoid(f[0] @ c) * jnp.exp(f[1]),
        accuracies=lambda x, f, batch: jnp.ones(len(batch["x"])),
    )
    program = learning_by_passing_tests(small.learner(), tester, exam_scores=scores)
    encoder = {"w": small.params["encoder"], "size": jnp.array(-0.1)}
    params = {**small.params, "encoder": encoder}
    info = gradients(program, program.init(params, jax.random.key(0)), small.batches)[1]
    moved = float(info.lookahead["encoder"]["size"]) - -0.1
    if shrinks:
        assert moved < -1e-3
    else:
        assert abs(moved) < 1e-15


def test_stale_reads_cross(small, assert_close):
    """A meets the old encoder's exam, C the losses of the old weights."""
    p, params = parts(small), small.params

    def of_a(a, c):
        old = FIXED(p.scores(c, params["encoder"]))
        return mean(p.bank_losses(a, p.learned(a)), old)

    def of_c(a, c):
        e, x = p.studied(
            lambda e, x: (
                p.study(e, x) + GAMMA * mean(p.exam_losses(e, x), p.scores(c, e))
            )
        )
        losses = p.bank_losses(a, params["weights"])
        return mean(FIXED(losses), p.scores(c, e)) - LAMBDA * p.study(e, x, "val")

    def objective(a, c):
        return of_a(a, c) + of_c(a, c)

    program, info, _ = compare(
        small, assert_close, objective, exam_loss="mean", stale_reads=True
    )
    assert_close(info.objective, of_c(params["alphas"], params["creator"]))
    assert "    and old  weights, encoder" in str(program).splitlines()


def test_the_released_code_moves_the_architecture_first(small, assert_close):
    """The creator's gradient is taken at the new A, and the bundle is those options."""
    program, state = build(small, **LPT_VARIANTS["released_code"])
    options = {"exam_loss": "mean", "stale_reads": True}
    plain, start = build(small, **options)
    new, _ = jax.jit(program.step)(state, small.batches)
    grads, _ = gradients(plain, start, small.batches)
    alphas = small.params["alphas"] - 0.1 * grads["alphas"]
    assert_close(new.params["alphas"], alphas)
    moved = start._replace(params={**start.params, "alphas": alphas})
    grads, _ = gradients(plain, moved, small.batches)
    assert_close(
        new.params["creator"], small.params["creator"] + 0.1 * grads["creator"]
    )


def test_the_released_first_order_code_sees_current_values_only(small, assert_close):
    p, params = parts(small), small.params

    def objective(a, c):
        return mean(p.bank_losses(a, params["weights"]), p.scores(c, params["encoder"]))

    options = {**LPT_VARIANTS["released_code_first_order"], "order": "simultaneous"}
    _, info, _ = compare(small, assert_close, objective, **options)
    np.testing.assert_array_equal(info.response["creator"], np.zeros(4))
    assert LPT_VARIANTS["paper"] == {}


@pytest.mark.parametrize("stale", [False, True])
def test_difficulty_only_has_no_executor_and_the_encoder_ascends(
    small, assert_close, stale
):
    p = parts(small)
    options = {"ablation": "difficulty_only", "stale_reads": stale}
    program, state = build(small, exam_loss="mean", **options)
    assert set(program.sets) == {"weights", "alphas", "encoder", "creator"}
    assert [stage.name for stage in program.stages] == ["learner"]
    assert program.streams == ("train", "bank")
    assert "maximize encoder, creator" in str(program)
    got, _ = gradients(program, state, small.batches)

    def objective(a, c, e):
        losses, scores = p.bank_losses(a, p.learned(a)), p.scores(c, e)
        if not stale:
            return mean(losses, scores)
        old_losses = p.bank_losses(a, small.params["weights"])
        return mean(losses, FIXED(scores)) + mean(FIXED(old_losses), scores)

    names = ("alphas", "creator", "encoder")
    want = jax.jit(jax.grad(objective, (0, 1, 2)))(*(small.params[n] for n in names))
    for name, gradient in zip(names, want, strict=True):
        assert_close(got[name], gradient)
    new, _ = jax.jit(program.step)(state, small.batches)
    want = small.params["encoder"] + 0.3 * got["encoder"]
    assert_close(new.params["encoder"], want)


def test_exam_only_leaves_the_testers_training_data_out(small, assert_close):
    objective = functools.partial(paper, small, study=0.0)
    program, _, _ = compare(small, assert_close, objective, ablation="exam_only")
    assert program.stages[1].data == ("bank",)
    assert program.stages[1].interaction is None


def test_a_tester_of_two_steps_has_streams_of_its_own(small, assert_close):
    p, params = parts(small), small.params
    program = learning_by_passing_tests(
        small.learner(),
        small.tester("label"),
        interaction_weight=GAMMA,
        tester_weight=LAMBDA,
        tester_train="own_train",
        tester_bank="own_bank",
    )
    assert program.streams == ("train", "own_train", "own_bank", "bank", "val")
    assert "own_bank" in program.learners[1].data
    learn, study = program.stages
    study = dataclasses.replace(study, solver=Steps(2))
    program = program.replace(stages=(learn, study))
    two = {
        "own_train": ("train", "val"),
        "own_bank": ("bank", "train"),
    }
    stacked = {
        own: jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *map(small.batches.get, of)
        )
        for own, of in two.items()
    }
    state = program.init(params, jax.random.key(0))
    got, _ = gradients(program, state, {**small.batches, **stacked})

    def objective(a, c):
        e, x = params["encoder"], params["executor"]
        for train, bank in zip(*two.values(), strict=True):

            def loss(e, x, train=train, bank=bank):
                features = small.encode(e, small.batches[bank])
                losses = small.tester_losses("label")(x, features, small.batches[bank])
                scores = small.scores(c, features)
                return p.study(e, x, train) + GAMMA * mean(losses, scores)

            g_e, g_x = jax.grad(loss, (0, 1))(e, x)
            e, x = e - XI_E * g_e, x - XI_X * g_x
        value = ratio(p.bank_losses(a, p.learned(a)), p.scores(c, e))
        return value - LAMBDA * p.study(e, x, "val")

    want = jax.jit(jax.grad(objective, (0, 1)))(params["alphas"], params["creator"])
    assert_close(got, {"alphas": want[0], "creator": want[1]})


def test_weight_0_leaves_things_out(small, assert_close):
    program, state = build(small, interaction_weight=0.0)
    assert program.stages[1].all_data == ("train",)
    assert program.stages[1].interaction is None
    program, state = build(small, tester_weight=0.0)
    assert program.streams == ("train", "bank")
    lean = {name: small.batches[name] for name in program.streams}
    got, info = gradients(program, state, lean)
    want = jax.jit(jax.grad(functools.partial(paper, small, weight=0.0), (0, 1)))(
        small.params["alphas"], small.params["creator"]
    )
    assert_close(got, {"alphas": want[0], "creator": want[1]})
    assert "tester_loss" not in info.metrics


OPTIONS = {
    "paper": {},
    "released_code": LPT_VARIANTS["released_code"],
    "released_code_first_order": LPT_VARIANTS["released_code_first_order"],
    "fixed": {"exam_scores": "fixed"},
    "difficulty_only": {"ablation": "difficulty_only", "stale_reads": True},
    "exam_only": {"ablation": "exam_only", "exam_scores": "normalized"},
    "first_order": {
        "adjoint": FirstOrder(at="lookahead"),
        "tester_adjoint": FirstOrder(at="lookahead"),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_contracts_of_every_skill(small, options):
    """One compilation, jit = no jit, the same structure and the same bits out."""
    program, state = build(small, **options)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(program.step, n=1))
    new, metrics = step(state, small.batches)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    step(new, small.batches)
    again, _ = step(state, small.batches)
    chex.assert_trees_all_equal(new.params, again.params)
    with jax.disable_jit():
        plain, _ = program.step(state, small.batches)
    chex.assert_trees_all_close(new.params, plain.params, rtol=1e-10)
    for name in program.sets:
        assert np.all(new.params[name] != state.params[name]), name
    assert all(np.isfinite(value) for value in metrics.values())
    assert "validation" in str(program)


@pytest.mark.parametrize("scores", ["fixed", "normalized"])
def test_several_devices_are_one(small, assert_close, scores):
    """The ratio in the tester's training is one over the whole bank."""
    options = {"exam_scores": scores, "adjoint": Exact(), "tester_adjoint": Exact()}
    program, state = build(small, **options)
    want, _ = gradients(program, state, small.batches)
    parallel, _ = build(small, axis_name="d", **options)
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    sharded = jax.jit(
        jax.shard_map(
            lambda state, batches: parallel.hypergrad(state, batches)[0],
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("d")),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    assert_close(sharded(state, small.batches), want, rtol=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"exam_loss": "sum"},
            "exam_loss='sum'; it must be one of 'normalized', 'mean'",
        ),
        ({"exam_scores": "dead"}, "exam_scores='dead'; it must be one of 'live'"),
        ({"ablation": "ab1"}, "ablation='ab1'; it must be one of 'none'"),
        (
            {"ablation": "exam_only", "interaction_weight": 0.0},
            "leaves the tester nothing to learn from",
        ),
        (
            {"tester_weight": float("nan")},
            "tester_weight=nan; it must be a finite number",
        ),
        (
            {"tester_weight": float("inf")},
            "tester_weight=inf; it must be a finite number",
        ),
        ({"interaction_weight": "1"}, "interaction_weight='1'; it must be a finite"),
        (
            {"tester_weight": np.ones(2)},
            r"tester_weight has the shape \(2,\); .* jax.vmap",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(small, options, message):
    with pytest.raises(InputError, match=message):
        build(small, **options)


def test_without_a_curriculum_nobody_counts_errors(small):
    learner = small.learner(example_errors=lambda *args: pytest.fail("called"))
    program = learning_by_passing_tests(learner, small.tester("label"))
    state = program.init(small.params, jax.random.key(0))
    assert "exam_error" not in program.hypergrad(state, small.batches)[1].metrics
