import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.models import Creator, Executor

KEY = jax.random.key(0)
FEATURES = jax.random.normal(jax.random.key(1), (5, 16))


def test_executor_is_one_linear_layer():
    logits, variables = Executor(3).init_with_output(KEY, FEATURES)
    layer = variables["params"]["Dense_0"]
    assert layer["kernel"].shape == (16, 3)
    expected = np.asarray(FEATURES) @ layer["kernel"] + layer["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(layer["kernel"]).max() <= 1 / 4


def test_creator_scores_are_the_sigmoid_of_the_logit_difference():
    scores, variables = Creator().init_with_output(KEY, FEATURES)
    layer = variables["params"]["Dense_0"]
    logits = FEATURES @ layer["kernel"] + layer["bias"][None]
    assert scores.shape == (5,)
    assert ((scores > 0) & (scores < 1)).all()
    expected = jax.nn.sigmoid(logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_creator_with_equal_logits_is_undecided():
    params = jax.tree.map(jnp.zeros_like, Creator().init(KEY, FEATURES))
    np.testing.assert_array_equal(Creator().apply(params, FEATURES), 0.5)
