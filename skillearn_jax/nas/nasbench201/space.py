"""The space of NAS-Bench-201 as an object, beside DARTS's `CellSpace`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201.architecture import (
    ALPHAS_KEY,
    EDGES,
    NUM_ARCHITECTURES,
    OPS,
    Architecture,
)
from skillearn_jax.nas.space import Alphas, check_logits

_SHAPE = (len(EDGES), len(OPS))


@dataclasses.dataclass(frozen=True)
class BenchSpace:
    """All cells of NAS-Bench-201.

    Attributes:
        allow_none: a cell may be derived, or drawn, without an operation on an edge, as
            in the benchmark's own searches.

    References: Dong and Yang 2020, section 2.1, arXiv 2001.00326.
    """

    allow_none: bool = True

    def init_alphas(self, key: jax.Array, scale: float = 1e-3) -> Alphas:
        """Returns logits drawn from `scale * N(0, 1)`, `[6, 5]` under `ALPHAS_KEY`.

        Rows are in the order of `EDGES`, columns in that of `OPS`.

        Args:
            key: PRNG key; consumed.
            scale: standard deviation.
        """
        return {ALPHAS_KEY: scale * jax.random.normal(key, _SHAPE)}

    def check_alphas(self, alphas: Mapping[str, Any] | None) -> None:
        """Raises `InputError` unless the logits have the shape that `init_alphas` draws."""
        check_logits(alphas, {ALPHAS_KEY: _SHAPE})

    def derive(self, alphas: Mapping[str, Any]) -> Architecture:
        """Returns the cell with the largest logit on every edge.

        Ties go to the operation that comes first in `OPS`.

        Args:
            alphas: see `init_alphas`.

        Raises:
            InputError: for another shape, or logits that are not finite.
        """
        self.check_alphas(alphas)
        logits = np.array(alphas[ALPHAS_KEY], np.float64)
        if not np.isfinite(logits).all():
            raise InputError(f"alphas[{ALPHAS_KEY!r}] must be finite")
        if not self.allow_none:
            logits[:, OPS.index("none")] = -np.inf
        return Architecture(tuple(OPS[column] for column in logits.argmax(axis=1)))

    def random(self, rng: np.random.Generator) -> Architecture:
        """Returns one of the cells of the space, each as likely; advances the generator."""
        while True:
            cell = Architecture.from_index(int(rng.integers(NUM_ARCHITECTURES)))
            if self.allow_none or "none" not in cell.ops:
                return cell
