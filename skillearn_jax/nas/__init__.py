"""Floor 1: search spaces, supernets, genotypes and derived networks."""

from skillearn_jax.nas.auxiliary import CIFAR_AUXILIARY, IMAGENET_AUXILIARY, Auxiliary
from skillearn_jax.nas.counting import (
    count_macs,
    count_params,
    mobile_setting,
    num_params,
)
from skillearn_jax.nas.derive import (
    count_skips,
    derive_genotype,
    drop_candidates,
    random_genotype,
)
from skillearn_jax.nas.draw import cell_svg
from skillearn_jax.nas.functional import separable_conv, separable_form
from skillearn_jax.nas.genotype import Genotype
from skillearn_jax.nas.known import KNOWN_GENOTYPES, find_genotype
from skillearn_jax.nas.network import Network, Outputs, scan_cells_by_default
from skillearn_jax.nas.space import DARTS_OPS, CellSpace, reduction_positions
from skillearn_jax.nas.supernet import Supernet

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
    "cell_svg",
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
