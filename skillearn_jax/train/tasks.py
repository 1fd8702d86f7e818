"""Floor 4: runs over several data sets: what they may not ask for, and each by itself."""

import dataclasses

from skillearn_jax.data import STREAM
from skillearn_jax.errors import InputError
from skillearn_jax.paths import folder_name
from skillearn_jax.skills.interleaving import check_turns
from skillearn_jax.skills.tasks import check_schedule
from skillearn_jax.train.config import Config
from skillearn_jax.train.config.root import SINGLE
from skillearn_jax.train.fields import arguments_as_flags, as_flag


def check_tasks(config: Config) -> None:
    """Raises `InputError` for tasks that do not fit the skill or each other."""
    names, options = config.tasks, config.interleaving
    if config.skill in SINGLE:
        if names:
            raise InputError(
                f"config.tasks is {names}, but {config.skill} searches on one data set: "
                "set --config.data.name, or --config.skill"
            )
        for key in ("dirs", "sources"):
            if given := getattr(config.data, key):
                raise InputError(
                    f"config.data.{key} is {given}, but {config.skill} searches on one "
                    f"data set: set {as_flag(f'config.data.{key}', ())}"
                )
        return
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"config.tasks is {names}; {config.skill} needs distinct names of data sets, "
            "at least one: set --config.tasks, and --config.data.sources to what each is "
            "read from, if that is not its name"
        )
    # Each is evaluated in a folder; some file systems know no capitals.
    folders = {folder_name(name).casefold() for name in names}
    if len(folders) < len(names) or not folders.isdisjoint(("", ".", "..")):
        raise InputError(
            f"config.tasks is {names}, of which no two may differ in capitals and signs "
            "alone, and none be empty: set --config.tasks"
        )
    for name in config.task_sources:
        if name.startswith(STREAM):
            flag = "config.data.sources" if config.data.sources else "config.tasks"
            raise InputError(
                f"{flag} holds {name!r}, but the images of several tasks are held "
                f"in memory: set --{flag}, or --config.skill=baseline and "
                f"--config.data.name={name}"
            )
    for flag, given, what in (
        ("config.data.dirs", config.data.dirs, "a folder"),
        ("config.data.sources", config.data.sources, "a source"),
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
    options = config.interleaving
    if options.schedule and config.skill == "blocked":
        raise InputError(
            f"config.interleaving.schedule is {options.schedule}, but blocked makes its "
            "own: set --config.interleaving.schedule='()', or --config.skill=interleaving"
        )
    with arguments_as_flags("interleaving", step_size="search.weights.lr"):
        check_schedule(options.schedule or config.tasks, config.tasks)
        check_turns(step_size=config.search.weights.lr, **options.options())


def task_config(config: Config, name: str) -> Config:
    """Returns the config of what happens to one task alone: its evaluation."""
    position = config.tasks.index(name)
    folder = config.data.dirs[position] if config.data.dirs else config.data.dir
    source = config.task_sources[position]
    data = dataclasses.replace(
        config.data, name=source, dir=folder, dirs=(), sources=()
    )
    return dataclasses.replace(config, tasks=(), data=data)
