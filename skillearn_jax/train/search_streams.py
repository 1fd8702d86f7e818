"""Floor 4: what a search draws from: the streams of one data set, or of several."""

import dataclasses
from collections.abc import Mapping

import jax

from skillearn_jax.data import (
    Examples,
    Stream,
    TrainingImages,
    balanced_subset,
    halves,
)
from skillearn_jax.train.config import Config
from skillearn_jax.train.images import SearchImages


def search_streams(config: Config, data: TrainingImages) -> dict[str, Stream]:
    """Returns the data streams of a search, on the device.

    The first part of the training images trains the learner and the tester, on the same
    batches; the rest is both validation set and exam bank, drawn independently. All
    three are augmented.

    Args:
        config: sizes and augmentation.
        data: the training images.
    """
    first, second = search_parts(config, data.train)
    second = jax.device_put(second)

    def stream(examples: Examples, order: str) -> Stream:
        return Stream(
            examples,
            config.data.batch_size,
            data.mean,
            data.std,
            order=order,
            augmentation=config.data.augmentation(config.data.cutout),
            dtype=config.search.compute,
        )

    return {
        "train": stream(first, "epochs"),
        "val": stream(second, "random"),
        "bank": stream(second, "random"),
    }


def search_parts(config: Config, train: Examples) -> tuple[Examples, Examples]:
    """Returns the training set of a search, then its validation set.

    Raises:
        InputError: if there are too few images for it.
    """
    if config.data.per_class:
        first, second = config.data.per_class
        return balanced_subset(train, first), balanced_subset(train, second, first)
    return halves(train, config.data.train_fraction, stratified=config.data.stratified)


def streams_of(
    config: Config, data: SearchImages, bank: TrainingImages | None = None
) -> dict[str, Stream]:
    """Returns the streams of one data set; of several tasks `train_NAME`, `val_NAME`.

    Args:
        config: sizes and augmentation.
        data: one set, or several tasks by name.
        bank: that exams are drawn from; by default the validation set.
    """
    if not isinstance(data, Mapping):
        own = search_streams(config, data)
        if bank is not None:
            own["bank"] = dataclasses.replace(own["bank"], examples=bank.train)
        return own
    streams: dict[str, Stream] = {}
    for name, of_task in data.items():
        drawn = search_streams(config, of_task)
        streams |= {f"{part}_{name}": drawn[part] for part in ("train", "val")}
    return streams


def longest_epoch(streams: Mapping[str, Stream]) -> int:
    """Returns the steps in which every training stream has been passed at least once.

    The streams of smaller tasks begin anew within it.
    """
    return max(
        stream.steps_per_epoch
        for name, stream in streams.items()
        if name.startswith("train")
    )
