"""The space of NAS-Bench-201 as an object, beside DARTS's `CellSpace`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from skillearn_jax.nas.nasbench201 import architecture
from skillearn_jax.nas.nasbench201.architecture import (
    Architecture,
    derive_architecture,
    random_architecture,
)
from skillearn_jax.nas.space import Alphas


@dataclasses.dataclass(frozen=True)
class BenchSpace:
    """All cells of NAS-Bench-201.

    Attributes:
      allow_none: a cell may be derived without an operation on an edge, as in the
        benchmark's own searches.

    References: Dong and Yang 2020, section 2.1, arXiv 2001.00326.
    """

    allow_none: bool = True

    def init_alphas(self, key: jax.Array, scale: float = 1e-3) -> Alphas:
        """Returns logits drawn from `scale * N(0, 1)`; consumes the key."""
        return architecture.init_alphas(key, scale)

    def derive(self, alphas: Mapping[str, Any]) -> Architecture:
        """Returns the operation with the largest logit on every edge."""
        return derive_architecture(alphas, allow_none=self.allow_none)

    def random(self, rng: np.random.Generator) -> Architecture:
        """Returns one of all cells, each as likely; advances the generator."""
        return random_architecture(rng)
