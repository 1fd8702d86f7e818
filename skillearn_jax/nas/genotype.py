"""Genotypes: the discrete cells that a search ends with."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from skillearn_jax.errors import InputError
from skillearn_jax.nas.genotype_text import parse_genotype_text
from skillearn_jax.nas.shown import shown
from skillearn_jax.nas.space import CELL_KINDS, DARTS_OPS, NUM_INPUTS

Edges = tuple[tuple[str, int], ...]
"""`(operation, source state)` pairs, two per node, the better one first."""

EDGES_PER_NODE = 2


@dataclasses.dataclass(frozen=True)
class Genotype:
    """Two cells, each node of which applies one operation to each of two states.

    Lists are accepted for tuples. An empty concat stands for all nodes.

    Attributes:
        normal: edges of the normal cell, node by node.
        reduction: edges of the reduction cell, with as many nodes.
        normal_concat: states that the normal cell returns, side by side.
        reduction_concat: states that the reduction cell returns.

    Raises:
        InputError: for anything that is no cell; the message names the place.

    References: Liu et al. 2019, section 2.4, arXiv 1806.09055.
    """

    normal: Edges
    reduction: Edges
    normal_concat: tuple[int, ...] = ()
    reduction_concat: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind in CELL_KINDS:
            edges = _checked_edges(kind, getattr(self, kind))
            object.__setattr__(self, kind, edges)
        if len(self.normal) != len(self.reduction):
            raise InputError(
                "normal and reduction must have as many edges, got "
                f"{len(self.normal)} and {len(self.reduction)}"
            )
        for name in ("normal_concat", "reduction_concat"):
            concat = _checked_concat(name, getattr(self, name), self.num_nodes)
            object.__setattr__(self, name, concat)

    @property
    def num_nodes(self) -> int:
        """Number of intermediate nodes of a cell."""
        return len(self.normal) // EDGES_PER_NODE

    def _repr_html_(self) -> str:
        """Returns both cells as a notebook shows them."""
        from skillearn_jax.nas.draw import genotype_html  # which imports genotypes

        return genotype_html(self)

    def to_json(self) -> dict[str, Any]:
        """Returns the four fields as lists, ready for `json.dump`."""
        return {
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduction": [list(edge) for edge in self.reduction],
            "reduction_concat": list(self.reduction_concat),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Genotype":
        """Returns the genotype that `to_json` described.

        Args:
            data: what `json.load` gave; the two concats may be left out.

        Raises:
            InputError: if it is not a genotype.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or not set(CELL_KINDS) <= set(data) <= names:
            got = sorted(map(str, data)) if isinstance(data, Mapping) else data
            raise InputError(
                f"a genotype has the keys {sorted(names)}, got {shown(got)}"
            )
        return cls(**data)

    def to_text(self) -> str:
        """Returns one line in the notation of the DARTS code base."""
        return (
            f"Genotype(normal={list(self.normal)}, "
            f"normal_concat={_concat_text(self.normal_concat)}, "
            f"reduce={list(self.reduction)}, "
            f"reduce_concat={_concat_text(self.reduction_concat)})"
        )

    @classmethod
    def from_text(cls, text: str) -> "Genotype":
        """Returns the genotype that `to_text`, or a DARTS log, wrote.

        The text is parsed as data: no part of it is ever evaluated.

        Args:
            text: `Genotype(normal=[('sep_conv_3x3', 1), ..], normal_concat=range(2, 6),
                reduce=[..], reduce_concat=[2, 3, 4, 5])`.

        Raises:
            InputError: if it is not a genotype.
        """
        return cls(**parse_genotype_text(text))


def _checked_edges(kind: str, edges: Any) -> Edges:
    """Returns the edges of one cell as tuples, or names the first that is none."""
    if not _is_sequence(edges) or not edges or len(edges) % EDGES_PER_NODE:
        raise InputError(f"{kind} must list two edges per node, got {shown(edges)}")
    for i, edge in enumerate(edges):
        place = f"{kind}[{i}]"
        if not _is_sequence(edge) or len(edge) != 2:
            raise InputError(f"{place} must be (operation, source), got {shown(edge)}")
        op, source = edge
        if not isinstance(op, str) or op not in DARTS_OPS or op == "none":
            raise InputError(f"{place}: {shown(op)} is none of {DARTS_OPS[1:]}")
        target = NUM_INPUTS + i // EDGES_PER_NODE
        if type(source) is not int or not 0 <= source < target:
            raise InputError(
                f"{place}: source must be a state from 0 to {target - 1}, got "
                f"{shown(source)}"
            )
    return tuple((op, source) for op, source in edges)


def _checked_concat(name: str, concat: Any, num_nodes: int) -> tuple[int, ...]:
    """Returns the concatenated states as a tuple, or names what is wrong."""
    nodes = range(NUM_INPUTS, NUM_INPUTS + num_nodes)
    if (
        not _is_sequence(concat)
        or any(type(state) is not int or state not in nodes for state in concat)
        or len(set(concat)) != len(concat)
    ):
        raise InputError(
            f"{name} must hold distinct states from {nodes[0]} to {nodes[-1]}, got "
            f"{shown(concat)}"
        )
    return tuple(concat or nodes)


def _concat_text(concat: tuple[int, ...]) -> str:
    """Returns a run of states as DARTS writes it, `range(2, 6)`, others as a list."""
    run = range(concat[0], concat[0] + len(concat))
    return f"range({run.start}, {run.stop})" if concat == tuple(run) else f"{[*concat]}"


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
