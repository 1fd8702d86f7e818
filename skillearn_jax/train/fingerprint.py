"""Floor 4: by what a run knows its data again, wherever they lie."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skillearn_jax.data import Examples, StreamingData, TrainingImages
from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201 import Table
from skillearn_jax.train.images import Images, OneSet
from skillearn_jax.train.manifest import describe, digest_of

_BANK = "exam bank"
_TABLE = "benchmark table"


def fingerprint(
    data: Images, bank: TrainingImages | None = None, table: Table | None = None
) -> dict[str, str]:
    """Returns a digest of each part of a run's data, by its name in messages.

    Of images in memory it is one of all pixels and labels, as the run reads them; of those
    that stay in files, one of what is noted of the files: names, examples and bytes.

    Args:
        data: of the run.
        bank: of its exams, where that is a data set of its own.
        table: of true accuracies, where it looks cells up.

    Cost: 0.1 s for CIFAR-10, with the SHA instructions of the processor.
    """
    sets = data.items() if isinstance(data, Mapping) else [("", data)]
    found = {}
    for name, each in sets:
        train, heldout = _parts(each)
        of_task = f" of {name}" if name else ""
        found[f"training images{of_task}"] = train
        found[f"held-out images{of_task}"] = heldout
    if bank is not None:
        found[_BANK] = _of_arrays(bank.train, bank.num_classes)
    if table is not None:
        found[_TABLE] = digest_of(describe(table.accuracies))
    return found


def check_fingerprint(
    workdir: Path,
    config: Mapping[str, Any],
    old: Mapping[str, str],
    new: Mapping[str, str],
) -> None:
    """Raises `InputError`, naming what differs, for data that a run did not begin with.

    Args:
        workdir: of the run.
        config: given now, as JSON has it.
        old: the fingerprint of the data that the run began with.
        new: of those that are given now.
    """
    noted = {_TABLE: new.get(_TABLE), **old}  # an earlier version noted no table
    names = dict.fromkeys((*new, *noted))
    changed = [name for name in names if new.get(name) != noted.get(name)]
    if not changed:
        return
    images = "data.dirs" if config["data"]["dirs"] else "data.dir"
    flag = {_BANK: "lpt.bank_dir", _TABLE: "benchmark.table"}.get(changed[0], images)
    raise InputError(
        f"the workdir {workdir} holds a run on other data (the "
        f"{', the '.join(changed)}): set --config.{flag} to those that it began with, or "
        "--workdir to a new folder"
    )


def _parts(data: OneSet) -> tuple[str, str]:
    """Returns the digests of the training and of the held-out images."""
    if isinstance(data, StreamingData):
        reading = data.reader.reading
        splits = (reading.train_split, reading.heldout_split)
        train, heldout = (_of_files(data.prepared.info.splits, name) for name in splits)
        return train, heldout
    classes = data.num_classes
    return _of_arrays(data.train, classes), _of_arrays(data.heldout, classes)


def _of_arrays(examples: Examples, num_classes: int) -> str:
    arrays = {"image": examples.image, "label": examples.label}
    described = {name: describe(np.asarray(array)) for name, array in arrays.items()}
    return digest_of({"classes": num_classes, **described})


def _of_files(splits: Mapping[str, Any], split: str) -> str:
    """Returns the digest of what TFDS notes of the files of a split, or a part of one."""
    files = [
        (_name(file), int(file.skip), int(file.take), int(file.examples_in_shard))
        for file in splits[split].file_instructions
    ]
    names = {name for name, *_ in files}
    size = {
        name: int(whole.num_bytes)
        for name, whole in splits.items()
        if names & set(map(_name, whole.file_instructions))
    }
    return digest_of({"files": files, "bytes": size})


def _name(file: Any) -> str:
    return Path(file.filename).name
