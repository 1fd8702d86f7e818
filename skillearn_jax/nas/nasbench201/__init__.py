"""The search space of NAS-Bench-201, and a look-up of its true accuracies."""

from skillearn_jax.nas.nasbench201.architecture import (
    ALPHAS_KEY,
    NUM_ARCHITECTURES,
    OPS,
    Architecture,
)
from skillearn_jax.nas.nasbench201.network import BenchNetwork
from skillearn_jax.nas.nasbench201.space import BenchSpace
from skillearn_jax.nas.nasbench201.table import Table, load_table

__all__ = [
    "ALPHAS_KEY",
    "NUM_ARCHITECTURES",
    "OPS",
    "Architecture",
    "BenchNetwork",
    "BenchSpace",
    "Table",
    "load_table",
]
