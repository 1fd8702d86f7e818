"""A small learner and a small tester, for the tests of the skills.

`--import-mode=importlib` has no helper modules, so the helpers are fixtures that
return functions.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.skills import LearnerModel, TesterModel

_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


@pytest.fixture
def assert_close():
    """`(actual, desired, rtol=1e-12)`: leaves agree and none is trivially zero."""

    def compare(actual, desired, rtol=1e-12):
        assert jax.tree.structure(actual) == jax.tree.structure(desired)
        for got, want in zip(
            jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True
        ):
            got, want = np.asarray(got), np.asarray(want)
            size = np.max(np.abs(want))
            assert np.isfinite(size), "the reference is not finite"
            assert size > 0, "the reference is zero"
            np.testing.assert_allclose(got, want, rtol=0, atol=rtol * size)

    return compare


def _learner_losses(alphas, weights, batch):
    """Per-example losses l(A, W, d): `A` gates the inputs."""
    x = batch["x"] * jax.nn.softplus(alphas)[None]
    return _cross_entropy(jnp.tanh(x) @ weights, batch["label"])


def _encode(encoder, batch):
    return jnp.tanh(batch["x"] @ encoder)


def _scores(creator, features):
    return jax.nn.sigmoid(features @ creator)


@pytest.fixture
def small():
    """Functions, parameters and batches: `A` [3], `W` [3, 2], `E`, `X`, `C`.

    `small.learner(**changes)` and `small.tester(label, **changes)` build the models.
    The bank carries two labels: `label` for the learner, with 2 classes, and
    `tester_label`, with 3; the stream `own` carries the second only.
    """
    rng = np.random.default_rng(0)

    # One size for all: without jit every new shape is another compilation.
    def rows(count, *labels):
        classes = {"label": 2, "tester_label": 3}
        batch = {"x": rng.normal(size=(count, 3))}
        for label in labels:
            batch[label] = rng.integers(0, classes[label], count)
        return jax.tree.map(jnp.asarray, batch)

    params = {
        "alphas": rng.normal(size=3),
        "weights": rng.normal(size=(3, 2)),
        "encoder": rng.normal(size=(3, 4)),
        "executor": rng.normal(size=(4, 3)),
        "creator": rng.normal(size=4),
    }
    batches = {
        "train": rows(10, "label", "tester_label"),
        "own": rows(10, "tester_label"),
        "bank": rows(10, "label", "tester_label"),
        "val": rows(10, "label", "tester_label"),
    }

    def train_loss(moves, reads, model_state, batch, key):
        del model_state, key
        losses = _learner_losses(reads["alphas"], moves["weights"], batch["train"])
        return jnp.mean(losses) + 0.01 * jnp.sum(moves["weights"] ** 2)

    def learner(**changes):
        keywords = {
            "train_loss": train_loss,
            "example_losses": lambda weights, supporting, model_state, batch, key: (
                _learner_losses(supporting["alphas"], weights, batch)
            ),
            "optimizer": optax.sgd(0.4),
            "supporting": {"alphas": optax.sgd(0.1)},
        }
        return LearnerModel(**{**keywords, **changes})

    def tester_losses(label):
        def losses(executor, features, batch):
            return _cross_entropy(features @ executor, batch[label])

        return losses

    def tester(label, **changes):
        keywords = {
            "encode": lambda encoder, model_state, batch, key: (
                _encode(encoder, batch),
                {},
            ),
            "losses": tester_losses(label),
            "scores": _scores,
            "optimizers": {
                "encoder": optax.sgd(0.3),
                "executor": optax.sgd(0.2),
                "creator": optax.sgd(0.1),
            },
            "accuracies": lambda executor, features, batch: (
                (features @ executor).argmax(axis=-1) == batch[label]
            ).astype(float),
        }
        return TesterModel(**{**keywords, **changes})

    return SimpleNamespace(
        params={name: jnp.asarray(value) for name, value in params.items()},
        batches=batches,
        learner=learner,
        tester=tester,
        train_loss=train_loss,
        learner_losses=_learner_losses,
        tester_losses=tester_losses,
        encode=_encode,
        scores=_scores,
    )
