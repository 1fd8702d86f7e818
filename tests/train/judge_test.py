"""Measures on held-out images, against definitions written out by hand."""

import numpy as np
import pytest

from skillearn_jax.errors import NonFiniteError
from skillearn_jax.train.judge import judge


def softmax(logits):
    power = np.exp(logits)
    return power / power.sum(axis=1, keepdims=True)


def measures(logits, labels, num_classes):
    batch = {"image": logits, "label": labels, "weight": np.ones(len(labels))}
    return judge(lambda x: x, [batch], num_classes)


@pytest.fixture
def drawn():
    """Of the first half right, of the others by chance: gaps of either sign in the bins.

    Were they of one sign, their sum would not tell how many bins there are.
    """
    rng = np.random.default_rng(0)
    logits, labels = 2 * rng.normal(size=(157, 8)), rng.integers(0, 8, 157)
    labels[:80] = logits[:80].argmax(axis=1)
    return logits, labels


def test_measures_by_their_definitions(drawn):
    logits, labels = drawn
    found = measures(logits, labels, 8)
    probabilities = softmax(logits)
    order = np.argsort(-logits, axis=1)
    wrong = order[:, 0] != labels
    assert found.error == pytest.approx(100 * wrong.mean(), rel=1e-12)
    behind = [label not in row[:5] for row, label in zip(order, labels, strict=True)]
    assert found.top5_error == pytest.approx(100 * np.mean(behind), rel=1e-12)
    assert 0 < found.top5_error < found.error
    by_label = probabilities[np.arange(157), labels]
    assert found.loss == pytest.approx(-np.log(by_label).mean(), rel=1e-12)
    total, gaps, top = 0.0, [], probabilities.max(axis=1)
    for low in np.arange(15) / 15:
        inside = (top >= low) & (top < low + 1 / 15)
        if inside.any():
            gap = np.mean(~wrong[inside]) - top[inside].mean()
            total += inside.sum() / 157 * abs(gap)
            gaps.append(gap)
    assert min(gaps) < 0 < max(gaps)
    assert found.calibration == pytest.approx(100 * total, rel=1e-9)
    confusion = np.zeros((8, 8), int)
    for label, predicted in zip(labels, order[:, 0], strict=True):
        confusion[label, predicted] += 1
    assert found.confusion == confusion.tolist()
    assert (confusion != confusion.T).any()


def test_a_perfect_and_certain_classifier():
    found = measures(np.eye(6) * 1000, np.arange(6), 6)
    assert found[:4] == (0, 0, 0, 0)
    np.testing.assert_array_equal(found.confusion, np.eye(6))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_judgement(value):
    logits = np.zeros((6, 6))
    logits[3, 2] = value
    with pytest.raises(NonFiniteError, match="held-out images is not finite: lower"):
        measures(logits, np.arange(6), 6)


def test_a_classifier_that_knows_nothing_is_not_credited_for_ties():
    found = measures(np.zeros((10, 10)), np.arange(10), 10)
    assert found.error == 90
    assert found.top5_error == 100
    assert found.loss == pytest.approx(np.log(10))
    assert found.calibration == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("classes", [3, 5])
def test_few_classes_have_no_top_five(classes):
    found = measures(np.eye(classes), np.arange(classes), classes)
    assert np.isnan(found.top5_error)
    assert found.to_dict()["top5_error"] is None


def test_the_last_bin_holds_what_is_certain():
    """Of one that is certain and wrong and one of 0.96 that is right, a gap is left."""
    logits = np.log([[1.0, 1e-300], [0.96, 0.04]])
    found = measures(logits, np.array([1, 0]), 2)
    assert found.calibration == pytest.approx(100 * abs(-1 + 0.04) / 2, rel=1e-9)


def test_padding_and_batches_change_nothing(drawn):
    logits, labels = drawn

    def batches(size):
        for start in range(0, 157, size):
            image, label = logits[start : start + size], labels[start : start + size]
            missing = size - len(label)
            yield {
                "image": np.pad(image, ((0, missing), (0, 0)), constant_values=7.0),
                "label": np.pad(label, (0, missing)),
                "weight": np.arange(size) < len(label),
            }

    whole = measures(logits, labels, 8)
    for size in (7, 64, 157, 200):
        assert judge(lambda x: x, batches(size), 8) == whole
