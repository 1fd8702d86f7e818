"""Cells in files, as JSON or as text."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from skillearn_jax.errors import InputError, first_line
from skillearn_jax.nas.shown import shown
from skillearn_jax.paths import user_path

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
    path = user_path(name)
    try:
        if name and path.is_dir():
            path = path / "genotype.json"
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"{kind} {shown(name)} is neither a readable file or workdir "
            f"({type(error).__name__}) nor {otherwise}"
        ) from error
    try:
        if text.lstrip().startswith("{"):
            return from_json(json.loads(text, object_pairs_hook=_without_repeats))
        return from_text(text)
    except (InputError, ValueError, RecursionError) as error:
        reason = first_line(error)[:200]
        raise InputError(f"{path} holds no {kind}: {reason}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object; JSON itself lets the last of equal keys win in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InputError(f"a key is there twice: {shown([key for key, _ in pairs])}")
    return found
