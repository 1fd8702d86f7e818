"""Floor 4: what a table knows about a derived cell."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skillearn_jax.errors import told_with
from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES, Table, load_table
from skillearn_jax.nas.nasbench201.table import DATASETS
from skillearn_jax.train.config import Config
from skillearn_jax.train.spaces import Cells


class Benchmark(NamedTuple):
    """A table of true accuracies and the data set that is asked for.

    Attributes:
        table: accuracies of all cells.
        dataset: one of the table's.
    """

    table: Table
    dataset: str

    def look_up(self, cells: Cells) -> dict[str, float]:
        """Returns a cell's accuracies in percent and its ranks from 1, as metrics."""
        found: dict[str, float] = {}
        for split in ("val", "test"):
            place = (cells, self.dataset, split)
            found[f"benchmark/{split}_accuracy"] = self.table.accuracy(*place)
            found[f"benchmark/{split}_rank"] = float(self.table.rank(*place))
        return found


def load_benchmark(config: Config) -> Benchmark | None:
    """Returns the table of a config, checked, or None where it names none.

    Raises:
        InputError: if it cannot be read or is none.
    """
    if not config.benchmark.table:
        return None
    own = "" if config.tasks else config.data.name.removeprefix("tfds:")
    dataset = config.benchmark.dataset or (own if own in DATASETS else "cifar10")
    with told_with("", ": set --config.benchmark.table"):
        return Benchmark(load_table(config.benchmark.table), dataset)


def describe(found: Mapping[str, Any], dataset: str) -> str:
    """Returns one sentence on what the table holds."""
    return (
        f"table, {dataset}: validation {found['benchmark/val_accuracy']:.2f} % (rank "
        f"{found['benchmark/val_rank']:,.0f}), test "
        f"{found['benchmark/test_accuracy']:.2f} % (rank "
        f"{found['benchmark/test_rank']:,.0f} of {NUM_ARCHITECTURES:,})"
    )
