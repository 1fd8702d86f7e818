"""Learning by teaching: a teacher learns which of its labels to trust from its student."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from skillearn_jax import Program, Stage, Validation

x, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(y))
x, y = x[order] / 16, np.eye(10)[y[order]]
train, unlabelled, val, held_out = np.split(np.arange(len(y)), [400, 1000, 1200])
wrong = rng.random(400) < 0.6  # of the teacher's labels: drawn at random instead
given = np.where(wrong[:, None], np.eye(10)[rng.integers(0, 10, 400)], y[train])
batches = {"train": (x[train], given), "val": (x[val], y[val]), "more": x[unlabelled]}
cross_entropy = optax.losses.softmax_cross_entropy


def logits(w, x):
    return x @ w["kernel"] + w["bias"][None]


def study(moves, reads, model_state, batch, key):  # each label has a weight
    images, labels = batch["train"]
    losses = cross_entropy(logits(moves["teacher"], images), labels)
    return jnp.sum(jax.nn.softmax(reads["trust"]) * losses)


def decay(moves, reads, model_state, batch, key):
    return 1e-4 * optax.tree.norm(moves["student"], squared=True)


def teach(moves, reads, model_state, batch, key):  # by pseudo-labels: the interaction
    labels = jax.nn.softmax(logits(reads["teacher"], batch["more"]))
    return jnp.mean(cross_entropy(logits(moves["student"], batch["more"]), labels))


def judge(moves, reads, model_state, batch, key):
    images, labels = batch["val"]
    return jnp.mean(cross_entropy(logits(reads["student"], images), labels))


teacher = Stage(
    "teacher",
    moves=("teacher",),
    reads=("trust",),
    loss_fn=study,
    data=("train",),
    optimizer=optax.sgd(1.0),
)
student = Stage(
    "student",
    moves=("student",),
    loss_fn=decay,
    interaction=teach,
    interaction_reads=("teacher",),
    interaction_data=("more",),
    optimizer=optax.sgd(1.0),
)
validation = Validation(
    judge,
    reads=("student",),
    data=("val",),
    minimize={"trust": optax.adam(0.1)},
    indirect=("trust",),  # acts through the teacher alone
)
program = Program((teacher, student), validation)
print(program)
zero = {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)}
params = {"teacher": zero, "student": zero, "trust": np.zeros(400)}
for skill, what in ((program.training_only(), "before"), (program, "after")):
    state, step = skill.init(params, jax.random.key(0)), jax.jit(skill.step)
    for _ in range(400):
        state, _ = step(state, batches)
    guess = logits(state.params["student"], x[held_out]).argmax(-1)
    trusted = jax.nn.softmax(state.params["trust"])[~wrong].sum()
    accuracy = np.mean(guess == y[held_out].argmax(-1))
    print(f"{what}: student right {accuracy:.3f}, trust in right labels {trusted:.2f}")
