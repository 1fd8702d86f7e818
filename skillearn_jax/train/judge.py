"""Floor 4: what a trained network does on held-out images: all of them, each once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from skillearn_jax.data import Batch
from skillearn_jax.errors import NonFiniteError
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
    gather: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> Judgement:
    """Returns the measures of a classifier over all images of some batches.

    Sums are taken in float64, so batches and devices change nothing. Where several
    classes are equally likely, the first counts as predicted, and the true class as
    behind all others that are as likely.

    Args:
        logits_fn: `images [B, ...] -> logits [B, num_classes]`.
        batches: with `image`, `label` and `weight`; rows of weight zero are padding.
        num_classes: of the task.
        gather: adds the rows of other processes, where each judges its own images.

    Raises:
        NonFiniteError: for logits that are NaN or infinite.

    References:
        Guo, Pleiss, Sun, Weinberger 2017, On calibration of modern neural networks,
        arXiv 1706.04599, equation 3.
    """
    answers = []
    for batch in batches:
        logits = np.asarray(jax.device_get(logits_fn(batch["image"])), np.float64)
        if not np.isfinite(logits).all():
            raise NonFiniteError(
                "what the network says of held-out images is not finite: lower the "
                "learning rate of its training, or clip its gradient"
            )
        of_batch = _answers(logits, np.asarray(batch["label"]))
        answers.append(of_batch | {"weight": np.asarray(batch["weight"])})
    rows = {
        name: gather(np.concatenate([of_batch[name] for of_batch in answers]))
        for name in answers[0]
    }
    real = rows.pop("weight") > 0
    return _measures({name: of_all[real] for name, of_all in rows.items()}, num_classes)


def _answers(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns all that is asked of the logits `[B, num_classes]` of each image, `[B]`."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    true = logits[rows, labels][:, None]
    return {
        "label": labels,
        "predicted": predicted,
        "rivals": np.sum(logits >= true, axis=1) - 1,  # not counting itself
        "log_probability": log_probabilities[rows, labels],
        "confidence": np.exp(log_probabilities[rows, predicted]),
    }


def _measures(answers: Mapping[str, np.ndarray], num_classes: int) -> Judgement:
    labels, predicted = answers["label"], answers["predicted"]
    right = predicted == labels
    confidence = answers["confidence"]
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, right - confidence, NUM_BINS)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    behind = 100 * int(np.sum(answers["rivals"] >= 5)) / len(labels)
    return Judgement(
        error=100 * int(np.sum(~right)) / len(labels),
        top5_error=behind if num_classes > 5 else np.nan,
        loss=float(-answers["log_probability"].mean()),
        calibration=100 * float(np.abs(gaps).sum()) / len(labels),
        confusion=confusion.tolist(),
    )
