# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Learning by passing tests, stage by stage
#
# A *learner* studies. A *tester* studies too, and makes an exam: it selects images of a bank that
# are hard for the learner and that say something about the task (Du, Zhang, Xie, arXiv
# 2011.15102). Three levels:
#
# 1. the learner trains its weights on the training set, under its architecture;
# 2. the tester trains an encoder and an executor on the same set, and on the exam of its own making;
# 3. the architecture moves so that the exam goes well, the test creator so that it goes badly.
#
# The library has this skill ready made (`skillearn_jax.learning_by_passing_tests`). Here it is put
# together from `Stage` and `Validation`, on 8x8 digits.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from skillearn_jax import (
    Aux,
    Learner,
    LearnerModel,
    Program,
    Stage,
    TesterModel,
    Validation,
    learning_by_passing_tests,
)
from skillearn_jax.data import load

digits = load("digits").train
images = jnp.asarray(digits.image, jnp.float32).reshape(digits.size, -1) / 255
labels = jnp.asarray(digits.label, jnp.int32)
train, bank = np.arange(0, 500), np.arange(500, 900)
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def layer(key, n, m):
    return jax.random.normal(key, (n, m)) / np.sqrt(n)


# %% [markdown]
# The learner is a network with one choice to make: how much of each of three nonlinearities its
# hidden layer uses. That is its architecture, `alphas`.


# %%
def learner_losses(weights, alphas, x, y):
    hidden = x @ weights["in"]
    mixed = jnp.stack([jnp.tanh(hidden), jax.nn.relu(hidden), hidden])
    hidden = jnp.einsum("o,obh->bh", jax.nn.softmax(alphas), mixed)
    return cross_entropy(hidden @ weights["out"], y)


def study(moves, reads, model_state, batch, key):
    return jnp.mean(learner_losses(moves["weights"], reads["alphas"], *batch["train"]))


learn = Stage(
    "learner",
    moves=("weights",),
    reads=("alphas",),
    data=("train",),
    loss_fn=study,
    optimizer=optax.sgd(0.5, momentum=0.9),
)

# %% [markdown]
# The tester: an encoder `E`, an executor `X` that solves the task on its features, a creator `C` that
# scores each image of the bank in (0, 1): how much it belongs to the exam. Its interaction is the
# executor's loss on the exam, so that an exam of nonsense costs the tester.


# %%
def encode(encoder, x):
    return jnp.tanh(x @ encoder)


def scores(creator, features):
    return jax.nn.sigmoid((features @ creator)[:, 0])


def tester_study(moves, reads, model_state, batch, key):
    x, y = batch["train"]
    return jnp.mean(cross_entropy(encode(moves["encoder"], x) @ moves["executor"], y))


def tester_exam(moves, reads, model_state, batch, key):
    x, y = batch["bank"]
    features = encode(moves["encoder"], x)
    weight = scores(reads["creator"], features)
    return jnp.mean(weight * cross_entropy(features @ moves["executor"], y))


make_exams = Stage(
    "tester",
    moves=("encoder", "executor"),
    data=("train",),
    loss_fn=tester_study,
    interaction=tester_exam,
    interaction_reads=("creator",),
    interaction_data=("bank",),
    interaction_weight=1.0,
    optimizer=optax.sgd(0.5, momentum=0.9),
)

# %% [markdown]
# The validation stage: the learner sits the exam. The objective is its loss on the exam, normalised
# by the exam's size, less the tester's own validation loss; the architecture minimises it, the
# creator maximises it.


# %%
def sit(moves, reads, model_state, batch, key):
    x, y = batch["bank"]
    features = encode(reads["encoder"], x)
    weight = scores(moves["creator"], features)
    losses = learner_losses(reads["weights"], moves["alphas"], x, y)
    exam = jnp.sum(weight * losses) / jnp.sum(weight)
    tester = jnp.mean(cross_entropy(features @ reads["executor"], y))
    return exam - tester, Aux({"exam": exam, "size": jnp.mean(weight)})


validation = Validation(
    sit,
    reads=("weights", "encoder", "executor"),
    data=("bank",),
    minimize={"alphas": optax.adam(0.02, b1=0.5)},
    maximize={"creator": optax.adam(0.02, b1=0.5)},
)
program = Program(
    (learn, make_exams),
    validation,
    learners=(
        Learner("learner", ("weights", "alphas"), ("train",), "classify digits"),
        Learner(
            "tester",
            ("encoder", "executor", "creator"),
            ("train", "bank"),
            "make exams",
        ),
    ),
)
print(program)

# %% [markdown]
# The printout says where gradients flow: the creator reaches the objective directly and through the
# tester's stage, the architecture directly and through the learner's.
#
# A step is a pure function of a state and batches; it compiles once.

# %%
keys = jax.random.split(jax.random.key(0), 6)
params = {
    "weights": {"in": layer(keys[0], 64, 32), "out": layer(keys[1], 32, 10)},
    "alphas": jnp.zeros(3),
    "encoder": layer(keys[2], 64, 16),
    "executor": layer(keys[3], 16, 10),
    "creator": 0.1 * layer(keys[4], 16, 1),
}
state = program.init(params, keys[5])
everything = {
    name: (images[i], labels[i]) for name, i in (("train", train), ("bank", bank))
}

# %%
# Is the hypergradient right? Exact, finite difference and plain autodiff, leaf by leaf.
report = program.check(state, everything)
print(report)
assert all(row.rel_error < 1e-4 for row in report.rows if row.adjoint == "exact")


# %%
# The same skill, ready made: it is handed the functions above.
adam, sgd = optax.adam(0.02, b1=0.5), optax.sgd(0.5, momentum=0.9)
ready = learning_by_passing_tests(
    LearnerModel(
        train_loss=study,
        example_losses=lambda weights, sets, model_state, batch, key: learner_losses(
            weights, sets["alphas"], *batch
        ),
        optimizer=sgd,
        supporting={"alphas": adam},
    ),
    TesterModel(
        encode=lambda encoder, model_state, batch, key: (encode(encoder, batch[0]), {}),
        losses=lambda executor, features, batch: cross_entropy(
            features @ executor, batch[1]
        ),
        scores=scores,
        optimizers={"encoder": sgd, "executor": sgd, "creator": adam},
        accuracies=lambda executor, features, batch: jnp.float32(
            jnp.argmax(features @ executor, -1) == batch[1]
        ),
    ),
)
streams = {**everything, "val": everything["bank"]}
ready_grads, _ = ready.hypergrad(ready.init(params, keys[5]), streams)
grads, _ = program.hypergrad(state, everything)
for name in ("alphas", "creator"):
    np.testing.assert_allclose(ready_grads[name], grads[name], rtol=1e-3, atol=1e-7)


# %%
@jax.jit
def step(state, key):
    picks = jax.random.split(key)
    batches = {}
    for (name, pool), pick in zip(
        (("train", train), ("bank", bank)), picks, strict=True
    ):
        index = jax.random.choice(pick, jnp.asarray(pool), (64,), replace=False)
        batches[name] = images[index], labels[index]
    return program.step(state, batches)


history = []
for key in jax.random.split(jax.random.key(1), 300):
    state, metrics = step(state, key)
    history.append(
        {name: float(value) for name, value in metrics.items()}
        | {"alphas": np.asarray(jax.nn.softmax(state.params["alphas"]))}
    )

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3))
axes[0].plot([h["learner/loss"] for h in history], label="learner, training")
axes[0].plot([h["validation/exam"] for h in history], label="learner, exam")
axes[0].set(title="Loss", xlabel="step")
axes[0].legend()
axes[1].plot([h["validation/size"] for h in history])
axes[1].set(title="Share of the bank in the exam", xlabel="step")
axes[2].plot(np.stack([h["alphas"] for h in history]))
axes[2].legend(("tanh", "relu", "identity"))
axes[2].set(title="Architecture", xlabel="step")

# %%
# What the exam holds: the images that the creator wants, and those that it does not.
features = encode(state.params["encoder"], images[bank])
weight = np.asarray(scores(state.params["creator"], features))
order = np.argsort(weight)
fig, axes = plt.subplots(2, 10, figsize=(10, 2.3))
for row, picks in zip(axes, (order[-10:], order[:10]), strict=True):
    for ax, pick in zip(row, picks, strict=True):
        ax.imshow(images[bank[pick]].reshape(8, 8), cmap="gray_r")
        ax.axis("off")
axes[0, 0].set_title("in the exam", loc="left")
axes[1, 0].set_title("left out", loc="left")

losses = learner_losses(
    state.params["weights"], state.params["alphas"], images[bank], labels[bank]
)
print(f"learner's mean loss on the images of the bank: {float(jnp.mean(losses)):.3f}")
assert history[-1]["learner/loss"] < 0.5 * history[0]["learner/loss"]
