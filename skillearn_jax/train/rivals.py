"""Floor 4: the cells that are trained beside the one that a run has derived."""

import json
import re

from skillearn_jax.errors import InputError, first_line
from skillearn_jax.nas import count_params
from skillearn_jax.paths import folder_name, user_path
from skillearn_jax.randomness import Use, generator
from skillearn_jax.train.config import Config
from skillearn_jax.train.spaces import Cells, kind_of_cells, read_cells, space_kind

_DRAWS = 1000  # of random cells of the wrong size in a row, before giving up


def read_rivals(config: Config) -> dict[str, Cells]:
    """Returns the derived cells of finished runs, by the names of their folders.

    Args:
        config: of the run; `evaluation.rivals` are folders with a `genotype.json`.

    Raises:
        InputError: for a folder without readable cells, or with those of another space,
            and for names that repeat.
    """
    rivals: dict[str, Cells] = {}
    taken = {"derived"}
    for workdir in config.evaluation.rivals:
        name = user_path(workdir).resolve().name
        # What is trained lies in a folder; some file systems know no capitals.
        folder = folder_name(name).casefold()
        if not folder or folder in taken or re.fullmatch(r"random_\d+", folder):
            raise InputError(
                f"config.evaluation.rivals names {workdir!r}, but {name!r} is a name in "
                "the comparison already: set --config.evaluation.rivals to folders with "
                "names of their own"
            )
        taken.add(folder)
        path = user_path(workdir) / "genotype.json"
        try:
            rivals[name] = read_cells(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, InputError) as error:
            raise InputError(
                f"config.evaluation.rivals names {workdir!r}, which holds no cells of a "
                f"finished search ({first_line(error)}): set "
                "--config.evaluation.rivals"
            ) from error
        if kind_of_cells(rivals[name]) is not space_kind(config):
            raise InputError(
                f"config.evaluation.rivals names {workdir!r}, whose cells are not of the "
                f"space {config.space.name!r} of this run: set "
                "--config.evaluation.rivals"
            )
    return rivals


def random_cells(
    config: Config,
    derived: Cells,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> dict[str, Cells]:
    """Returns random cells of the space, by the names `random 1`, `random 2`, ...

    With `config.evaluation.random_params_within` = r > 0, cells are drawn until

        |P(random) / P(derived) - 1| <= r

    where P counts the parameters of the network that is built of them, at the channels and
    cells of the evaluation, without an auxiliary head.

    Args:
        config: of the run; its seed draws the cells.
        derived: the cells to match.
        num_classes: of the data.
        image_shape: `(height, width, channels)` of its images.

    Raises:
        InputError: if the space holds too few cells of that size to be found by chance.
    """
    kind, space = space_kind(config), config.space.build()
    rng = generator(config.seed, Use.RANDOM_CELLS)
    within = config.evaluation.random_params_within

    def size(cells: Cells) -> int:
        network = kind.network(cells, config, num_classes, None, auxiliary=False)
        return count_params(network, image_shape)

    wanted = size(derived) if within else 0

    def draw() -> Cells:
        for _ in range(_DRAWS):
            cells = kind.random(rng, space)
            if not within or abs(size(cells) / wanted - 1) <= within:
                return cells
        raise InputError(
            f"config.evaluation.random_params_within is {within}, but none of {_DRAWS} random "
            f"cells comes that near to the {wanted:,} parameters of the derived one: set a "
            "larger --config.evaluation.random_params_within"
        )

    count = config.evaluation.num_random
    return {f"random {i}": draw() for i in range(1, count + 1)}
