"""Floor 4: the group of config keys of tabulated accuracies."""

import dataclasses

from skillearn_jax.nas.nasbench201.table import DATASETS
from skillearn_jax.train.fields import choice


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Where the true accuracies of NAS-Bench-201's cells are looked up.

    Attributes:
        table: path of a CSV file, see `nas.nasbench201.load_table`; empty for none.
        dataset: whose accuracies are reported: `cifar10`, `cifar100`, `imagenet16`.
    """

    table: str = ""
    dataset: str = choice("cifar10", tuple(DATASETS))
