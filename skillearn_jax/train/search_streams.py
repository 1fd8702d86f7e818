"""Floor 4: what a search draws from: the streams of one data set, or of several."""

import dataclasses

import jax

from skillearn_jax.data import Augmentation, Examples, ImageData, Stream, halves
from skillearn_jax.train.config import Config
from skillearn_jax.train.tasks import Images


def search_streams(
    config: Config, train: Examples, data: ImageData
) -> dict[str, Stream]:
    """Returns the data streams of a search, on the device.

    The first part of the training images trains the learner and the tester, on the same
    batches; the rest is both validation set and exam bank, drawn independently. All
    three are augmented. The held-out images are not an argument.

    Args:
        config: sizes and augmentation.
        train: the training images.
        data: for the statistics of pixels.
    """
    first, second = halves(
        train, config.data.train_fraction, stratified=config.data.stratified
    )
    second = jax.device_put(second)
    augmentation = Augmentation(
        config.data.padding, config.data.flip, config.data.cutout
    )

    def stream(examples: Examples, order: str) -> Stream:
        return Stream(
            examples,
            config.data.batch_size,
            data.mean,
            data.std,
            order=order,
            augmentation=augmentation,
        )

    return {
        "train": stream(first, "epochs"),
        "val": stream(second, "random"),
        "bank": stream(second, "random"),
    }


def streams_of(
    config: Config, data: Images, bank: ImageData | None = None
) -> dict[str, Stream]:
    """Returns the streams of one data set; of several tasks `train_NAME`, `val_NAME`.

    Args:
        config: sizes and augmentation.
        data: one set, or several tasks by name.
        bank: that exams are drawn from; by default the validation set.
    """
    if isinstance(data, ImageData):
        own = search_streams(config, data.train, data)
        if bank is not None:
            examples = jax.device_put(bank.train)
            own["bank"] = dataclasses.replace(own["bank"], examples=examples)
        return own
    streams: dict[str, Stream] = {}
    for name, of_task in data.items():
        drawn = search_streams(config, of_task.train, of_task)
        streams |= {f"{part}_{name}": drawn[part] for part in ("train", "val")}
    return streams
