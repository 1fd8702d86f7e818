"""Floor 4: the group of config keys of tabulated accuracies."""

import dataclasses

from skillearn_jax.nas.nasbench201.table import DATASETS
from skillearn_jax.train.fields import choice


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Where the true accuracies of NAS-Bench-201's cells are looked up.

    Attributes:
        table: path of a CSV file, see `nas.nasbench201.load_table`; empty for none.
        dataset: whose accuracies are reported: `cifar10`, `cifar100` or `imagenet16`;
            empty for those of the run's own data set, or of `cifar10` where the table
            does not have it.
    """

    table: str = ""
    dataset: str = choice("", ("", *DATASETS))
