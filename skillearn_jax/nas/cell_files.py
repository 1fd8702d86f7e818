"""Cells in files, as JSON or as text."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from skillearn_jax.errors import InputError

_Cells = TypeVar("_Cells")


def read_cell_file(
    name: str,
    from_json: Callable[[Mapping[str, Any]], _Cells],
    from_text: Callable[[str], _Cells],
    *,
    kind: str,
    otherwise: str,
) -> _Cells:
    """Returns the cells in a file.

    Args:
      name: path of the file; of a folder, such as the workdir of a search, its
        `genotype.json`.
      from_json: reads what begins with a brace.
      from_text: reads the rest.
      kind: what the cells are called in messages.
      otherwise: what else the name could have been, for the message.

    Raises:
      InputError: if there is no readable file, or it holds none.
    """
    path = Path(name)
    if name and path.is_dir():
        path = path / "genotype.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"{kind} {name!r} is neither a readable file ({type(error).__name__}) nor "
            f"{otherwise}"
        ) from error
    try:
        if text.lstrip().startswith("{"):
            return from_json(json.loads(text))
        return from_text(text)
    except (InputError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path} holds no {kind}: {reason}") from error
