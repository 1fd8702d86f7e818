"""Finds a data set that TFDS has prepared, and looks at it before TFDS does."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from skillearn_jax.errors import InputError, first_line
from skillearn_jax.paths import user_path

_BUILDER = re.compile(r"[a-z0-9_]+(/[\w\-.]+)?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def open_prepared(
    builder: str, data_dir: str, source: str = "tfds"
) -> tuple[pathlib.Path, Any]:
    """Returns the folder of the highest prepared version, and TFDS's builder that reads it.

    Args:
        builder: see `tfds.read`.
        data_dir: likewise.
        source: what stands before the builder in `config.data.name`, for messages.

    Raises:
        InputError: for a builder that is unknown or not prepared, and for metadata that
            are damaged or would make TFDS import other code than its own.
    """
    # Imported here: TFDS takes a second that other sources need not wait for.
    import tensorflow_datasets as tfds

    folder = _find(builder, data_dir, source)
    try:
        prepared = tfds.builder_from_directory(folder)
        prepared.info.file_format.value  # noqa: B018 (there may be none)
    except Exception as error:  # TFDS has no common class for damaged metadata
        raise unusable(folder, error) from error
    return folder, prepared


def find_version(builder: str, data_dir: str) -> pathlib.Path | None:
    """Returns the folder of the highest prepared version, or None if there is none."""
    root = user_path(data_dir) / builder
    versions = [
        entry
        for entry in (root.iterdir() if root.is_dir() else ())
        if _VERSION.fullmatch(entry.name) and (entry / "dataset_info.json").is_file()
    ]
    return max(versions, key=lambda v: tuple(map(int, v.name.split("."))), default=None)


def check_name(builder: str, flag: str) -> None:
    """Raises `InputError`, naming a flag, unless a builder's name is well formed.

    In particular names with a namespace, whose code TFDS would fetch, are refused.
    """
    if not _BUILDER.fullmatch(builder):
        raise InputError(
            f"{builder!r} is no TFDS builder: it must be BUILDER or BUILDER/CONFIG: "
            f"set {flag}"
        )


def is_registered(builder: str) -> bool:
    """Returns whether the installed TFDS, or an imported module, defines a builder."""
    import tensorflow_datasets as tfds

    return builder.split("/")[0] in tfds.list_builders(with_community_datasets=False)


def stored_format(folder: pathlib.Path) -> str:
    """Returns what the records of a prepared version are stored in."""
    return str(_load_json(folder, "dataset_info.json").get("fileFormat"))


def unusable(folder: pathlib.Path, error: Exception) -> InputError:
    """Returns the error for data that TFDS or this package cannot make sense of."""
    return InputError(
        f"{folder} is damaged or no prepared TFDS data ({first_line(error)}): prepare "
        "it again or set --config.data.dir"
    )


def unreadable(name: str, error: Exception) -> InputError:
    """Returns the error for a data set whose records cannot be read."""
    return InputError(
        f"{name} cannot be read ({first_line(error)}): prepare it again or set "
        "--config.data.dir"
    )


def text_of(name: str | bytes) -> str:
    """Returns what TFDS gives as text or as bytes."""
    return name.decode() if isinstance(name, bytes) else name


def _find(builder: str, data_dir: str, source: str) -> pathlib.Path:
    """Returns the folder of the highest prepared version, safe to hand to TFDS."""
    check_name(builder, f"--config.data.name, as in {source}:mnist")
    if not data_dir:
        raise InputError(
            f"the data source {source}:{builder} needs the folder in which it was prepared: "
            "set --config.data.dir"
        )
    folder = find_version(builder, data_dir)
    if folder is not None:
        _check_classes(folder)
        return folder
    if not is_registered(builder):
        raise InputError(
            f"unknown TFDS builder {builder!r}, and {data_dir} holds no prepared data "
            "of that name: set --config.data.name or --config.data.dir"
        )
    raise InputError(
        f"TFDS builder {builder!r} is not prepared in {data_dir}: run python -m "
        f"skillearn_jax.data.prepare --name={builder} --archives=DIR "
        f"--data_dir={data_dir}, or set --config.data.dir"
    )


def _check_classes(folder: pathlib.Path) -> None:
    """Refuses features whose classes TFDS would import from outside itself."""
    for name in _class_names(_load_json(folder, "features.json")):
        if not str(name).startswith("tensorflow_datasets."):
            raise InputError(
                f"{folder}/features.json names the class {name!r}, which is none of TFDS "
                "and is not imported: set --config.data.dir"
            )


def _load_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unusable(folder, error) from error
    if not isinstance(content, dict):
        raise unusable(folder, ValueError(f"{name} is no JSON object"))
    return content


def _class_names(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "pythonClassName" in node:
            yield node["pythonClassName"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _class_names(child)
