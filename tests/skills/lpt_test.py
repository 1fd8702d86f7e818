"""Learning by passing tests against its chain rule, term by term, written by hand.

The reference takes blocks of second derivatives with jax.jacobian; it uses nothing of
the library.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux
from skillearn_jax.hypergrad import FirstOrder
from skillearn_jax.skills import learning_by_passing_tests, normalized_exam_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")

XI_W, XI_E, XI_X = 0.4, 0.3, 0.2
GAMMA, LAMBDA = 0.7, 0.6

TASKS = pytest.mark.parametrize(
    ("stream", "label"),
    [("train", "label"), ("own", "tester_label")],
    ids=["same_task", "other_task"],
)


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this module computes in float64."""


def build(small, stream="train", label="label", **changes):
    changes = {
        "interaction_weight": GAMMA,
        "tester_weight": LAMBDA,
        "tester_train": stream,
        **changes,
    }
    learner = changes.pop("learner", small.learner())
    tester = changes.pop("tester", small.tester(label))
    program = learning_by_passing_tests(learner, tester, **changes)
    return program, program.init(small.params, jax.random.key(0))


def by_hand(small, stream="train", label="label", gamma=GAMMA, weight=LAMBDA):
    """The terms of dJ/dA and dJ/dC."""
    a, w, c, e, x = (
        small.params[name]
        for name in ("alphas", "weights", "creator", "encoder", "executor")
    )
    batches = small.batches
    bank = batches["bank"]
    own = small.tester_losses(label)

    def learn(a, w):  # L(A, W; D_tr)
        return small.train_loss({"weights": w}, {"alphas": a}, {}, batches, None)

    def study(e, x):  # L(E, X; D_tt)
        return jnp.mean(own(x, small.encode(e, batches[stream]), batches[stream]))

    def selected(e, x, c):  # G(E, X, C)
        features = small.encode(e, bank)
        return jnp.mean(small.scores(c, features) * own(x, features, bank))

    def check(e, x):  # L(E, X; D_val)
        return jnp.mean(own(x, small.encode(e, batches["val"]), batches["val"]))

    def exam(a, w, c, e):  # sum f l
        scores = small.scores(c, small.encode(e, bank))
        return jnp.sum(scores * small.learner_losses(a, w, bank))

    def size(c, e):  # sum f
        return jnp.sum(small.scores(c, small.encode(e, bank)))

    new_w = w - XI_W * jax.grad(learn, 1)(a, w)
    new_e = e - XI_E * (jax.grad(study, 0)(e, x) + gamma * jax.grad(selected)(e, x, c))
    new_x = x - XI_X * (
        jax.grad(study, 1)(e, x) + gamma * jax.grad(selected, 1)(e, x, c)
    )
    exam_now, size_now = exam(a, new_w, c, new_e), size(c, new_e)
    mean = exam_now / size_now

    # A
    explicit = jax.grad(exam)(a, new_w, c, new_e) / size_now
    v = jax.grad(exam, 1)(a, new_w, c, new_e) / size_now
    d2_learn = jax.jacobian(jax.grad(learn, 1), 0)(a, w)  # [W, A]
    response = -XI_W * jnp.tensordot(v, d2_learn, 2)

    # C, piece 1: the quotient rule.
    quotient = (
        jax.grad(exam, 2)(a, new_w, c, new_e) - mean * jax.grad(size)(c, new_e)
    ) / size_now
    # Piece 2: the learner's exam loss through E'.
    by_e = (
        jax.grad(exam, 3)(a, new_w, c, new_e) - mean * jax.grad(size, 1)(c, new_e)
    ) / size_now
    d2_e = jax.jacobian(jax.grad(selected, 0), 2)(e, x, c)  # [E, C]
    d2_x = jax.jacobian(jax.grad(selected, 1), 2)(e, x, c)  # [X, C]
    through_exam = -gamma * XI_E * jnp.tensordot(by_e, d2_e, 2)
    # Piece 3: the tester's own validation loss through E' and X'.
    own_e, own_x = jax.grad(check, (0, 1))(new_e, new_x)
    through_own = (
        weight
        * gamma
        * (XI_E * jnp.tensordot(own_e, d2_e, 2) + XI_X * jnp.tensordot(own_x, d2_x, 2))
    )
    return SimpleNamespace(
        lookahead={"weights": new_w, "encoder": new_e, "executor": new_x},
        objective=mean - weight * check(new_e, new_x),
        exam_loss=mean,
        bank_loss=jnp.mean(small.learner_losses(a, new_w, bank)),
        exam_size=size_now / len(bank["x"]),
        tester_loss=check(new_e, new_x),
        explicit=explicit,
        response=response,
        quotient=quotient,
        through_exam=through_exam,
        through_own=through_own,
    )


# Every term apart.


@TASKS
def test_the_lookahead_the_metrics_and_the_terms_are_those_written_out(
    small, assert_close, stream, label
):
    program, state = build(small, stream, label)
    _, info = jax.jit(program.hypergrad)(state, small.batches)
    hand = by_hand(small, stream, label)
    assert_close(info.lookahead, hand.lookahead)
    assert_close(info.objective, hand.objective)
    for name in ("exam_loss", "bank_loss", "exam_size", "tester_loss"):
        assert_close(info.metrics[name], getattr(hand, name))
    features = small.encode(hand.lookahead["encoder"], small.batches["val"])
    answers = (features @ hand.lookahead["executor"]).argmax(axis=-1)
    accuracy = np.mean(answers == small.batches["val"][label])
    assert 0 < accuracy < 1
    np.testing.assert_allclose(info.metrics["tester_accuracy"], accuracy)
    # The architecture has its explicit term and its response.
    assert_close(info.direct["alphas"], hand.explicit)
    assert_close(info.response["alphas"], hand.response)
    assert_close(info.terms["learner"]["alphas"], hand.response)
    assert "alphas" not in info.terms["tester"]
    # The creator has the quotient rule, and all that comes through E' and X'.
    assert_close(info.direct["creator"], hand.quotient)
    assert_close(info.response["creator"], hand.through_exam + hand.through_own)


@TASKS
def test_the_creators_response_has_two_pieces(small, assert_close, stream, label):
    """The exam's loss through the encoder, and the tester's own loss."""
    responses = []
    for weight in (LAMBDA, 0.0):
        program, state = build(small, stream, label, tester_weight=weight)
        info = jax.jit(program.hypergrad)(state, small.batches)[1]
        assert_close(info.terms["tester"]["creator"], info.response["creator"])
        responses.append(info.response["creator"])
    hand = by_hand(small, stream, label)
    assert_close(responses[1], hand.through_exam)
    assert_close(responses[0] - responses[1], hand.through_own, rtol=1e-11)


def test_the_whole_gradient_equals_autodiff_with_momentum_and_adam(small, assert_close):
    """The look-ahead of stateful optimisers, in mid-training, against plain autodiff."""
    optimizers = {
        "weights": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.2, 0.9)),
        "encoder": optax.sgd(0.1, 0.9, nesterov=True),
        "executor": optax.adam(0.05, eps_root=1e-8),
        "creator": optax.sgd(0.1),
    }
    of_tester = {name: optimizers[name] for name in small.tester("label").optimizers}
    program, state = build(
        small,
        learner=small.learner(optimizer=optimizers["weights"]),
        tester=small.tester("label", optimizers=of_tester),
    )
    for _ in range(3):
        state, _ = program.step(state, small.batches)
    params, bank = state.params, small.batches["bank"]
    own = small.tester_losses("label")
    learner_state = state.opt_states["learner"]
    tester_states = state.opt_states["tester"].inner_states

    def objective(a, c):
        gradient = jax.grad(small.train_loss)(
            {"weights": params["weights"]}, {"alphas": a}, {}, small.batches, None
        )
        active = {"weights": params["weights"]}
        updates, _ = optimizers["weights"].update(gradient, learner_state, active)
        w = params["weights"] + updates["weights"]

        def tester_loss(moves):
            train = small.batches["train"]
            features = small.encode(moves["encoder"], bank)
            scores = small.scores(c, features)
            return jnp.mean(
                own(moves["executor"], small.encode(moves["encoder"], train), train)
            ) + GAMMA * jnp.mean(scores * own(moves["executor"], features, bank))

        moves = {name: params[name] for name in ("encoder", "executor")}
        gradient = jax.grad(tester_loss)(moves)
        ahead = {}
        for name, value in moves.items():
            # The optimiser's state of one set is that of the whole, masked.
            inner = tester_states[name].inner_state
            others = {other: optax.MaskedNode() for other in moves if other != name}
            updates, _ = optimizers[name].update(
                {name: gradient[name], **others}, inner, {name: value, **others}
            )
            ahead[name] = value + updates[name]
        scores = small.scores(c, small.encode(ahead["encoder"], bank))
        exam = jnp.sum(scores * small.learner_losses(a, w, bank)) / jnp.sum(scores)
        val = small.batches["val"]
        features = small.encode(ahead["encoder"], val)
        return exam - LAMBDA * jnp.mean(own(ahead["executor"], features, val))

    of_a, of_c = jax.grad(objective, (0, 1))(params["alphas"], params["creator"])
    grads, _ = program.hypergrad(state, small.batches)
    assert_close(grads, {"alphas": of_a, "creator": of_c}, rtol=1e-10)


# What gamma, lambda and the tester's adjoint do.


def test_without_interaction_the_creator_has_no_response(small, assert_close):
    program, state = build(small, interaction_weight=0.0)
    grads, info = program.hypergrad(state, small.batches)
    np.testing.assert_array_equal(info.response["creator"], np.zeros(4))
    assert_close(grads["creator"], by_hand(small, gamma=0.0).quotient)


def test_lambda_scales_piece_3_linearly(small, assert_close):
    creators, alphas = [], []
    for weight in (0.0, 1.0, 5.0):
        program, state = build(small, tester_weight=weight)
        grads, _ = program.hypergrad(state, small.batches)
        creators.append(grads["creator"])
        alphas.append(grads["alphas"])
    zero, one, five = creators
    assert_close(five - zero, 5 * (one - zero), rtol=1e-11)
    assert_close(one - zero, by_hand(small, weight=1.0).through_own, rtol=1e-11)
    # The architecture does not meet the tester's own loss.
    np.testing.assert_allclose(alphas[2], alphas[0], rtol=1e-13)


@pytest.mark.parametrize("at", ["current", "lookahead"])
def test_a_first_order_tester_leaves_the_creator_its_direct_term(
    small, assert_close, at
):
    for weight in (0.0, 5.0):
        program, state = build(
            small, tester_adjoint=FirstOrder(at=at), tester_weight=weight
        )
        grads, info = program.hypergrad(state, small.batches)
        np.testing.assert_array_equal(info.response["creator"], np.zeros(4))
        assert np.all(info.response["alphas"])
        encoder = (
            small.params["encoder"]
            if at == "current"
            else by_hand(small).lookahead["encoder"]
        )

        def exam(creator, encoder=encoder):
            bank = small.batches["bank"]
            scores = small.scores(creator, small.encode(encoder, bank))
            losses = small.learner_losses(
                small.params["alphas"], by_hand(small).lookahead["weights"], bank
            )
            return jnp.sum(scores * losses) / jnp.sum(scores)

        assert_close(grads["creator"], jax.grad(exam)(small.params["creator"]))


def test_a_first_order_learner_leaves_the_creator_alone(small, assert_close):
    program, state = build(small, adjoint=FirstOrder(at="lookahead"))
    grads, info = program.hypergrad(state, small.batches)
    np.testing.assert_array_equal(info.response["alphas"], np.zeros(3))
    hand = by_hand(small)
    assert_close(grads["alphas"], hand.explicit)
    creator = hand.quotient + hand.through_exam + hand.through_own
    assert_close(grads["creator"], creator)


def test_gamma_is_on_the_scale_of_a_mean(small, assert_close):
    """Twice the bank, the same exams: the same gradients."""
    program, state = build(small)
    grads, _ = program.hypergrad(state, small.batches)
    doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), small.batches)
    twice, _ = jax.jit(program.hypergrad)(state, doubled)
    assert_close(twice, grads)


# The exam loss.


@pytest.fixture
def exam():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(0.1, 3, 8)), jnp.asarray(rng.uniform(0.1, 0.9, 8))


def test_the_exam_loss_is_a_weighted_mean(exam):
    losses, scores = exam
    value = normalized_exam_loss(losses, scores)
    np.testing.assert_allclose(value, np.average(losses, weights=scores), rtol=1e-15)
    assert losses.min() < value < losses.max()


def test_a_duplicated_bank_leaves_it_unchanged(exam):
    twice = [jnp.concatenate([part, part]) for part in exam]
    np.testing.assert_allclose(
        normalized_exam_loss(*twice), normalized_exam_loss(*exam), rtol=1e-15
    )


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 7.0])
def test_longer_exams_are_not_harder(exam, scale):
    losses, scores = exam
    value = normalized_exam_loss(losses, scores)
    np.testing.assert_allclose(
        normalized_exam_loss(losses, scale * scores), value, rtol=1e-14
    )
    slope = jax.grad(lambda scale: normalized_exam_loss(losses, scale * scores))(1.0)
    np.testing.assert_allclose(slope, 0, atol=1e-15)


def test_an_empty_exam_is_no_exam():
    value = normalized_exam_loss(jnp.full(3, 5.0), jnp.zeros(3))
    assert float(value) == 0


def test_the_gradient_of_an_empty_exam_is_finite():
    def exam(creator):
        return normalized_exam_loss(jnp.full(3, 5.0), jax.nn.sigmoid(creator))

    assert np.all(np.isfinite(jax.grad(exam)(jnp.full(3, -800.0))))


# The tester's task.


def test_another_task_reads_other_labels_and_another_stream(small):
    program, state = build(small, "own", "tester_label")
    assert program.streams == ("train", "own", "bank", "val")
    # Neither part needs what belongs to the other.
    lean = {
        "train": {k: small.batches["train"][k] for k in ("x", "label")},
        "own": small.batches["own"],
        "bank": small.batches["bank"],
        "val": {k: small.batches["val"][k] for k in ("x", "tester_label")},
    }
    before, _ = program.hypergrad(state, lean)
    bank = {**lean["bank"], "tester_label": 2 - lean["bank"]["tester_label"]}
    after, info = program.hypergrad(state, {**lean, "bank": bank})
    assert np.all(before["creator"] != after["creator"])
    np.testing.assert_array_equal(
        info.lookahead["weights"],
        program.hypergrad(state, lean)[1].lookahead["weights"],
    )
    with pytest.raises(InputError, match="'tester' reads the stream 'own'"):
        program.step(state, {k: v for k, v in lean.items() if k != "own"})


def test_by_default_the_tester_trains_on_the_learners_batch(small):
    program = learning_by_passing_tests(small.learner(), small.tester("label"))
    assert program.streams == ("train", "bank", "val")
    assert [stage.data for stage in program.stages] == [("train",), ("train",)]


def test_the_encoders_state_moves_in_the_real_step_only(small):
    """Twice a step: on the training batch and on the bank, and never in the exam."""

    def encode(encoder, model_state, batch, key):
        state = {"tester": model_state["tester"] + len(batch["x"])}
        return small.encode(encoder, batch), state

    def train_loss(moves, reads, model_state, batch, key):
        loss = small.train_loss(moves, reads, model_state, batch, key)
        return loss, Aux(model_state={"learner": model_state["learner"] + 1})

    program, _ = build(
        small,
        learner=small.learner(train_loss=train_loss),
        tester=small.tester("label", encode=encode),
    )
    state = program.init(small.params, jax.random.key(0), {"learner": 0, "tester": 0})
    for count in (1, 2):
        state, _ = program.step(state, small.batches)
        assert int(state.model_state["learner"]) == count
        assert int(state.model_state["tester"]) == count * (10 + 10)


def test_every_pass_of_a_network_has_a_key_of_its_own(small):
    """Else learner and tester would drop the same units on the same image."""
    keys = []

    def note(key):
        keys.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))

    def encode(encoder, model_state, batch, key):
        note(key)
        return small.encode(encoder, batch), {}

    def example_losses(weights, supporting, model_state, batch, key):
        note(key)
        return small.learner_losses(supporting["alphas"], weights, batch)

    def train_loss(moves, reads, model_state, batch, key):
        note(key)
        return small.train_loss(moves, reads, model_state, batch, key)

    learner = small.learner(train_loss=train_loss, example_losses=example_losses)
    tester = small.tester("label", encode=encode)
    program, state = build(small, learner=learner, tester=tester)
    program.objective(state, small.batches)
    # The learner's training and exam; the tester's own training, that on the exam, the
    # exam itself, validation.
    assert len(keys) == len(set(keys)) == 6


# Refusals and the printout.


@pytest.mark.parametrize("name", ["interaction_weight", "tester_weight"])
def test_negative_weights_are_refused(small, name):
    with pytest.raises(
        InputError, match=f"{name}=-0.5; it must be a finite number >= 0"
    ):
        build(small, **{name: -0.5})


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("creator", r"\['creator'\] stand in both minimize= and maximize="),
        ("encoder", r"\['encoder'\] are both moved by a training stage and by the"),
    ],
)
def test_a_learner_with_a_set_of_the_tester_is_refused(small, name, match):
    learner = small.learner(supporting={name: optax.sgd(0.1)})
    with pytest.raises(InputError, match=match):
        build(small, learner=learner)


def test_the_printout(small):
    program, _ = build(
        small,
        "own",
        "tester_label",
        learner=small.learner(task="2 classes"),
        tester=small.tester("tester_label", task="3 classes"),
        tester_adjoint=FirstOrder(),
    )
    text = str(program)
    for line in (
        "learner learner: 2 classes",
        "learner tester: 3 classes",
        "active   tester",
        "loss     tester_loss on own",
        "interact 0.7 x exam_training_loss on bank",
        "maximize creator",
        "creator -> objective  (direct)",
        "creator -> tester  (cut: FirstOrder(at='current'))",
        "alphas -> learner -> objective",
    ):
        assert line in text, line
    assert "creator -> tester -> objective" not in text
