"""The DARTS search space: candidate operations on the edges of a cell."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from skillearn_jax.errors import InputError, check_at_least

DARTS_OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidate operations, in the order that DARTS indexes them."""

NUM_INPUTS = 2
"""States that a cell reads: the outputs of the two cells before it."""

CELL_KINDS = ("normal", "reduction")
"""Keys of `alphas`: cells that keep the resolution, and cells that halve it."""

EDGE_LOGITS = {kind: f"{kind}_edges" for kind in CELL_KINDS}
"""Keys of `alphas` for the logits of whole edges, where edges are normalised."""

Alphas = dict[str, jax.Array]
"""Architecture logits: one `[edges, candidates]` array per cell kind, and, where edges
are normalised, one `[edges]` array per cell kind."""

EdgeOps = tuple[tuple[str, ...], ...]
"""Candidate operations, edge by edge."""


@dataclasses.dataclass(frozen=True)
class CellSpace:
    """A cell: two input states, then nodes that read every earlier state.

    States are numbered 0, 1 (the inputs), 2, 3, .. (the nodes). An edge
    `(source, target)` carries a softmax mixture of `ops`; a node is the sum of its
    incoming edges; the cell returns all its nodes, concatenated. Lists are accepted for
    tuples.

    Attributes:
        ops: candidate operations, out of `DARTS_OPS`.
        num_nodes: intermediate nodes.
        normal: candidates of each edge of the normal cell, where edges differ, as in
            the later stages of P-DARTS; as many on each, in the order of `ops`. Empty:
            all.
        reduction: those of the reduction cell, as many as in the normal cell.
        edge_normalization: a node is the sum of its incoming edges weighted by a
            softmax over them (PC-DARTS), whose logits are part of `alphas`.

    Raises:
        InputError: for an unknown, repeated or missing operation, or no node.

    References: Liu et al. 2019, section 2.1, arXiv 1806.09055; Chen et al. 2019
      (P-DARTS), arXiv 1904.12760; Xu et al. 2020 (PC-DARTS), arXiv 1907.05737.
    """

    ops: tuple[str, ...] = DARTS_OPS
    num_nodes: int = 4
    normal: EdgeOps = ()
    reduction: EdgeOps = ()
    edge_normalization: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        for kind in CELL_KINDS:
            object.__setattr__(self, kind, tuple(map(tuple, getattr(self, kind))))
        check_at_least("num_nodes", self.num_nodes, 1)
        for op in self.ops:
            if op not in DARTS_OPS:
                raise InputError(f"unknown operation {op!r}, allowed: {DARTS_OPS}")
        if len(set(self.ops)) != len(self.ops):
            raise InputError(f"ops must not repeat, got {self.ops}")
        if not set(self.ops) - {"none"}:
            raise InputError(f"ops must hold one that is not 'none', got {self.ops}")
        if bool(self.normal) != bool(self.reduction):
            raise InputError("give candidates for both cells, normal and reduction")
        for kind in CELL_KINDS:
            self._check_candidates(kind)

    def _check_candidates(self, kind: str) -> None:
        """Refuses candidates that are no choice of operations for every edge."""
        candidates = self.edge_ops(kind)
        if len(candidates) != self.num_edges:
            raise InputError(
                f"{kind} must list candidates for {self.num_edges} edges, got "
                f"{len(candidates)}"
            )
        for i, ops in enumerate(candidates):
            in_order = tuple(op for op in self.ops if op in ops)
            if ops != in_order or not set(ops) - {"none"}:
                raise InputError(
                    f"{kind}[{i}] must be some of {self.ops}, in that order and not "
                    f"'none' alone, got {ops}"
                )
            if len(ops) != self.num_candidates:
                raise InputError(
                    f"{kind}[{i}] must have {self.num_candidates} candidates like the "
                    f"first edge, got {ops}"
                )

    @property
    def num_candidates(self) -> int:
        """Number of candidate operations on an edge: the columns of `alphas`."""
        return len(self.normal[0]) if self.normal else len(self.ops)

    def edge_ops(self, kind: str) -> EdgeOps:
        """Returns the candidate operations of each edge of a cell."""
        return getattr(self, kind) or (self.ops,) * self.num_edges

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """All `(source, target)` pairs of states, target by target as in DARTS."""
        targets = range(NUM_INPUTS, NUM_INPUTS + self.num_nodes)
        return tuple((source, target) for target in targets for source in range(target))

    @property
    def num_edges(self) -> int:
        """Number of edges of one cell."""
        return len(self.edges)

    def outgoing(self, source: int) -> tuple[int, ...]:
        """Returns the indices into `edges` of the edges that leave state `source`."""
        return tuple(i for i, edge in enumerate(self.edges) if edge[0] == source)

    def incoming(self, target: int) -> tuple[int, ...]:
        """Returns the indices into `edges` of the edges that enter state `target`."""
        return tuple(i for i, edge in enumerate(self.edges) if edge[1] == target)

    def init_alphas(self, key: jax.Array, scale: float = 1e-3) -> Alphas:
        """Returns logits drawn from `scale * N(0, 1)`; see `alpha_shapes`.

        Args:
            key: PRNG key; consumed.
            scale: standard deviation.
        """
        shape = (len(CELL_KINDS), self.num_edges, self.num_candidates)
        operation_key, edge_key = jax.random.split(key)
        draws = scale * jax.random.normal(operation_key, shape)
        alphas = dict(zip(CELL_KINDS, draws, strict=True))
        if self.edge_normalization:
            draws = scale * jax.random.normal(edge_key, shape[:2])
            alphas |= dict(zip(EDGE_LOGITS.values(), draws, strict=True))
        return alphas

    def alpha_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the architecture logits, by their keys in `alphas`.

        `[edges, candidates]` per cell kind; with edge normalisation also `[edges]`.
        """
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            CELL_KINDS, (self.num_edges, self.num_candidates)
        )
        if self.edge_normalization:
            shapes |= dict.fromkeys(EDGE_LOGITS.values(), (self.num_edges,))
        return shapes

    def check_alphas(self, alphas: Mapping[str, Any]) -> None:
        """Raises `InputError` unless the logits have the shapes of this space."""
        check_logits(alphas, self.alpha_shapes())


def check_logits(
    alphas: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises `InputError` unless architecture logits have these shapes, by their keys."""
    for name, shape in shapes.items():
        got: Any = "nothing"
        if isinstance(alphas, Mapping) and name in alphas:
            try:
                got = np.shape(alphas[name])
            except ValueError:  # of a list whose rows differ
                got = "no array"
        if got != shape:
            raise InputError(f"alphas[{name!r}] must have shape {shape}, got {got}")


class CellPlace(NamedTuple):
    """The place of one cell in a network.

    Attributes:
        kind: `"normal"` or `"reduction"`.
        features: channels C of its nodes.
        reduced_before: the cell before it is a reduction cell.
    """

    kind: str
    features: int
    reduced_before: bool

    def stride_from(self, source: int) -> int:
        """Returns the stride of the edges that leave state `source`."""
        return 2 if self.kind == "reduction" and source < NUM_INPUTS else 1


def cell_places(
    num_cells: int, channels: int, *, reduced_before: bool = False
) -> list[CellPlace]:
    """Returns the places of all cells; reduction cells double the channels.

    Args:
        num_cells: depth L of the network, at least 1.
        channels: channels of a normal cell before the first reduction, at least 1.
        reduced_before: the older input of the first cell has twice the resolution of
            the newer one.
    """
    check_at_least("channels", channels, 1)
    reductions = reduction_positions(num_cells)
    return [
        CellPlace(
            kind="reduction" if i in reductions else "normal",
            features=channels * 2 ** sum(j <= i for j in reductions),
            reduced_before=i - 1 in reductions if i else reduced_before,
        )
        for i in range(num_cells)
    ]


def reduction_positions(num_cells: int) -> frozenset[int]:
    """Returns the indices of the reduction cells, `{L // 3, 2 L // 3}`.

    Args:
        num_cells: depth `L` of the network, at least 1.
    """
    check_at_least("num_cells", num_cells, 1)
    return frozenset({num_cells // 3, 2 * num_cells // 3})
