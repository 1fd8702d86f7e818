"""Cells of NAS-Bench-201: six edges, five operations each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from skillearn_jax.errors import InputError
from skillearn_jax.nas.cell_files import read_cell_file
from skillearn_jax.nas.shown import shown

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The candidate operations, in the order that the benchmark indexes them."""

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""`(source, target)` of every edge, target by target as in an architecture's text.

The benchmark sorts the names `target<-source` of its edges, which is the same order.
"""

ALPHAS_KEY = "cell"
"""The one key of `alphas`: all cells share one matrix of logits, `[6, 5]`."""

NUM_ARCHITECTURES = len(OPS) ** len(EDGES)

_MAX_TEXT = 1000


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A cell: one operation on each edge between four nodes, the first its input.

    A node is the sum of its incoming edges; the last one is the output.

    Attributes:
        ops: one of `OPS` per edge, in the order of `EDGES`. A list is accepted.

    Raises:
        InputError: for anything else; the message names the place.

    References: Dong and Yang 2020, section 2.1, arXiv 2001.00326.
    """

    ops: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.ops, tuple | list) or len(self.ops) != len(EDGES):
            raise InputError(
                f"ops must list {len(EDGES)} operations, got {shown(self.ops)}"
            )
        for i, op in enumerate(self.ops):
            if not isinstance(op, str) or op not in OPS:
                raise InputError(f"ops[{i}] is {shown(op)}; it must be one of {OPS}")
        object.__setattr__(self, "ops", tuple(self.ops))

    def _repr_svg_(self) -> str:
        """Returns the cell as a notebook shows it."""
        from skillearn_jax.nas.nasbench201 import draw  # which imports architectures

        return draw.architecture_svg(self)

    @property
    def index(self) -> int:
        """Its number from 0 to 15624: the operations as digits of base 5, first highest.

        An enumeration of this project's; the benchmark's own file has another order.
        """
        number = 0
        for op in self.ops:
            number = len(OPS) * number + OPS.index(op)
        return number

    @classmethod
    def from_index(cls, index: int) -> "Architecture":
        """Returns the architecture of a number.

        Raises:
            InputError: if there is none.
        """
        if type(index) is not int or not 0 <= index < NUM_ARCHITECTURES:
            raise InputError(
                f"architecture {shown(index)} must be a number from 0 to "
                f"{NUM_ARCHITECTURES - 1}"
            )
        ops = []
        for _ in EDGES:
            index, digit = divmod(index, len(OPS))
            ops.append(OPS[digit])
        return cls(tuple(reversed(ops)))

    def to_text(self) -> str:
        """Returns the benchmark's notation, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
        nodes: dict[int, list[str]] = {}
        for op, (source, target) in zip(self.ops, EDGES, strict=True):
            nodes.setdefault(target, []).append(f"{op}~{source}")
        return "+".join(f"|{'|'.join(edges)}|" for edges in nodes.values())

    @classmethod
    def from_text(cls, text: str) -> "Architecture":
        """Returns the architecture that `to_text`, or the benchmark, wrote.

        Raises:
            InputError: if it is none; the message names the place.
        """
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise InputError("an architecture is a text of six operations")
        nodes = text.strip().split("+")
        if len(nodes) != 3:
            raise InputError(
                f"an architecture has 3 nodes joined by '+', got {shown(text)}"
            )
        ops = []
        for target, node in enumerate(nodes, start=1):
            edges = node.split("|")
            if len(edges) != target + 2 or edges[0] or edges[-1]:
                raise InputError(
                    f"node {target} must be {target} operations between '|', got "
                    f"{shown(node)}"
                )
            for source, edge in enumerate(edges[1:-1]):
                op, tilde, place = edge.partition("~")
                if op not in OPS or not tilde or place != str(source):
                    raise InputError(
                        f"node {target}: edge {source} must be OP~{source} with OP one of "
                        f"{OPS}, got {shown(edge)}"
                    )
                ops.append(op)
        return cls(tuple(ops))

    def to_json(self) -> dict[str, Any]:
        """Returns the operations as a list, ready for `json.dump`."""
        return {"ops": list(self.ops)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Architecture":
        """Returns the architecture that `to_json` described.

        Raises:
            InputError: if it is none.
        """
        if not isinstance(data, Mapping) or set(data) != {"ops"}:
            raise InputError(f"an architecture has the key 'ops', got {shown(data)}")
        return cls(data["ops"])


def find_architecture(text_or_path: str) -> Architecture:
    """Returns the architecture that a text describes, or the one in a file.

    Args:
        text_or_path: see `Architecture.to_text`, or the path of a file that holds such
            a text or the JSON of `Architecture.to_json`; of a folder, its
            `genotype.json`.

    Raises:
        InputError: if it is neither, or the file holds none.
    """
    if "|" in text_or_path:
        return Architecture.from_text(text_or_path)
    return read_cell_file(
        text_or_path,
        Architecture.from_json,
        Architecture.from_text,
        kind="architecture",
        otherwise="the text of one, |OP~0|+|OP~0|OP~1|+|OP~0|OP~1|OP~2|",
    )
