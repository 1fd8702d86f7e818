"""Floor 4: cells that a run is given, in place of a search."""

from skillearn_jax.errors import InputError, told_with
from skillearn_jax.randomness import Use, generator
from skillearn_jax.train.config import Config
from skillearn_jax.train.spaces import Cells, space_kind


def given_cells(config: Config) -> Cells | None:
    """Returns the cells that `config.genotype` names; `None` if it names none.

    Raises:
        InputError: if it is neither published, nor a readable file or workdir, nor
            `random`, alone or with a seed.
    """
    name = config.genotype
    if not name:
        return None
    kind, colon, seed = name.partition(":")
    if kind == "random":
        if not colon:
            seed = str(config.seed)
        if not seed.isdecimal():
            raise InputError(
                f"config.genotype is {name!r}; the seed of random cells is a whole "
                "number: set --config.genotype=random:0, or random for the run's seed"
            )
        rng = generator(int(seed), Use.GIVEN_CELLS)
        return space_kind(config).random(rng, config.space.build())
    with told_with("config.genotype: ", ": set --config.genotype, or =random:SEED"):
        return space_kind(config).find(name)


def check_given(config: Config) -> None:
    """Raises `InputError` for given cells that a run could do nothing with."""
    if given_cells(config) is None:
        return
    if not config.evaluation.epochs:
        raise InputError(
            f"config.genotype is {config.genotype!r}, but there is neither a search nor "
            "an evaluation: set --config.evaluation.epochs"
        )
    if config.tasks:
        raise InputError(
            f"config.genotype is {config.genotype!r}, but cells are evaluated on one data "
            "set at a time: set --config.skill=baseline --config.data.name and no "
            "--config.tasks"
        )
