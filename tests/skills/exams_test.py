"""Exams: harder ones, discrete ones, and what they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.skills.exams import (
    class_rates,
    extremes,
    harden,
    hold,
    normalized_exam_loss,
    score_loss_correlation,
)


@pytest.fixture(autouse=True)
def _float64(x64):
    """Every test of this module computes in float64."""


@pytest.fixture
def bank():
    """Features, a creator, and the learner's losses."""
    rng = np.random.default_rng(0)
    features, creator = rng.normal(size=(12, 3)), rng.normal(size=3)
    return jnp.array(features), jnp.array(creator), jnp.array(rng.uniform(0.1, 3, 12))


def test_hardness_0_is_the_bank_and_1_the_exam(bank):
    _, _, losses = bank
    scores = jax.nn.sigmoid(losses - 1)
    np.testing.assert_allclose(harden(scores, 0.0), 1)
    np.testing.assert_allclose(harden(scores, 1.0), scores, rtol=1e-14)
    np.testing.assert_allclose(harden(jnp.array(1e-30), 0.5), 1e-15, rtol=1e-12)
    by_h = [float(normalized_exam_loss(losses, harden(scores, h))) for h in range(9)]
    assert by_h == sorted(by_h)
    np.testing.assert_allclose(by_h[0], losses.mean())
    assert float(normalized_exam_loss(losses, harden(scores, 400.0))) > 0.99 * max(
        losses
    )


def test_hardness_acts_by_the_covariance_of_log_score_and_loss(bank):
    features, creator, losses = bank
    scores = jax.nn.sigmoid(features @ creator)
    h = 1.7
    slope = jax.grad(lambda h: normalized_exam_loss(losses, harden(scores, h)))(h)
    w = np.asarray(scores) ** h / np.sum(np.asarray(scores) ** h)
    logs = np.log(scores)
    want = np.sum(w * logs * losses) - np.sum(w * logs) * np.sum(w * losses)
    np.testing.assert_allclose(slope, want, rtol=1e-12)


def test_the_creator_gets_the_gradient_of_a_hardened_exam(bank):
    """d/dC = h sum w (l - mean) dlog f / sum w, and dlog f = (1 - f) x for a sigmoid."""
    features, creator, losses = bank
    h = 2.5

    def exam(creator):
        return normalized_exam_loss(
            losses, harden(jax.nn.sigmoid(features @ creator), h)
        )

    f = np.asarray(jax.nn.sigmoid(features @ creator))
    w = f**h / np.sum(f**h)
    centred = np.asarray(losses) - np.sum(w * losses)
    want = h * (w * centred * (1 - f)) @ np.asarray(features)
    np.testing.assert_allclose(jax.grad(exam)(creator), want, rtol=1e-12)


@pytest.mark.parametrize("hardness", [None, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("shift", [0.0, -12.0, -60.0])
def test_exams_of_any_size_have_the_gradient_of_their_proportions(shift, hardness):
    """In float32, where sum(f), its square or f^h underflows, against float64."""
    logits = np.array([0.3, -0.5, 1.1]) + shift
    losses = np.array([0.5, 2.0, 3.0])

    def exam(logits):
        scores = jax.nn.sigmoid(logits)
        return normalized_exam_loss(
            losses.astype(logits.dtype), scores, hardness=hardness
        )

    value, gradient = jax.value_and_grad(exam)(logits.astype(np.float32))
    h = hardness or 1.0
    logs = h * np.log(1 / (1 + np.exp(-logits)))
    w = np.exp(logs - logs.max())
    w /= w.sum()
    np.testing.assert_allclose(value, w @ losses, rtol=1e-5)
    slope = h / (1 + np.exp(logits))
    want = slope * w * (losses - w @ losses)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("hardness", [None, 0.0, 0.5, 4.0])
@pytest.mark.parametrize("shift", [-89.0, -200.0])
def test_an_exam_below_all_numbers_is_empty_or_the_bank(shift, hardness):
    losses = jnp.array([0.5, 2.0, 3.0], jnp.float32)

    def exam(logits):
        return normalized_exam_loss(losses, jax.nn.sigmoid(logits), hardness=hardness)

    logits = jnp.array([0.3, -0.5, 0.1], jnp.float32) + shift
    value, gradient = jax.value_and_grad(exam)(logits)
    want = losses.mean() if hardness == 0 else 0
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)
    to_losses = jax.grad(normalized_exam_loss)(
        losses, jax.nn.sigmoid(logits), hardness=hardness
    )
    np.testing.assert_allclose(to_losses, 1 / 3 if hardness == 0 else 0, rtol=1e-6)


@pytest.mark.parametrize("h", [0.0, 0.5, 3.0])
def test_scores_that_underflow_have_a_finite_gradient(h):
    grads = jax.grad(lambda c: jnp.sum(harden(jax.nn.sigmoid(c), h)))(
        jnp.array([-800.0, 0.0])
    )
    assert np.all(np.isfinite(grads))


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 1), (0.1, 1), (0.3, 3), (0.5, 5), (0.51, 6), (1.0, 10)]
)
def test_the_discrete_exam_is_the_top_share(share, count):
    scores = jnp.array(np.random.default_rng(0).permutation(10) / 10)
    mask = jax.jit(hold)(scores, share)
    assert mask.dtype == bool
    assert int(mask.sum()) == count
    assert scores[mask].min() >= jnp.sort(scores)[-count]


def test_a_share_is_not_rounded_up_for_being_binary():
    assert 0.07 * 100 > 7
    assert int(hold(jnp.arange(100.0), 0.07).sum()) == 7


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_scores_are_held_in_the_same_number(dtype):
    scores = jnp.linspace(0, 1, 256).astype(dtype)
    counts = [int(hold(scores, share).sum()) for share in (1, 0.5, jnp.float32(0.3))]
    assert counts == [256, 128, 77]


def test_of_equal_scores_the_earlier_are_taken():
    np.testing.assert_array_equal(hold(jnp.ones(4), 0.5), [True, True, False, False])


def test_class_rates_are_expected_shares():
    scores, labels = jnp.array([0.2, 0.4, 1.0, 0.5]), jnp.array([0, 0, 2, 2])
    rates = class_rates(scores, labels, 4)
    np.testing.assert_allclose(rates, [0.3, 0, 0.75, 0], rtol=1e-15)
    masked = class_rates(scores > 0.45, labels, 4)
    np.testing.assert_allclose(masked, [0, 0, 1, 0])


def test_extremes_are_of_the_exam_only():
    losses = jnp.array([5.0, 1.0, 3.0, 9.0, 2.0])
    mask = jnp.array([True, True, True, False, True])
    hardest, easiest = jax.jit(extremes, static_argnums=2)(losses, mask, 3)
    np.testing.assert_array_equal(hardest, [0, 2, 4])
    np.testing.assert_array_equal(easiest, [1, 4, 2])
    hardest, easiest = extremes(losses, jnp.arange(5) == 3, 2)
    np.testing.assert_array_equal(hardest, [3, -1])
    np.testing.assert_array_equal(easiest, [3, -1])


def test_the_correlation_is_pearsons(bank):
    features, creator, losses = bank
    scores = jax.nn.sigmoid(features @ creator)
    want = np.corrcoef(scores, losses)[0, 1]
    np.testing.assert_allclose(score_loss_correlation(scores, losses), want, rtol=1e-12)
    assert float(score_loss_correlation(jnp.ones(3), jnp.arange(3.0))) == 0
    assert float(score_loss_correlation(jnp.arange(3.0), jnp.zeros(3))) == 0
    for size in (1e-20, 1e-30, 1e30):  # float32, of which the squares have none
        small = (size * scores).astype(jnp.float32)
        for pair in ((small, losses), (losses, small)):
            found = score_loss_correlation(*(x.astype(jnp.float32) for x in pair))
            np.testing.assert_allclose(found, want, rtol=1e-5)
