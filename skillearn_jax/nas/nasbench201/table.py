"""Tabulated accuracies of all cells of NAS-Bench-201, read from a CSV file."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np

from skillearn_jax.errors import InputError, first_line, refusing, told_with
from skillearn_jax.nas.nasbench201.architecture import (
    NUM_ARCHITECTURES,
    Architecture,
)
from skillearn_jax.nas.shown import shown
from skillearn_jax.paths import user_path

DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "in16"}
"""Data sets of the benchmark, and how the columns of the table call them."""

SPLITS = ("val", "test")

_COLUMNS = tuple(f"{name}_{split}" for name in DATASETS.values() for split in SPLITS)

_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{0,30})?")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Accuracies in percent of all architectures after full training.

    Attributes:
        accuracies: `[15625, 6]`, rows by `Architecture.index`, columns validation and
            test of each data set.
    """

    accuracies: np.ndarray

    def accuracy(self, architecture: Architecture, dataset: str, split: str) -> float:
        """Returns the accuracy of an architecture, in percent.

        Args:
            architecture: the cell.
            dataset: `cifar10`, `cifar100` or `imagenet16`.
            split: `val` or `test`.

        Raises:
            InputError: for another data set or split.
        """
        return float(self.column(dataset, split)[architecture.index])

    def rank(self, architecture: Architecture, dataset: str, split: str) -> int:
        """Returns its place among all, from 1; equals share the better place."""
        column = self.column(dataset, split)
        return 1 + int(np.sum(column > column[architecture.index]))

    def best(self, dataset: str, split: str) -> Architecture:
        """Returns the architecture with the highest accuracy."""
        return Architecture.from_index(int(self.column(dataset, split).argmax()))

    def column(self, dataset: str, split: str) -> np.ndarray:
        """Returns the accuracies of all architectures, `[15625]`, as `accuracy` does."""
        if dataset not in DATASETS or split not in SPLITS:
            raise InputError(
                f"the table has {tuple(DATASETS)} and {SPLITS}, got {shown(dataset)} "
                f"and {shown(split)}"
            )
        return self.accuracies[:, _COLUMNS.index(f"{DATASETS[dataset]}_{split}")]


def load_table(path: str | Path) -> Table:
    """Returns the table in a CSV file, every row checked.

    The file has the columns `arch_str` (an architecture's text) and, in percent,
    `cifar10_val`, `cifar10_test`, `cifar100_val`, `cifar100_test`, `in16_val`,
    `in16_test`; one row for each of the 15,625 architectures, in any order.

    Args:
        path: of the file.

    Raises:
        InputError: if it cannot be read or is no such table; the message names the
            line.
    """

    def unreadable(error: Exception) -> InputError:
        return InputError(f"the table {path} cannot be read: {first_line(error)}")

    accuracies = np.full((NUM_ARCHITECTURES, len(_COLUMNS)), np.nan)
    with (
        refusing(OSError, ValueError, csv.Error, told=unreadable),
        user_path(path).open(encoding="utf-8-sig", newline="") as file,
    ):
        rows = csv.DictReader(file)
        for column in ("arch_str", *_COLUMNS):
            count = list(rows.fieldnames or ()).count(column)
            if count != 1:
                raise InputError(
                    f"{path} must have one column {column!r}, and has {count}"
                )
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            index, values = _read_row(row, place)
            if not np.isnan(accuracies[index]).all():
                text = Architecture.from_index(index).to_text()
                raise InputError(f"{place}: {text} for the second time")
            accuracies[index] = values
    absent = np.flatnonzero(np.isnan(accuracies).any(axis=1))
    if absent.size:
        first = Architecture.from_index(int(absent[0])).to_text()
        raise InputError(f"{path} lacks {absent.size} architectures, {first} first")
    return Table(accuracies)


def _read_row(
    row: dict[str | None, str | list[str] | None], place: str
) -> tuple[int, list[float]]:
    """Returns the number of the architecture and its accuracies."""
    if None in row or None in row.values():
        raise InputError(f"{place} has another number of fields than the first line")
    with told_with(f"{place}: "):
        index = Architecture.from_text(str(row["arch_str"])).index
    values = []
    for column in _COLUMNS:
        text = str(row[column])
        # Not all that `float` reads: it takes 1_0, nan and digits of any script.
        value = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not 0 <= value <= 100:
            raise InputError(
                f"{place}: {column} is {shown(text)}; it must be a percentage"
            )
        values.append(value)
    return index, values
