"""Floor 4: from a config to the program of several tasks that share a supernet."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from skillearn_jax.data import Batch, LabelledImages
from skillearn_jax.framework import Program
from skillearn_jax.layers import draw_variables
from skillearn_jax.models import MLP
from skillearn_jax.skills import (
    TaskModel,
    blocked,
    interleaved,
    interleaving_learning,
    joint_learning,
    sequential_fine_tuning,
)
from skillearn_jax.train.build import (
    SearchSetup,
    build_search,
    cross_entropy,
    make_supernet,
    phases_of,
    supernet_forward,
)
from skillearn_jax.train.config import Config
from skillearn_jax.train.images import SearchImages
from skillearn_jax.train.optimizers import adam, sgd
from skillearn_jax.train.stages import SearchStage, search_stage
from skillearn_jax.types import Array, Key, PyTree


def build_program(
    config: Config,
    data: SearchImages,
    key: Key,
    steps_per_epoch: int,
    axis_name: str | None,
    stage: SearchStage,
) -> SearchSetup:
    """Returns `build_search` of one data set, or `build_tasks` of several."""
    if isinstance(data, Mapping):
        return build_tasks(config, data, key, steps_per_epoch, axis_name, stage)
    return build_search(config, data, key, steps_per_epoch, axis_name, stage)


def build_tasks(
    config: Config,
    data: Mapping[str, LabelledImages],
    key: Key,
    steps_per_epoch: int,
    axis_name: str | None = None,
    stage: SearchStage | None = None,
) -> SearchSetup:
    """Returns the program of a config with several tasks, in phases, fresh.

    The encoder is the supernet up to its pooled features, one structure and one
    architecture for all tasks; heads are linear or have one hidden layer, each with the
    classes of its task. All encoders begin with the same weights, those of a search on
    one data set with this key, and the heads of one task with the same, so that the
    distance between two turns is what they learned and not how they were drawn.

    Every task has running statistics of its own, which its turns share. They are in no
    search step: those normalise by their batch.

    Args:
        config: which skill, which models.
        data: by the names in `config.tasks`, images of one shape.
        key: PRNG key; consumed.
        steps_per_epoch: for the schedules.
        axis_name: the device axis; batch statistics are synchronised over it.
        stage: of a search in stages; by default the first.
    """
    if stage is None:
        stage = search_stage(config, 0, config.space.build())
    # The first two as in a search on one data set: the same weights from the same key.
    weights_key, alphas_key, heads_key = jax.random.split(key, 3)
    (shape,) = {each.image_shape for each in data.values()}
    supernet = make_supernet(config, stage, num_classes=0, axis_name=axis_name)
    alphas = stage.space.init_alphas(alphas_key)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = draw_variables(supernet, weights_key, images, alphas, train=False)
    features = jax.eval_shape(
        partial(supernet.apply, train=False), variables, images, alphas
    )
    hidden = config.interleaving.heads or (0,) * len(data)
    tasks, heads, model_state = [], {}, {}
    for i, (name, width) in enumerate(zip(data, hidden, strict=True)):
        classes = data[name].num_classes
        head = MLP((width, classes) if width else (classes,))
        head_key = jax.random.fold_in(heads_key, i)
        heads[name] = draw_variables(head, head_key, features)["params"]
        model_state[_state_of(name)] = {
            "batch_stats": variables["batch_stats"],
            "steps": jnp.int32(0),
        }
        turns = schedule_of(config).count(name)
        forward = supernet_forward(supernet, config, turns * steps_per_epoch, stage)
        tasks.append(_task(name, head, forward, classes))
    program = _program(config, tasks, steps_per_epoch, axis_name)
    params = {"alphas": alphas} | {
        name: heads[task] if name.startswith("head_") else variables["params"]
        for task, names in _moves(program, config)
        for name in names
    }
    return SearchSetup(phases_of(program, config), params, model_state)


def schedule_of(config: Config) -> tuple[str, ...]:
    """Returns the turns within a step; for joint learning one of each task."""
    names, rounds = config.tasks, config.interleaving.rounds
    if config.skill == "joint":
        return names
    if config.skill == "interleaving":
        return config.interleaving.schedule or interleaved(names, rounds)
    return blocked(names, rounds)


def _program(
    config: Config, tasks: list[TaskModel], steps_per_epoch: int, axis_name: str | None
) -> Program:
    options = config.interleaving
    common: dict[str, Any] = {
        "supporting": {"alphas": adam(config.search.alphas)},
        "optimizer": sgd(config.search.weights, config.search.epochs, steps_per_epoch),
        "adjoint": config.hypergrad.build(),
        "axis_name": axis_name,
    }
    if config.skill == "joint":
        return joint_learning(tasks, **common)
    if config.skill == "sequential":
        return sequential_fine_tuning(tasks, turns=options.rounds, **common)
    return interleaving_learning(
        tasks,
        schedule=schedule_of(config),
        step_size=config.search.weights.lr,
        **options.options(),
        **common,
    )


def _moves(program: Program, config: Config) -> list[tuple[str, tuple[str, ...]]]:
    """Returns which sets are moved for each task, turn by turn."""
    if config.skill == "joint":
        return [(name, ("encoder", f"head_{name}")) for name in config.tasks]
    moves = [tuple(stage.moves) for stage in program.stages]
    return list(zip(schedule_of(config), moves, strict=True))


def _task(name: str, head: MLP, forward: Any, classes: int) -> TaskModel:
    """Returns a task: the supernet's features under a head of its own."""
    state_name = _state_of(name)

    def losses(
        encoder: PyTree,
        head_weights: PyTree,
        supporting: Mapping[str, PyTree],
        model_state: Mapping[str, PyTree],
        batch: Batch,
        key: Key,
    ) -> tuple[Array, dict[str, PyTree]]:
        features, state = forward(
            encoder, supporting["alphas"], model_state[state_name], batch["image"], key
        )
        logits = head.apply({"params": head_weights}, features)
        return cross_entropy(logits, batch["label"]), {state_name: state}

    return TaskModel(name, losses, f"classify {name}, {classes} classes")


def _state_of(task: str) -> str:
    return f"learner_{task}"
