"""Searches of both skills against ones written out, as a loop of PyTorch would take them.

Of the library it uses the networks, the batches and the keys; gradients are plain autodiff
through the whole step, optimisers, schedules and phases are those of the papers' code.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.data import from_arrays, load, sample
from skillearn_jax.models import SmallEncoder
from skillearn_jax.nas import drop_candidates
from skillearn_jax.train.build import build_search, make_supernet
from skillearn_jax.train.build_tasks import build_tasks
from skillearn_jax.train.search_streams import streams_of
from skillearn_jax.train.stages import search_stage

GAMMA, LAMBDA = 0.7, 0.6
EPOCHS, WARMUP, STEPS = 3, 1, 2
RATES = {"weights": 0.025, "encoder": 0.1, "executor": 0.1}
CLIPS = {"weights": 0.5, "encoder": 0.3, "executor": 0.3}
CHANGES = {
    "data.batch_size": 64,
    "search.epochs": EPOCHS,
    "search.warmup_epochs": WARMUP,
    "search.stage_cells": (1, 1),
    "search.stage_candidates": (4, 3),
    "search.stage_skip_dropout": (0.3, 0.6),
    "search.weights.clip": 0.5,
    "search.alphas.lr": 0.02,
    "search.alphas.clip": 0.02,
    "tester.weights.lr": 0.1,
    "tester.weights.clip": 0.3,
    "tester.creator.lr": 0.03,
    "tester.creator.clip": 0.01,
    "lpt.interaction_weight": GAMMA,
    "lpt.tester_weight": LAMBDA,
}
SETS = ("weights", "alphas", "encoder", "executor", "creator")
map_ = jax.tree.map


def wide(tree):
    """Returns a tree with its floats in float64."""

    def widened(x):
        return x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return map_(widened, tree)


def clipped(g, limit):
    norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(g)))
    return map_(lambda x: x * jnp.minimum(1, limit / norm), g)


def sgd(w, g, buffer, rate, limit):
    g = map_(lambda g, w: g + 3e-4 * w, clipped(g, limit), w)
    buffer = map_(lambda b, g: 0.9 * b + g, buffer, g)
    return map_(lambda w, b: w - rate * b, w, buffer), buffer


def adam(p, g, moments, rate, limit):
    m, v, t = moments
    g = map_(lambda g, p: g + 1e-3 * p, clipped(g, limit), p)
    m = map_(lambda m, g: 0.5 * m + 0.5 * g, m, g)
    v = map_(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
    one, two = 1 - 0.5 ** (t + 1), 1 - 0.999 ** (t + 1)

    def moved(p, m, v):
        return p - rate * (m / one) / (jnp.sqrt(v / two) + 1e-8)

    return map_(moved, p, m, v), (m, v, t + 1)


def nothing(tree):
    return map_(jnp.zeros_like, tree)


def annealed(epoch, rate):
    """Returns the learning rate of an epoch, half a cosine from `rate` to 0.001."""
    return 0.001 + (rate - 0.001) * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2


def linear(layer, x):
    return x @ layer["Dense_0"]["kernel"] + layer["Dense_0"]["bias"][None]


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def agree(found, own):
    """Asserts that two trees are equal to 1e-12."""
    map_(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, own)


def search_steps(setup, params, model_state, streams, state=None):
    """Yields `(name of the phase, epoch, batches, state before, state after)`, each step.

    A search begins with `state`, if that is given: what the stage before it left.
    """
    epochs = itertools.count()
    for phase in setup.phases:
        own = {name: params[name] for name in phase.program.sets}
        state = phase.enter(own, jax.random.key(5), model_state, state)
        step = jax.jit(phase.program.step)
        for epoch in itertools.islice(epochs, phase.epochs):
            for _ in range(STEPS):
                batches = wide(sample(streams, state.key, state.step))
                before, (state, _) = state, step(state, batches)
                yield phase.name, epoch, batches, before, state


class WrittenOut:
    """What moves, and how: E, X, C and their statistics outlive a stage."""

    def __init__(self, params, statistics):
        self.now = dict(params)
        self.statistics = statistics

    def begin(self, params, statistics, supernet, dropout):
        """Begins a stage: a fresh supernet and architecture, all optimisers anew."""
        self.now |= {name: params[name] for name in ("weights", "alphas")}
        self.statistics |= {"learner": statistics["learner"]["batch_stats"]}
        self.buffers = {name: nothing(self.now[name]) for name in RATES}
        self.moments = {
            name: (nothing(self.now[name]), nothing(self.now[name]), 0)
            for name in ("alphas", "creator")
        }
        self.supernet, self.dropout = supernet, dropout
        self.of_supporting = jax.jit(jax.grad(self.objective))
        self.moved_once = jax.jit(self.moved)

    def rates(self, epoch):
        """Returns the learning rates of an epoch, and the rate of dropout after skips."""
        rates = {name: annealed(epoch, rate) for name, rate in RATES.items()}
        dropout = self.dropout * (EPOCHS - epoch - 1) / EPOCHS
        if epoch >= WARMUP:
            dropout = self.dropout * math.exp(-0.2 * (epoch - WARMUP))
        return map_(jnp.array, rates | {"dropout": dropout})

    def learner(self, weights, alphas, batch, key, statistics, rates):
        logits, changed = self.supernet.apply(
            {"params": weights, "batch_stats": statistics["learner"]},
            batch["image"],
            alphas,
            train=True,
            mutable=["batch_stats"],
            rngs={"skip_dropout": key},
            skip_dropout_rate=rates["dropout"],
        )
        return cross_entropy(logits, batch["label"]), changed["batch_stats"]

    def encode(self, encoder, batch, statistics):
        features, changed = SmallEncoder().apply(
            {"params": encoder, "batch_stats": statistics},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        return features, changed["batch_stats"]

    def moved(self, now, buffers, statistics, batches, key, rates):
        """Returns W, E and X after their steps, their buffers and the statistics."""
        train, bank = batches["train"], batches["bank"]

        def study(old):
            """The losses of both training stages, whose sets do not meet."""
            w, e, x = (old[name] for name in RATES)
            of_learner = (w, now["alphas"], train, key, statistics, rates)
            own, learned = self.learner(*of_learner)
            features, seen = self.encode(e, train, statistics["tester"])
            of_train = jnp.mean(cross_entropy(linear(x, features), train["label"]))
            features, seen = self.encode(e, bank, seen)
            scores = jax.nn.softmax(linear(now["creator"], features))[:, 1]
            on_exam = cross_entropy(linear(x, features), bank["label"])
            tester = of_train + GAMMA * jnp.mean(scores * on_exam)
            return jnp.mean(own) + tester, {"learner": learned, "tester": seen}

        old = {name: now[name] for name in RATES}
        g, statistics = jax.grad(study, has_aux=True)(old)
        new, moved = {}, {}
        for name in RATES:
            own = (old[name], g[name], buffers[name])
            new[name], moved[name] = sgd(*own, rates[name], CLIPS[name])
        return new, moved, statistics

    def objective(
        self, supporting, now, buffers, statistics, batches, key, exam_key, rates
    ):
        """Returns what A descends and C ascends, after a virtual step of W, E and X."""
        bank, val = batches["bank"], batches["val"]
        given = ({**now, **supporting}, buffers, statistics, batches, key, rates)
        ahead, _, _ = self.moved(*given)
        exam = (ahead["weights"], supporting["alphas"], bank, exam_key, statistics)
        losses, _ = self.learner(*exam, rates)
        features, _ = self.encode(ahead["encoder"], bank, statistics["tester"])
        scores = jax.nn.softmax(linear(supporting["creator"], features))[:, 1]
        features, _ = self.encode(ahead["encoder"], val, statistics["tester"])
        logits = linear(ahead["executor"], features)
        own = jnp.mean(cross_entropy(logits, val["label"]))
        return jnp.sum(scores * losses) / jnp.sum(scores) - LAMBDA * own

    def step(self, batches, key, exam_key, epoch, *, search):
        """First the architecture and the creator, then with them all that trains."""
        rates = self.rates(epoch)
        seen = (self.buffers, self.statistics, batches, key)
        if search:
            supporting = {name: self.now[name] for name in ("alphas", "creator")}
            g = self.of_supporting(supporting, self.now, *seen, exam_key, rates)
            g["creator"] = map_(jnp.negative, g["creator"])
            for name, rate, limit in (("alphas", 0.02, 0.02), ("creator", 0.03, 0.01)):
                self.now[name], self.moments[name] = adam(
                    self.now[name], g[name], self.moments[name], rate, limit
                )
        new, self.buffers, self.statistics = self.moved_once(self.now, *seen, rates)
        self.now |= new


@pytest.mark.long
def test_a_search_by_passing_tests_is_the_loop_of_the_papers(
    tiny, x64, quick_compilation
):
    """Two stages of P-DARTS, each with a warm-up, second order: after every step."""
    config, data = tiny(CHANGES), load("digits")
    streams = streams_of(config, data.training)
    space, state, loop = config.space.build(), None, None
    for index in range(2):
        stage = search_stage(config, index, space)
        key = jax.random.fold_in(jax.random.key(0), index)
        setup = build_search(config, data, key, STEPS, stage=stage)
        params, model_state = wide(setup.params), wide(setup.model_state)
        if loop is None:
            loop = WrittenOut(params, {"tester": model_state["tester"]})
        supernet = make_supernet(config, stage, data.num_classes, None)
        loop.begin(params, model_state, supernet, stage.skip_dropout)
        steps = search_steps(setup, params, model_state, streams, state)
        for phase, epoch, batches, before, state in steps:
            of_step = jax.random.fold_in(before.key, before.step)
            study, sit = (jax.random.fold_in(of_step, i) for i in (0, 2))
            sit = jax.random.split(sit)[0]
            keys = jax.random.split(study)[0], jax.random.split(sit, 3)[1]
            loop.step(batches, *keys, epoch, search=phase == "search")
            found = state.model_state
            agree({name: state.params[name] for name in SETS}, loop.now)
            agree(
                (found["learner"]["batch_stats"], found["tester"]),
                (loop.statistics["learner"], loop.statistics["tester"]),
            )
        space = drop_candidates(jax.device_get(state.params["alphas"]), space, 3)
    assert state.step == 2 * EPOCHS * STEPS


TASKS = ("plain", "inverted")
TURNS = 2 * TASKS
PULL = 3.0
INTERLEAVED = {
    "skill": "interleaving",
    "tasks": TASKS,
    "data.batch_size": 64,
    "search.epochs": EPOCHS,
    "search.warmup_epochs": WARMUP,
    "search.weights.clip": 0.5,
    "search.alphas.lr": 0.02,
    "search.alphas.clip": 0.02,
    "interleaving.interaction_weight": PULL,
    "interleaving.rounds": 2,
}


def turn_of(i):
    """Returns the names of the sets that turn i moves, counted from 0."""
    return f"encoder_{i + 1}", f"head_{i + 1}"


def interleave(supernet):
    """Returns `(chain, objective)` of two rounds: the turns' steps, and what A descends."""

    def losses(encoder, head, alphas, statistics, batch):
        features, changed = supernet.apply(
            {"params": encoder, "batch_stats": statistics},
            batch["image"],
            alphas,
            train=True,
            mutable=["batch_stats"],
        )
        of_batch = cross_entropy(linear(head, features), batch["label"])
        return jnp.mean(of_batch), changed["batch_stats"]

    def chain(now, buffers, statistics, batches, rate):
        new, moved, statistics = {}, {}, dict(statistics)
        for i, task in enumerate(TURNS):
            encoder, head = turn_of(i)
            before = new[turn_of(i - 1)[0]] if i else None

            def loss(own, task=task, encoder=encoder, head=head, before=before):
                given = (own[encoder], own[head], now["alphas"], statistics[task])
                value, changed = losses(*given, batches[f"train_{task}"])
                if before is not None:
                    apart = map_(jnp.subtract, own[encoder], before)
                    value += PULL * sum(jnp.sum(x**2) for x in jax.tree.leaves(apart))
                return value, changed

            old = {encoder: now[encoder], head: now[head]}
            g, statistics[task] = jax.grad(loss, has_aux=True)(old)
            stepped, moved[i] = sgd(old, g, buffers[i], rate, 0.5)
            new |= stepped
        return new, moved, statistics

    def objective(alphas, now, buffers, statistics, batches, rate):
        ahead, *_ = chain({**now, "alphas": alphas}, buffers, statistics, batches, rate)
        total = 0.0
        for i, task in enumerate(TURNS[2:], start=2):  # of the last round
            encoder, head = (ahead[name] for name in turn_of(i))
            given = (encoder, head, alphas, statistics[task])
            total += losses(*given, batches[f"val_{task}"])[0]
        return total

    return jax.jit(chain), jax.jit(jax.grad(objective))


@pytest.mark.long
def test_a_search_by_interleaving_is_the_chain_of_the_paper(
    tiny, x64, quick_compilation
):
    """Two rounds of two tasks with a warm-up, second order: after every step."""
    config, digits = tiny(INTERLEAVED), load("digits")
    data = {}
    for name, change in (("plain", lambda x: x), ("inverted", lambda x: 255 - x)):
        sets = (digits.train, digits.heldout)
        arrays = [a for s in sets for a in (change(s.image), s.label)]
        data[name] = from_arrays(name, *arrays)
    streams = streams_of(config, {name: of.training for name, of in data.items()})
    setup = build_tasks(config, data, jax.random.key(0), STEPS)
    params, model_state = wide(setup.params), wide(setup.model_state)
    stage = search_stage(config, 0, config.space.build())
    chain, of_alphas = interleave(make_supernet(config, stage, 0, None))
    now = dict(params)
    statistics = {t: model_state[f"learner_{t}"]["batch_stats"] for t in TASKS}
    buffers = {
        i: {name: nothing(now[name]) for name in turn_of(i)} for i in range(len(TURNS))
    }
    moments = (nothing(now["alphas"]), nothing(now["alphas"]), 0)
    for phase, epoch, batches, _, state in search_steps(
        setup, params, model_state, streams
    ):
        seen = (buffers, statistics, batches, jnp.array(annealed(epoch, 0.025)))
        if phase == "search":
            g = of_alphas(now["alphas"], now, *seen)
            now["alphas"], moments = adam(now["alphas"], g, moments, 0.02, 0.02)
        new, buffers, statistics = chain(now, *seen)
        now |= new
        found = {t: state.model_state[f"learner_{t}"]["batch_stats"] for t in TASKS}
        agree((dict(state.params), found), (now, statistics))
    assert state.step == EPOCHS * STEPS
