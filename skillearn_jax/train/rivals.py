"""Floor 4: cells of other runs, trained beside the one that a run has derived."""

import json
from collections.abc import Sequence
from pathlib import Path

from skillearn_jax.errors import InputError
from skillearn_jax.train.spaces import Cells, read_cells


def read_rivals(workdirs: Sequence[str]) -> dict[str, Cells]:
    """Returns the derived cells of finished runs, by the names of their folders.

    Args:
        workdirs: folders that hold a `genotype.json`.

    Raises:
        InputError: for a folder without readable cells, and names that repeat.
    """
    rivals: dict[str, Cells] = {}
    for workdir in workdirs:
        name = Path(workdir).name
        if name in rivals or name == "derived" or name.startswith("random "):
            raise InputError(
                f"config.evaluation.rivals names {workdir!r}, but {name!r} is a name in "
                "the comparison already: set --config.evaluation.rivals"
            )
        path = Path(workdir) / "genotype.json"
        try:
            rivals[name] = read_cells(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, InputError) as error:
            raise InputError(
                f"config.evaluation.rivals names {workdir!r}, which holds no cells of a "
                f"finished search ({str(error).splitlines()[0]}): set "
                "--config.evaluation.rivals"
            ) from error
    return rivals
