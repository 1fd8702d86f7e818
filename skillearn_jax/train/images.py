"""Floor 4: the images of a run: of one data set or several, in memory or in their files."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from skillearn_jax.data import (
    EMBEDDED,
    STREAM,
    ImageData,
    Reading,
    StreamingData,
    TrainingImages,
    load,
    open_streaming,
    read_subset,
    to_common_shape,
)
from skillearn_jax.errors import InputError
from skillearn_jax.train.config import Config

_STREAMED_SIZE = 224  # pixels

OneSet = ImageData | StreamingData
"""A data set in memory, or one that stays in its files."""

Images = OneSet | Mapping[str, ImageData]
"""The data of a run: one set, or those of several tasks by name."""

SearchImages = TrainingImages | Mapping[str, TrainingImages]
"""What a search receives of them."""


def check_data(config: Config) -> None:
    """Raises `InputError` for keys of `config.data` that do not fit each other."""
    data = config.data
    if len(data.colours) != 4 or data.colours[3] > 0.5:
        raise InputError(
            f"config.data.colours is {data.colours}; it must be four strengths, of "
            "brightness, contrast and saturation up to 1 and of hue up to 0.5: set "
            "--config.data.colours"
        )
    if len(data.per_class) not in (0, 2):
        raise InputError(
            f"config.data.per_class is {data.per_class}; it must be empty or two numbers "
            "of images, to train and to validate on: set --config.data.per_class"
        )
    source, _, size = data.name.partition(":")
    side = str(data.image_size)
    sizes = {"", side, f"{side}x{side}"}
    if (
        source == "folder"
        and data.image_size
        and not config.tasks
        and size not in sizes
    ):
        raise InputError(
            f"config.data.name is {data.name!r}, but config.data.image_size is "
            f"{data.image_size}: images have one size: set one of --config.data.name=folder "
            "and --config.data.image_size=0"
        )
    searched = not (config.tasks or config.genotype or data.per_class)
    if data.name.startswith(STREAM) and searched:
        raise InputError(
            f"config.data.name is {data.name!r}, whose images stay in files, but a search "
            "holds its own in memory: set --config.data.per_class='(128,32)', so many of "
            "each class, or --config.genotype"
        )


def load_images(config: Config, given: Images | None = None) -> Images:
    """Returns the images of a run, at the size and number of channels that it works on.

    Args:
        config: names the data sets and their folders.
        given: a user's own in their place: one set, or one for each of `config.tasks`.

    Raises:
        InputError: for data that cannot be read, are not what the tasks need, or cannot
            be brought to one shape.
    """
    if given is None:
        given = _read(config)
    size = config.data.image_size
    for one in each_set(given):
        if not isinstance(one, OneSet):
            raise InputError(
                f"data holds a {type(one).__name__}; it must be what "
                "skillearn_jax.data.from_arrays or load returns, for several tasks by name"
            )
    if not isinstance(given, Mapping):
        if config.tasks:
            raise InputError(
                f"data is one data set, but config.tasks is {config.tasks}: give a "
                "mapping with these names"
            )
        if isinstance(given, StreamingData) or not size:
            return given
        return to_common_shape([given], size)[0]
    if set(given) != set(config.tasks):
        raise InputError(
            f"data has the names {sorted(given)}, but config.tasks is {config.tasks}: set "
            "--config.tasks"
        )
    same = to_common_shape([given[name] for name in config.tasks], size)
    return dict(zip(config.tasks, same, strict=True))


def _read(config: Config) -> Images:
    how: dict[str, Any] = {
        "heldout_fraction": config.data.heldout_fraction,
        "size": str(config.data.image_size or ""),
    }
    if not config.tasks:
        if config.data.name.startswith(STREAM):
            return _open(config)
        return load(config.data.name, config.data.dir, **how)
    reads = set(config.task_sources).difference(EMBEDDED)
    folders = config.data.dirs or [
        # Where none reads the folder, it is given to all, which refuse it.
        "" if reads and source in EMBEDDED else config.data.dir
        for source in config.task_sources
    ]
    folder_flag = "--config.data.dirs" if config.data.dirs else "--config.data.dir"
    source_flag = "--config.data.sources" if config.data.sources else "--config.tasks"
    with flags_of_data(source_flag, folder_flag):
        return {
            name: load(source, folder, **how)
            for name, source, folder in zip(
                config.tasks, config.task_sources, folders, strict=True
            )
        }


@contextlib.contextmanager
def flags_of_data(name: str, folder: str) -> Iterator[None]:
    """Names the flags that data were found by, in the errors of reading them.

    Args:
        name: flag of the data set's name, in place of `--config.data.name`.
        folder: flag of where it lies, in place of `--config.data.dir`.
    """
    flags = {"--config.data.name": name, "--config.data.dir": folder}
    try:
        yield
    except InputError as error:
        text = re.sub(
            r"--config\.data\.(name|dir)\b", lambda m: flags[m[0]], str(error)
        )
        raise InputError(text) from error


def _open(config: Config) -> StreamingData:
    """Opens a data set that stays in its files; each process reads its own part."""
    data, stream, processes = config.data, config.data.stream, jax.process_count()
    # A search alone reads no batches: what is left of one is a row for each process.
    evaluated = config.evaluation.epochs
    reading = Reading(
        data.name.removeprefix(STREAM),
        data.dir,
        config.evaluation.batch_size if evaluated else processes,
        train_split=stream.train_split,
        heldout_split=stream.heldout_split,
        image_size=data.image_size or _STREAMED_SIZE,
        shorter_side=stream.shorter_side,
        process=jax.process_index(),
        num_processes=processes,
        least_area=stream.least_area,
        shuffle_buffer=stream.shuffle_buffer,
    )
    augmentation = data.augmentation(config.evaluation.cutout, crop=False)
    return open_streaming(
        reading, augmentation=augmentation, max_damaged=stream.max_damaged
    )


def search_images(config: Config, data: Images) -> SearchImages:
    """Returns what a search receives: training images alone, in memory.

    Of a data set that stays in its files they are read here, `data.per_class` of each
    class.
    """
    if isinstance(data, StreamingData):
        return read_subset(data, sum(config.data.per_class))
    if isinstance(data, ImageData):
        return data.training
    return {name: of_task.training for name, of_task in data.items()}


def each_set(data: Images) -> Sequence[OneSet]:
    """Returns the data sets of a run, one or several."""
    return tuple(data.values()) if isinstance(data, Mapping) else (data,)
