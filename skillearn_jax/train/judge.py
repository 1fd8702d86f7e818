"""Floor 4: what a trained network does on held-out images: all of them, each once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from skillearn_jax.data import Batch
from skillearn_jax.types import Array

NUM_BINS = 15


class Judgement(NamedTuple):
    """Measures over a whole set of images; errors in percent.

    Attributes:
        error: share of images whose likeliest class is wrong.
        top5_error: share whose class is not among the five likeliest; NaN up to five
            classes.
        loss: mean cross-entropy, nats.
        calibration: expected calibration error, percent: with the images in `NUM_BINS`
            bins of equal width by the probability of their likeliest class,
            `sum_b n_b / n |accuracy_b - mean probability_b|`.
        confusion: `[true class][predicted class]` counts.
    """

    error: float
    top5_error: float
    loss: float
    calibration: float
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON; NaN becomes `None`."""
        values = self._asdict()
        if np.isnan(self.top5_error):
            values["top5_error"] = None
        return values


def judge(
    logits_fn: Callable[[Array], Array],
    batches: Iterable[Batch | Mapping[str, Any]],
    num_classes: int,
) -> Judgement:
    """Returns the measures of a classifier over all images of some batches.

    Sums are taken in float64, so batches and devices change nothing. Where several
    classes are equally likely, the first counts as predicted, and the true class as
    behind all others that are as likely.

    Args:
        logits_fn: `images [B, ...] -> logits [B, num_classes]`.
        batches: with `image`, `label` and `weight`; rows of weight zero are padding.
        num_classes: of the task.

    References:
        Guo, Pleiss, Sun, Weinberger 2017, On calibration of modern neural networks,
        arXiv 1706.04599, equation 3.
    """
    logits, labels = [], []
    for batch in batches:
        real = np.asarray(batch["weight"]) > 0
        found = jax.device_get(logits_fn(batch["image"]))
        logits.append(np.asarray(found, np.float64)[real])
        labels.append(np.asarray(batch["label"])[real])
    return measures(np.concatenate(logits), np.concatenate(labels), num_classes)


def measures(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> Judgement:
    """Returns the measures of logits `[N, num_classes]` against labels `[N]`."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    right = predicted == labels
    true = logits[rows, labels][:, None]
    rivals = np.sum((logits >= true), axis=1) - 1  # not counting itself
    confidence = np.exp(log_probabilities[rows, predicted])
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, right - confidence, NUM_BINS)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    return Judgement(
        error=100 * int(np.sum(~right)) / len(labels),
        top5_error=(
            100 * int(np.sum(rivals >= 5)) / len(labels) if num_classes > 5 else np.nan
        ),
        loss=float(-log_probabilities[rows, labels].mean()),
        calibration=100 * float(np.abs(gaps).sum()) / len(labels),
        confusion=confusion.tolist(),
    )
