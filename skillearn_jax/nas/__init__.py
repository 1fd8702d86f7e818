"""Floor 1: search spaces, supernets, genotypes and derived networks."""

from skillearn_jax.nas.auxiliary import CIFAR_AUXILIARY as CIFAR_AUXILIARY
from skillearn_jax.nas.auxiliary import IMAGENET_AUXILIARY as IMAGENET_AUXILIARY
from skillearn_jax.nas.auxiliary import Auxiliary as Auxiliary
from skillearn_jax.nas.counting import count_macs as count_macs
from skillearn_jax.nas.counting import count_params as count_params
from skillearn_jax.nas.counting import mobile_setting as mobile_setting
from skillearn_jax.nas.counting import num_params as num_params
from skillearn_jax.nas.derive import count_skips as count_skips
from skillearn_jax.nas.derive import derive_genotype as derive_genotype
from skillearn_jax.nas.derive import drop_candidates as drop_candidates
from skillearn_jax.nas.derive import random_genotype as random_genotype
from skillearn_jax.nas.functional import (
    scan_cells_by_default as scan_cells_by_default,
)
from skillearn_jax.nas.functional import separable_conv as separable_conv
from skillearn_jax.nas.functional import separable_form as separable_form
from skillearn_jax.nas.genotype import Genotype as Genotype
from skillearn_jax.nas.known import KNOWN_GENOTYPES as KNOWN_GENOTYPES
from skillearn_jax.nas.known import find_genotype as find_genotype
from skillearn_jax.nas.network import Network as Network
from skillearn_jax.nas.network import Outputs as Outputs
from skillearn_jax.nas.space import DARTS_OPS as DARTS_OPS
from skillearn_jax.nas.space import CellSpace as CellSpace
from skillearn_jax.nas.space import reduction_positions as reduction_positions
from skillearn_jax.nas.supernet import Supernet as Supernet

__all__ = [
    "CIFAR_AUXILIARY",
    "DARTS_OPS",
    "IMAGENET_AUXILIARY",
    "KNOWN_GENOTYPES",
    "Auxiliary",
    "CellSpace",
    "Genotype",
    "Network",
    "Outputs",
    "Supernet",
    "count_macs",
    "count_params",
    "count_skips",
    "derive_genotype",
    "drop_candidates",
    "find_genotype",
    "mobile_setting",
    "num_params",
    "random_genotype",
    "reduction_positions",
    "scan_cells_by_default",
    "separable_conv",
    "separable_form",
]
