"""Floor 4: runs over several data sets: what they read, draw and may not ask for."""

import dataclasses
from collections.abc import Mapping, Sequence

from skillearn_jax.data import ImageData, Stream, load, to_common_shape
from skillearn_jax.errors import InputError
from skillearn_jax.train.config import Config

SINGLE = ("baseline", "lpt", "random")
"""Skills that learn from one data set."""

Images = ImageData | Mapping[str, ImageData]
"""The data of a run: one set, or those of several tasks by name."""


def check_tasks(config: Config) -> None:
    """Raises `InputError` for tasks that do not fit the skill or each other."""
    names, options = config.tasks, config.interleaving
    if config.skill in SINGLE:
        if names:
            raise InputError(
                f"config.tasks is {names}, but {config.skill} searches on one data set: "
                "set --config.data.name, or --config.skill"
            )
        return
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"config.tasks is {names}; {config.skill} needs distinct names of data sets, "
            "at least one: set --config.tasks"
        )
    for flag, given, what in (
        ("config.data.dirs", config.data.dirs, "a folder"),
        ("config.interleaving.heads", options.heads, "a width"),
    ):
        if given and len(given) != len(names):
            raise InputError(
                f"{flag} is {given}; it must be empty or hold {what} for each of "
                f"config.tasks, {names}: set --{flag}"
            )
    if config.skill in ("interleaving", "blocked"):
        _check_interleaving(config)


def _check_interleaving(config: Config) -> None:
    names, options = config.tasks, config.interleaving
    schedule, lr = options.schedule, config.search.weights.lr
    if schedule and set(schedule) != set(names):
        raise InputError(
            f"config.interleaving.schedule is {schedule}; it must hold every one of "
            f"config.tasks and no other, {names}: set --config.interleaving.schedule"
        )
    if schedule and config.skill == "blocked":
        raise InputError(
            f"config.interleaving.schedule is {schedule}, but blocked makes its own: set "
            "--config.interleaving.schedule=(), or --config.skill=interleaving"
        )
    if options.coupling == "stop_gradient" and options.transfer == "copy":
        raise InputError(
            "config.interleaving.coupling is 'stop_gradient', which holds an interaction "
            "fixed, and 'copy' has none: set --config.interleaving.transfer=proximal"
        )
    if options.weights == "shared" and options.transfer == "proximal":
        raise InputError(
            "config.interleaving.weights is 'shared', which leaves 'proximal' nothing to "
            "pull to: set --config.interleaving.transfer=copy"
        )
    pull = 2 * lr * options.interaction_weight
    pulls = options.transfer == "proximal" and not options.proximal_step
    if pulls and pull > 1:
        raise InputError(
            f"config.interleaving.interaction_weight is {options.interaction_weight:g}: "
            f"with config.search.weights.lr {lr:g}, 2 xi lambda is {pull:g}, and above 1 a "
            "plain step overshoots: set --config.interleaving.proximal_step"
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
    if isinstance(given, ImageData):
        if config.tasks:
            raise InputError(
                f"data is one data set, but config.tasks is {config.tasks}: give a "
                "mapping with these names"
            )
        return to_common_shape([given], size)[0] if size else given
    if set(given) != set(config.tasks):
        raise InputError(
            f"data has the names {sorted(given)}, but config.tasks is {config.tasks}: set "
            "--config.tasks"
        )
    same = to_common_shape([given[name] for name in config.tasks], size)
    return dict(zip(config.tasks, same, strict=True))


def _read(config: Config) -> Images:
    fraction = config.data.heldout_fraction
    if not config.tasks:
        return load(config.data.name, config.data.dir, heldout_fraction=fraction)
    folders = config.data.dirs or (config.data.dir,) * len(config.tasks)
    return {
        name: load(name, folder, heldout_fraction=fraction)
        for name, folder in zip(config.tasks, folders, strict=True)
    }


def each_set(data: Images) -> Sequence[ImageData]:
    """Returns the data sets of a run, one or several."""
    return (data,) if isinstance(data, ImageData) else tuple(data.values())


def task_config(config: Config, name: str) -> Config:
    """Returns the config of what happens to one task alone: its evaluation."""
    position = config.tasks.index(name)
    folder = config.data.dirs[position] if config.data.dirs else config.data.dir
    data = dataclasses.replace(config.data, name=name, dir=folder, dirs=())
    return dataclasses.replace(config, tasks=(), data=data)


def longest_epoch(streams: Mapping[str, Stream]) -> int:
    """Returns the steps in which every training stream has been passed at least once.

    The streams of smaller tasks begin anew within it.
    """
    return max(
        stream.steps_per_epoch
        for name, stream in streams.items()
        if name.startswith("train")
    )
