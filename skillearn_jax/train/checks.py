"""Floor 4: what a run refuses before it begins: values that are fine alone, not together."""

import dataclasses
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from skillearn_jax.data import StreamingData
from skillearn_jax.errors import InputError, told_with
from skillearn_jax.parallel import Devices
from skillearn_jax.train.benchmark import load_benchmark
from skillearn_jax.train.config import (
    Config,
    CurriculumConfig,
    EvaluationConfig,
    SgdConfig,
)
from skillearn_jax.train.exams import check_exams
from skillearn_jax.train.fields import check_unread
from skillearn_jax.train.given import check_given
from skillearn_jax.train.images import OneSet, check_data
from skillearn_jax.train.random_search import check_random_search
from skillearn_jax.train.rivals import read_rivals
from skillearn_jax.train.search_streams import search_parts
from skillearn_jax.train.spaces import auxiliary_head, space_kind
from skillearn_jax.train.stages import check_stages
from skillearn_jax.train.tasks import check_tasks
from skillearn_jax.train.telemetry import parse_profile


def check(config: Config) -> None:
    """Raises `InputError` for values that are fine alone and not together."""
    search = config.search
    with told_with("config.space.", ": set --config.space.ops"):
        config.space.build()
    check_stages(config)
    if parse_profile(config.profile) and (config.genotype or config.skill == "random"):
        raise InputError(
            f"config.profile is {config.profile!r}, but only steps of a search by gradient "
            "are profiled: set --config.profile="
        )
    _check_read(
        config, "hypergrad", "adjoint", {"finite_difference": ("radius", "per_set")}
    )
    curriculum = [field.name for field in dataclasses.fields(CurriculumConfig)]
    curriculum.remove("active")
    _check_read(config, "lpt.curriculum", "active", {True: curriculum})
    rules = {"skips": ("stop_skips",), "ranking": ("stop_ranking_epochs",)}
    _check_read(config, "search", "stop", rules)
    check_data(config)
    check_tasks(config)
    check_exams(config)
    check_random_search(config)
    space_kind(config).check(config)
    load_benchmark(config)
    if config.evaluation.epochs:
        read_rivals(config)
    check_given(config)
    if search.channels % search.partial:
        raise InputError(
            f"config.search.channels is {search.channels}; it must be a multiple "
            f"of config.search.partial, {search.partial}: set "
            "--config.search.channels"
        )
    if search.max_skips >= 0 and set(config.space.ops) <= {
        "none",
        "skip_connect",
    }:
        raise InputError(
            f"config.search.max_skips is {search.max_skips}, but the space has no "
            "other operation than skips: set --config.search.max_skips=-1"
        )
    if search.max_skips >= 0 and "skip_connect" not in config.space.ops:
        raise InputError(
            f"config.search.max_skips is {search.max_skips}, but config.space.ops has no "
            "skip_connect: set --config.search.max_skips=-1, or more --config.space.ops"
        )
    for phase in ("search", "evaluation"):
        if getattr(config, phase).epochs:
            _check_weights(config, phase, phase)
    if config.skill == "lpt":
        _check_weights(config, "tester", "search")
    if search.warmup_epochs >= search.epochs:
        raise InputError(
            f"config.search.warmup_epochs is {search.warmup_epochs}; it must be "
            f"below config.search.epochs, {search.epochs}: set "
            "--config.search.warmup_epochs"
        )


def _check_read(
    config: Config, group: str, decider: str, read: Mapping[Any, Sequence[str]]
) -> None:
    """Raises `InputError` for keys that are set, and not read by what another one says.

    Args:
        config: of the run.
        group: of all these keys, as in `search.weights`.
        decider: the key that decides.
        read: its values, and the keys that are read with each of them alone.
    """
    key = f"config.{group}.{decider}"
    chosen = attrgetter(f"{group}.{decider}")(config)
    for value, names in read.items():
        if value != chosen:
            why = f"{key} is {chosen!r}, with which it is not read"
            check_unread(config, group, names, why, f"--{key}={value}")


def _check_weights(config: Config, group: str, phase: str) -> None:
    """Raises `InputError` for an optimiser of weights that is not what its keys say.

    Args:
        config: of the run.
        group: that has `weights`.
        phase: in which they train.
    """
    weights: SgdConfig = getattr(config, group).weights
    epochs = getattr(config, phase).epochs
    path = f"config.{group}"
    shapes = {"linear": ("tail_epochs",), "exponential": ("decay",)}
    _check_read(config, f"{group}.weights", "schedule", shapes)
    if weights.schedule == "exponential" and weights.min_lr:  # its own limit is 0
        why = f"{path}.weights.schedule is 'exponential', with which it is not read"
        way_out = f"--{path}.weights.schedule=cosine"
        check_unread(config, f"{group}.weights", ("min_lr",), why, way_out)
    if weights.nesterov and not weights.momentum:
        raise InputError(
            f"{path}.weights.nesterov is True, but there is no momentum to look ahead "
            f"along: set --{path}.weights.momentum, or --{path}.weights.nesterov=False"
        )
    if weights.warmup_epochs > epochs:
        raise InputError(
            f"{path}.weights.warmup_epochs is {weights.warmup_epochs}; it must be at most "
            f"config.{phase}.epochs, {epochs}: set --{path}.weights.warmup_epochs"
        )
    if weights.tail_epochs >= epochs:
        raise InputError(
            f"{path}.weights.tail_epochs is {weights.tail_epochs}; it must be below "
            f"config.{phase}.epochs, {epochs}: set --{path}.weights.tail_epochs"
        )
    if weights.schedule != "exponential" and weights.min_lr > weights.lr:
        raise InputError(
            f"{path}.weights.min_lr is {weights.min_lr}; it must be at most "
            f"{path}.weights.lr, {weights.lr}: set --{path}.weights.min_lr"
        )


def _check_augmentation(config: Config, data: OneSet) -> None:
    """Raises `InputError` for squares and shifts that leave nothing of an image."""
    side = min(data.image_shape[:2])
    sizes = {"config.data.padding": config.data.padding}
    if not config.genotype:
        sizes["config.data.cutout"] = config.data.cutout
    if config.evaluation.epochs:
        sizes["config.evaluation.cutout"] = config.evaluation.cutout
    for flag, size in sizes.items():
        if size >= side:
            height, width = data.image_shape[:2]
            raise InputError(
                f"{flag} is {size}, but the images of {data.name} have {height}x{width} "
                f"pixels; it must be below {side}: set --{flag}"
            )


def _check_accumulation(evaluation: EvaluationConfig, num_train: int) -> None:
    """Raises `InputError` if a training ends before its first update."""
    total = evaluation.epochs * (num_train // evaluation.batch_size)
    if evaluation.accumulate > total:
        raise InputError(
            f"config.evaluation.accumulate is {evaluation.accumulate}, but the whole "
            f"training has {total} batches: set a smaller --config.evaluation.accumulate"
        )


def check_images(config: Config, data: OneSet) -> None:
    """Raises `InputError` for images that a run cannot augment or a network read."""
    _check_augmentation(config, data)
    space_kind(config).check_images(data)
    if any(config.data.colours) and data.image_shape[2] != 3:
        raise InputError(
            f"config.data.colours is {config.data.colours}, but the images of {data.name} "
            f"have {data.image_shape[2]} channels and not 3: set "
            "--config.data.colours='(0.0,0.0,0.0,0.0)'"
        )
    head = auxiliary_head(config)
    if not (config.evaluation.epochs and head):
        return
    height, width = data.image_shape[:2]
    # Two reduction cells come before the head, and the stem; each halving rounds up.
    shrunk = 4 if config.evaluation.stem == "cifar" else 32
    if -(-min(height, width) // shrunk) < head.min_side:
        raise InputError(
            f"the images of {data.name} have {height}x{width} pixels; the auxiliary head "
            f"needs {shrunk * (head.min_side - 1) + 1} or more: set "
            "--config.evaluation.auxiliary_weight=0"
        )


def check_batches(config: Config, data: OneSet, devices: Devices) -> None:
    """Raises `InputError` for batches that the data or the devices cannot give."""
    batches = []
    if config.evaluation.epochs:
        flag = "config.evaluation.batch_size"
        batches.append((flag, config.evaluation.batch_size, data.num_train))
    if not config.genotype:
        sizes = (
            [data.num_classes * number for number in config.data.per_class]
            if isinstance(data, StreamingData)
            else [part.size for part in search_parts(config, data.train)]
        )
        batches.append(("config.data.batch_size", config.data.batch_size, min(sizes)))
    for flag, batch_size, size in batches:
        devices.share(batch_size, flag)
        if batch_size > size:
            raise InputError(
                f"{flag} is {batch_size}; it must be at most {size}, the images that it "
                f"is drawn from: set --{flag}"
            )
    if config.evaluation.epochs:
        _check_accumulation(config.evaluation, data.num_train)
