"""Sequences of exams: harder once passed, and no harder than the learner can follow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.skills import (
    Curriculum,
    learning_by_passing_tests,
    normalized_exam_loss,
)
from skillearn_jax.skills.exams import harden, hold

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this module computes in float64."""


def take(curriculum, errors):
    state = curriculum.init()
    for error in errors:
        state = curriculum.update(state, jnp.asarray(error))
    return state


def test_a_passed_exam_makes_the_next_one_harder():
    curriculum = Curriculum(threshold=0.3, step=0.5, decay=0.0, max_hardness=2.0)
    state = take(curriculum, [0.2])
    assert float(state.hardness) == 1.5
    state = take(curriculum, [0.2, 0.31, 0.1])
    assert float(state.hardness) == 2.0
    assert (int(state.exams), int(state.passes)) == (3, 2)
    assert float(take(curriculum, [0.1] * 9).hardness) == 2.0


def test_a_failed_exam_is_retaken_or_eased():
    assert float(take(Curriculum(decay=0.0), [0.9, 0.9]).hardness) == 1.0
    easing = Curriculum(decay=0.0, ease=0.4)
    np.testing.assert_allclose(take(easing, [0.9, 0.9]).hardness, 0.2)
    assert float(take(easing, [0.9] * 4).hardness) == 0.0


def test_the_error_is_a_running_mean_that_starts_at_1():
    state = take(Curriculum(decay=0.8), [0.5, 0.1])
    np.testing.assert_allclose(state.error, 0.8 * (0.8 + 0.1) + 0.2 * 0.1, rtol=1e-14)


def test_an_exam_is_passed_by_the_running_error():
    """Half of each error: 0.5, not below R; 0.375; and 0.4875, for all the exam's 0.6."""
    curriculum = Curriculum(threshold=0.5, decay=0.5)
    passes = [int(take(curriculum, [0.0, 0.25, 0.6][:i]).passes) for i in (1, 2, 3)]
    assert passes == [0, 1, 2]


def test_it_is_over_when_the_error_has_come_to_rest():
    curriculum = Curriculum(decay=0.0, tolerance=0.01, patience=3)
    assert not curriculum.finished(take(curriculum, [0.5, 0.5, 0.5]))
    assert curriculum.finished(take(curriculum, [0.5, 0.5, 0.5, 0.5]))
    # A jump starts the count again.
    assert not curriculum.finished(take(curriculum, [0.5] * 3 + [0.6] + [0.6] * 2))
    # But what is over stays over.
    assert curriculum.finished(take(curriculum, [0.5] * 4 + [0.6]))


def test_capacity_is_the_accuracy_in_units_of_the_testers():
    curriculum = Curriculum(decay=0.0, capacity_aware=True, start=2.0)
    state = curriculum.init()
    assert float(curriculum.exam_hardness(state)) == 2.0
    weak = curriculum.measure_capacity(state, jnp.array(0.6), jnp.array(0.2))
    np.testing.assert_allclose(weak.capacity, 0.5, rtol=1e-14)
    np.testing.assert_allclose(curriculum.exam_hardness(weak), 1.0, rtol=1e-14)
    np.testing.assert_allclose(curriculum.exam_share(weak), 0.5, rtol=1e-14)
    strong = curriculum.measure_capacity(state, jnp.array(0.1), jnp.array(0.2))
    assert float(strong.capacity) == 1.0
    nobody = curriculum.measure_capacity(state, jnp.array(1.0), jnp.array(1.0))
    assert float(nobody.capacity) == 1.0
    plain = Curriculum(decay=0.0, start=2.0)
    assert float(plain.exam_hardness(weak)) == 2.0
    slow = Curriculum(decay=0.8).measure_capacity(state, jnp.array(0.6), jnp.array(0.2))
    np.testing.assert_allclose(slow.capacity, 0.8 + 0.2 * 0.5, rtol=1e-14)


def test_on_one_bank_the_smaller_learner_gets_the_easier_exam():
    """The same tester, the same losses; only the measured capacity differs."""
    curriculum = Curriculum(decay=0.0, capacity_aware=True, start=3.0)
    rng = np.random.default_rng(0)
    losses = jnp.array(rng.uniform(0.1, 3, 64))
    scores = jax.nn.sigmoid(losses - 1.5 + jnp.array(0.3 * rng.normal(size=64)))

    def exam(error):
        state = curriculum.measure_capacity(curriculum.init(), error, jnp.array(0.1))
        soft = normalized_exam_loss(
            losses, harden(scores, curriculum.exam_hardness(state))
        )
        held = hold(scores, curriculum.exam_share(state))
        return soft, jnp.sum(held * losses) / jnp.sum(held), held.sum()

    small, large = exam(jnp.array(0.7)), exam(jnp.array(0.2))
    assert small[0] < large[0] - 0.1
    assert small[1] < large[1] - 0.1
    assert small[2] > large[2]


def test_one_compilation():
    curriculum = Curriculum()
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(curriculum.update, n=1))
    state = curriculum.init()
    for error in (0.1, 0.9, 0.2):
        new = update(state, jnp.asarray(error))
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        state = new


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, r"threshold=1.5; it must lie in \[0, 1\]"),
        ({"start": 5.0}, r"start=5.0; it must lie in \[0, 4.0\]"),
        ({"patience": 0}, "patience=0"),
        ({"decay": float("nan")}, "decay=nan"),
        ({"decay": 1}, "decay=1 leaves the running error where it begins"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Curriculum(**options)


# In a program.


def errors_of(small):
    def errors(weights, supporting, model_state, batch, key):
        x = batch["x"] * jax.nn.softplus(supporting["alphas"])[None]
        return ((jnp.tanh(x) @ weights).argmax(-1) != batch["label"]).astype(float)

    return errors


def build(small, curriculum, **tester):
    learner = small.learner(example_errors=errors_of(small))
    program = learning_by_passing_tests(
        learner,
        small.tester("label", **tester),
        curriculum=curriculum,
        tester_weight=0.5,
    )
    state = program.init(
        small.params, jax.random.key(0), {"curriculum": curriculum.init()}
    )
    return program, state


def test_at_hardness_1_it_is_the_papers_program(small, assert_close):
    program, state = build(small, Curriculum(capacity_aware=True))
    plain = learning_by_passing_tests(
        small.learner(), small.tester("label"), tester_weight=0.5
    )
    got, info = jax.jit(program.hypergrad)(state, small.batches)
    want, _ = jax.jit(plain.hypergrad)(
        plain.init(small.params, jax.random.key(0)), small.batches
    )
    assert_close(got, want)
    # The discrete exam: half of the bank, by the score of the encoder looked ahead.
    bank = small.batches["bank"]
    features = small.encode(info.lookahead["encoder"], bank)
    scores = small.scores(small.params["creator"], features)
    wrong = errors_of(small)(
        info.lookahead["weights"], {"alphas": small.params["alphas"]}, {}, bank, None
    )
    top = np.argsort(-np.asarray(scores))[:5]
    np.testing.assert_allclose(info.metrics["exam_error"], np.mean(wrong[top]))
    np.testing.assert_allclose(info.metrics["bank_error"], np.mean(wrong))
    answers = (features @ info.lookahead["executor"]).argmax(-1)
    want = np.mean(answers != bank["label"])
    np.testing.assert_allclose(info.metrics["tester_bank_error"], want)


@pytest.mark.parametrize(("aware", "power"), [(False, 2.0), (True, 1.2)])
def test_a_harder_exam_has_its_own_exact_gradient(aware, power, small, assert_close):
    """With a capacity of 0.6, hardness 2 is the power 1.2."""
    curriculum = Curriculum(start=2.0, capacity_aware=aware)
    program, state = build(
        small, curriculum, accuracies=lambda x, f, batch: jnp.ones(len(batch["x"]))
    )
    ledger = state.model_state["curriculum"]._replace(capacity=jnp.array(0.6))
    state = state._replace(model_state={"curriculum": ledger})
    got, info = jax.jit(program.hypergrad)(state, small.batches)
    bank = small.batches["bank"]

    def exam(creator, alphas):
        features = small.encode(info.lookahead["encoder"], bank)
        weights = small.scores(creator, features) ** power
        losses = small.learner_losses(alphas, info.lookahead["weights"], bank)
        return jnp.sum(weights * losses) / jnp.sum(weights)

    direct = jax.grad(exam, (0, 1))(small.params["creator"], small.params["alphas"])
    assert_close(info.direct["creator"], direct[0])
    assert_close(info.direct["alphas"], direct[1])
    assert np.all(got["creator"] != info.direct["creator"])


def test_hardness_2_is_a_tester_with_the_squares_of_its_scores(small, assert_close):
    """In its training, in the objective and in the size; and h itself is only data."""
    curriculum = Curriculum(start=2.0)
    hard = learning_by_passing_tests(
        small.learner(example_errors=errors_of(small)),
        small.tester("label"),
        curriculum=curriculum,
        exam_loss="mean",
    )
    squared = small.tester("label", scores=lambda c, f: small.scores(c, f) ** 2)
    plain = learning_by_passing_tests(small.learner(), squared, exam_loss="mean")
    key = jax.random.key(0)
    state = hard.init(small.params, key, {"curriculum": curriculum.init()})
    got, info = jax.jit(hard.hypergrad)(state, small.batches)
    want, want_info = jax.jit(plain.hypergrad)(
        plain.init(small.params, key), small.batches
    )
    assert_close(got, want)
    assert_close({n: info.metrics[n] for n in want_info.metrics}, want_info.metrics)

    def objective(hardness):
        ledger = state.model_state["curriculum"]._replace(hardness=hardness)
        moved = state._replace(model_state={"curriculum": ledger})
        return hard.objective(moved, small.batches)

    assert float(jax.jit(jax.grad(objective))(2.0)) == 0


def test_the_exam_is_held_over_all_devices(small):
    """The top half of the bank, not of each device's part of it."""
    learner, curriculum = small.learner(example_errors=errors_of(small)), Curriculum()
    bank = small.batches["bank"]
    # Sorted by score, so that the whole exam lies on the second device.
    order = jnp.argsort(
        small.scores(
            small.params["creator"], small.encode(small.params["encoder"], bank)
        )
    )
    batches = {**small.batches, "bank": jax.tree.map(lambda x: x[order], bank)}

    def exam_error(batches, axis_name=None):
        program = learning_by_passing_tests(
            learner, small.tester("label"), curriculum=curriculum, axis_name=axis_name
        )
        state = program.init(
            small.params, jax.random.key(0), {"curriculum": curriculum.init()}
        )
        return program.hypergrad(state, batches)[1].metrics["exam_error"]

    split = jax.tree.map(lambda x: x.reshape(2, 5, *x.shape[1:]), batches)
    mapped = jax.vmap(lambda part: exam_error(part, "d"), axis_name="d")
    want = jax.jit(exam_error)(batches)
    np.testing.assert_allclose(jax.jit(mapped)(split), [want, want], rtol=1e-12)


@pytest.mark.parametrize("aware", [False, True])
def test_hardness_follows_the_exams_and_nothing_recompiles(small, aware):
    curriculum = Curriculum(
        threshold=1.0, step=0.25, decay=0.5, capacity_aware=aware, max_hardness=1.5
    )
    program, state = build(
        small, curriculum, accuracies=lambda x, f, batch: jnp.ones(len(batch["x"]))
    )
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(program.step, n=1))
    hardness = []
    for _ in range(3):
        new, metrics = step(state, small.batches)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        before, ledger = (s.model_state["curriculum"] for s in (state, new))
        want = curriculum.update(before, metrics["validation/exam_error"])
        if aware:
            errors = (metrics[f"validation/{x}_error"] for x in ("bank", "tester_bank"))
            want = curriculum.measure_capacity(want, *errors)
        # Rounding alone may differ: one of the two is compiled.
        chex.assert_trees_all_close(ledger, want, rtol=1e-15)
        for name in ("error", "capacity", "passes"):
            assert metrics[f"curriculum/{name}"] == getattr(ledger, name)
        assert float(metrics["curriculum/passed"]) == 1
        comes_next = curriculum.exam_hardness(ledger)
        assert float(metrics["curriculum/hardness"]) == float(comes_next)
        state = new
        hardness.append(float(metrics["validation/exam_hardness"]))
    assert float(ledger.hardness) == 1.5
    assert (int(ledger.exams), int(ledger.passes)) == (3, 3)
    if aware:
        # A tester that errs nowhere: the learner's accuracy itself.
        assert float(metrics["validation/tester_bank_error"]) == 0
        assert 0 < float(ledger.capacity) < 1
        assert hardness[0] == 1.0
        assert hardness[1] < 1.25
    else:
        assert hardness == [1.0, 1.25, 1.5]


def test_capacity_needs_the_executor_and_not_its_validation_loss(small):
    curriculum = Curriculum(capacity_aware=True)
    program = learning_by_passing_tests(
        small.learner(example_errors=errors_of(small)),
        small.tester("label"),
        curriculum=curriculum,
        tester_weight=0,
    )
    state = program.init(
        small.params, jax.random.key(0), {"curriculum": curriculum.init()}
    )
    bank = {name: small.batches[name] for name in ("train", "bank")}
    _, metrics = jax.eval_shape(program.step, state, bank)
    assert "validation/tester_bank_error" in metrics
    assert "validation/tester_loss" not in metrics


def test_what_a_curriculum_needs(small):
    with pytest.raises(InputError, match=r"needs LearnerModel\(example_errors"):
        learning_by_passing_tests(
            small.learner(), small.tester("label"), curriculum=Curriculum()
        )
    learner = small.learner(example_errors=errors_of(small))
    with pytest.raises(InputError, match="'difficulty_only' has not"):
        learning_by_passing_tests(
            learner,
            small.tester("label"),
            ablation="difficulty_only",
            curriculum=Curriculum(capacity_aware=True),
        )
    program, _ = build(small, Curriculum())
    state = program.init(small.params, jax.random.key(0))
    with pytest.raises(InputError, match=r"need model_state=\{'curriculum'"):
        program.objective(state, small.batches)
