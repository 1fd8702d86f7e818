"""Tabulated accuracies of all cells of NAS-Bench-201, read from a CSV file."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201.architecture import NUM_ARCHITECTURES, Architecture

DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "in16"}
"""Data sets of the benchmark, and how the columns of the table call them."""

SPLITS = ("val", "test")

_COLUMNS = tuple(f"{name}_{split}" for name in DATASETS.values() for split in SPLITS)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Accuracies in percent of all architectures after full training.

    Attributes:
      accuracies: `[15625, 6]`, rows by `Architecture.index`, columns validation and test
        of each data set.
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
        return float(self._column(dataset, split)[architecture.index])

    def rank(self, architecture: Architecture, dataset: str, split: str) -> int:
        """Returns its place among all, from 1; equals share the better place."""
        column = self._column(dataset, split)
        return 1 + int(np.sum(column > column[architecture.index]))

    def best(self, dataset: str, split: str) -> Architecture:
        """Returns the architecture with the highest accuracy."""
        return Architecture.from_index(int(self._column(dataset, split).argmax()))

    def _column(self, dataset: str, split: str) -> np.ndarray:
        if dataset not in DATASETS or split not in SPLITS:
            raise InputError(
                f"the table has {tuple(DATASETS)} and {SPLITS}, got {dataset!r} and "
                f"{split!r}"
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
      InputError: if it cannot be read or is no such table; the message names the line.
    """
    accuracies = np.full((NUM_ARCHITECTURES, len(_COLUMNS)), np.nan)
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"arch_str", *_COLUMNS} - set(rows.fieldnames or ())
            if missing:
                raise InputError(f"{path} has no columns {sorted(missing)}")
            for row in rows:
                place = f"{path}, line {rows.line_num}"
                index, values = _read_row(row, place)
                if not np.isnan(accuracies[index]).all():
                    raise InputError(f"{place}: {row['arch_str']} for the second time")
                accuracies[index] = values
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the table {path} cannot be read: {reason}") from error
    absent = np.flatnonzero(np.isnan(accuracies).any(axis=1))
    if absent.size:
        first = Architecture.from_index(int(absent[0])).to_text()
        raise InputError(f"{path} lacks {absent.size} architectures, {first} first")
    return Table(accuracies)


def _read_row(row: dict[str, str | None], place: str) -> tuple[int, list[float]]:
    try:
        index = Architecture.from_text(row["arch_str"] or "").index
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    values = []
    for column in _COLUMNS:
        try:
            value = float(row[column] or "")
        except ValueError:
            value = np.nan
        if not 0 <= value <= 100:
            raise InputError(
                f"{place}: {column} is {row[column]!r}; it must be a percentage"
            )
        values.append(value)
    return index, values
