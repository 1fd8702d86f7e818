"""From architecture logits to cells: the rules of DARTS, P-DARTS and PC-DARTS."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from skillearn_jax.errors import InputError, check_at_least
from skillearn_jax.nas.genotype import EDGES_PER_NODE, Edges, Genotype
from skillearn_jax.nas.ops import KERNEL_SIZES
from skillearn_jax.nas.space import CELL_KINDS, EDGE_LOGITS, NUM_INPUTS, CellSpace

_NEVER = -1.0
"""The strength of what may not be chosen, below every softmax weight."""


def derive_genotype(
    alphas: Mapping[str, Any], space: CellSpace, *, max_skips: int | None = None
) -> Genotype:
    """Returns the discrete cells that architecture logits prefer.

    A candidate o on edge e has the strength `softmax(alpha_e)_o`; with edge
    normalisation `softmax(beta)_e softmax(alpha_e)_o`, the softmax of beta being over the
    edges of the node. `none` takes part in the softmax and is never chosen. At each node
    the incoming edges are ranked by their strongest candidate; the best two stay, best
    first, each with that candidate. Ties go to the lower index.

    Args:
        alphas: logits by the keys of `space.alpha_shapes()`.
        space: operations and nodes.
        max_skips: skip connections that the normal cell may have; while it has more,
            the weakest loses its strength and the cell is derived anew (P-DARTS).

    Raises:
        InputError: if the logits do not fit the space or are not finite, or if no cell
            of the space has that few skip connections.

    References: Liu et al. 2019, section 2.4, arXiv 1806.09055; Xu et al. 2020, section
      3.2, arXiv 1907.05737; Chen et al. 2019, section 3.3, arXiv 1904.12760.
    """
    if max_skips is not None:
        check_at_least("max_skips", max_skips, 0)
    normal, reduction = (_strengths(kind, alphas, space) for kind in CELL_KINDS)
    return Genotype(
        normal=_derive_cell(normal, space)
        if max_skips is None
        else _derive_cell_with_few_skips(normal, space, max_skips),
        reduction=_derive_cell(reduction, space),
    )


def drop_candidates(
    alphas: Mapping[str, Any], space: CellSpace, keep: int
) -> CellSpace:
    """Returns the space in which every edge keeps its strongest candidates.

    Edge by edge and cell by cell, the operations with the smallest softmax weights go;
    `none` competes like any other, but is never the one that stays alone. Ties go to
    the lower index.

    Args:
        alphas: logits at the end of a stage.
        space: that they belong to.
        keep: candidates that stay on an edge.

    Raises:
        InputError: if there are not that many, or the logits do not fit.

    References: Chen et al. 2019 (P-DARTS), section 3.2, arXiv 1904.12760.
    """
    if not 1 <= keep <= space.num_candidates:
        raise InputError(
            f"keep must be from 1 to {space.num_candidates}, the candidates of an edge, "
            f"got {keep}"
        )
    kept = {}
    for kind in CELL_KINDS:
        logits = _finite_logits(kind, alphas, space)
        kept[kind] = tuple(
            _strongest(ops, row, keep)
            for ops, row in zip(space.edge_ops(kind), logits, strict=True)
        )
    return dataclasses.replace(
        space, normal=kept["normal"], reduction=kept["reduction"]
    )


def random_genotype(rng: np.random.Generator, space: CellSpace) -> Genotype:
    """Returns a genotype with two distinct sources per node and an operation for each.

    Pairs of sources are drawn uniformly, and then operations uniformly from the candidates
    of each edge: where all edges have as many, every genotype is as likely.

    Args:
        rng: source of randomness; advanced.
        space: candidates (`none` is left out) and nodes.
    """

    def draw(kind: str) -> Edges:
        chosen = []
        for target in range(NUM_INPUTS, NUM_INPUTS + space.num_nodes):
            for source in rng.choice(target, EDGES_PER_NODE, replace=False):
                edge = space.edges.index((int(source), target))
                ops = [op for op in space.edge_ops(kind)[edge] if op != "none"]
                chosen.append((ops[rng.integers(len(ops))], int(source)))
        return tuple(chosen)

    return Genotype(normal=draw("normal"), reduction=draw("reduction"))


def count_skips(genotype: Genotype) -> dict[str, int]:
    """Returns how many skip connections each cell has: the alarm of a collapsing search."""
    return {kind: _num_skips(getattr(genotype, kind)) for kind in CELL_KINDS}


def rank_operations(
    alphas: Mapping[str, Any], space: CellSpace
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Returns the operations with parameters on each edge, strongest first, per kind."""
    ranks = {}
    for kind in CELL_KINDS:
        logits = _finite_logits(kind, alphas, space)
        ranks[kind] = tuple(
            tuple(
                ops[i]
                for i in np.argsort(-row, kind="stable")
                if ops[i] in KERNEL_SIZES
            )
            for ops, row in zip(space.edge_ops(kind), logits, strict=True)
        )
    return ranks


def _strongest(ops: tuple[str, ...], logits: np.ndarray, keep: int) -> tuple[str, ...]:
    """Returns the operations with the largest logits, in their old order."""
    ranked = [int(i) for i in np.argsort(-logits, kind="stable")]
    if keep == 1:
        ranked = [i for i in ranked if ops[i] != "none"]
    return tuple(ops[i] for i in sorted(ranked[:keep]))


def _finite_logits(
    name: str, alphas: Mapping[str, Any], space: CellSpace
) -> np.ndarray:
    space.check_alphas(alphas)
    logits = np.asarray(alphas[name], np.float64)
    if not np.isfinite(logits).all():
        raise InputError(f"alphas[{name!r}] must be finite")
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis, in float64, on the host."""
    logits = np.asarray(logits, np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _strengths(kind: str, alphas: Mapping[str, Any], space: CellSpace) -> np.ndarray:
    """Returns `[edges, ops]`; `_NEVER` where there is no candidate, and for `none`."""
    logits = _finite_logits(kind, alphas, space)
    weights = softmax(logits)
    if space.edge_normalization:
        betas = _finite_logits(EDGE_LOGITS[kind], alphas, space)
        for target in range(NUM_INPUTS, NUM_INPUTS + space.num_nodes):
            incoming = list(space.incoming(target))
            weights[incoming] *= softmax(betas[incoming])[:, None]
    strengths = np.full((space.num_edges, len(space.ops)), _NEVER)
    for edge, ops in enumerate(space.edge_ops(kind)):
        for op, weight in zip(ops, weights[edge], strict=True):
            if op != "none":
                strengths[edge, space.ops.index(op)] = weight
    return strengths


def _derive_cell(strengths: np.ndarray, space: CellSpace) -> Edges:
    edges: list[tuple[str, int]] = []
    for target in range(NUM_INPUTS, NUM_INPUTS + space.num_nodes):
        incoming = strengths[list(space.incoming(target))]
        ranked = np.argsort(-incoming.max(axis=1), kind="stable")[:EDGES_PER_NODE]
        edges += [(space.ops[incoming[i].argmax()], int(i)) for i in ranked]
    return tuple(edges)


def _derive_cell_with_few_skips(
    strengths: np.ndarray, space: CellSpace, max_skips: int
) -> Edges:
    """Takes the weakest skip away and derives anew, until few enough are left."""
    strengths = strengths.copy()
    while True:
        cell = _derive_cell(strengths, space)
        chosen = _chosen(cell, space)
        if min(strengths[place] for place in chosen) == _NEVER:
            raise InputError(
                f"the candidates of this space leave no normal cell with {max_skips} "
                "skip connections or fewer: raise max_skips"
            )
        skips = [place for place in chosen if space.ops[place[1]] == "skip_connect"]
        if len(skips) <= max_skips:
            return cell
        strengths[min(skips, key=lambda place: (strengths[place], place))] = _NEVER


def _chosen(edges: Edges, space: CellSpace) -> list[tuple[int, int]]:
    """Returns the rows and columns of `[edges, ops]` that a cell has chosen."""
    return [
        (
            space.edges.index((source, NUM_INPUTS + i // EDGES_PER_NODE)),
            space.ops.index(op),
        )
        for i, (op, source) in enumerate(edges)
    ]


def _num_skips(edges: Edges) -> int:
    return sum(op == "skip_connect" for op, _ in edges)
