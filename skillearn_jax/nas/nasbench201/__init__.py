"""The search space of NAS-Bench-201, and a look-up of its true accuracies."""

from skillearn_jax.nas.nasbench201.architecture import (
    NUM_ARCHITECTURES,
    OPS,
    derive_architecture,
    random_architecture,
)
from skillearn_jax.nas.nasbench201.architecture import Architecture as Architecture
from skillearn_jax.nas.nasbench201.network import BenchNetwork
from skillearn_jax.nas.nasbench201.table import Table, load_table

__all__ = [
    "NUM_ARCHITECTURES",
    "OPS",
    "Architecture",
    "BenchNetwork",
    "Table",
    "derive_architecture",
    "load_table",
    "random_architecture",
]
