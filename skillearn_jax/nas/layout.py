"""Places the parts of a cell on the page, in layers from left to right.

A *state* is one tensor of the cell: its two inputs (0 and 1), the intermediate nodes
(2, 3, ...) and, last, the output. An operation sits directly in front of the node that
it feeds, so operations cannot overlap however the cell is wired. A state that is read
further to the right than the next layer passes the layers between in a *lane* of its
own, so wires never run through operations.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

NODE_RADIUS = 15.0
CHIP_HEIGHT = 24.0
TERMINAL_WIDTH = 66.0
TERMINAL_HEIGHT = 32.0

_CHARACTER_WIDTH = 7.3  # of the widest common monospace font at 12 px
_CHIP_PADDING = 10.0
_CHIP_TO_NODE = 30.0
_MIN_CHANNEL = 64.0
_MARGIN = 22.0
_TITLE_HEIGHT = 34.0
_MODULE_HEIGHT = 2 * CHIP_HEIGHT + 8.0
_LANE_HEIGHT = 2.0
_PORT_HEIGHT = 11.0
_SEPARATION = 20.0
_SWEEPS = 24

Edges = Sequence[tuple[str, int]]
_Item = tuple[int, int]  # (layer, state): the state itself, or its lane in that layer


@dataclasses.dataclass(frozen=True)
class Chip:
    """One operation: a labelled box of `CHIP_HEIGHT`; `x` is left, `y` the middle."""

    op: str
    source: int
    target: int
    x: float
    y: float
    width: float


@dataclasses.dataclass(frozen=True)
class Wire:
    """One stretch of wire: level to `x0`, a curve to `x1`; `ends` at what it feeds."""

    x_start: float
    x0: float
    y0: float
    x1: float
    y1: float
    ends: bool


@dataclasses.dataclass(frozen=True)
class CellLayout:
    """Where everything is, in pixels.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        centers: the middle of every state's symbol; the output is the last state.
        chips: the operations, node by node, the upper one of each first.
        wires: the wires that leave each state.
        output_height: of the output's symbol, which grows with what it joins.
    """

    width: float
    height: float
    centers: Mapping[int, tuple[float, float]]
    chips: tuple[Chip, ...]
    wires: Mapping[int, tuple[Wire, ...]]
    output_height: float


def label(op: str) -> str:
    """Returns an operation's name for human eyes: `sep_conv_3x3` -> `sep conv 3×3`."""
    words = op.split("_")
    return " ".join(
        word.replace("x", "×") if word[:1].isdigit() else word for word in words
    )


def place_cell(edges: Edges, concat: Sequence[int]) -> CellLayout:
    """Returns the layout of a cell.

    Args:
        edges: `(op, source)`, two for each intermediate node in rank order.
        concat: the states that the output joins.
    """
    output = 2 + len(edges) // 2
    sources = {node: [s for _, s in _inputs(edges, node)] for node in range(2, output)}
    sources[output] = sorted(set(concat))
    layer = {0: 0, 1: 0}
    for node in range(2, output):
        layer[node] = 1 + max(layer[source] for source in sources[node])
    layer[output] = 1 + max(layer.values())

    chip_width = 2 * _CHIP_PADDING + _CHARACTER_WIDTH * max(
        len(label(op)) for op, _ in edges
    )
    ys = _heights(sources, layer)
    lefts, rights = _columns(layer[output], chip_width, max(ys.values()))
    centers = {}
    for state, depth in layer.items():
        middle = (lefts[depth] + rights[depth]) / 2
        inside = 1 < state < output
        x = rights[depth] - NODE_RADIUS if inside else middle
        centers[state] = (x, ys[depth, state])

    chips: list[Chip] = []
    ports: dict[int, list[tuple[int, float]]] = {state: [] for state in layer}
    for node in range(2, output):
        x, y = lefts[layer[node]], ys[layer[node], node]
        upper_first = _inputs(edges, node)
        if (
            ys[layer[node] - 1, sources[node][0]]
            > ys[layer[node] - 1, sources[node][1]]
        ):
            upper_first.reverse()
        for (op, source), side in zip(upper_first, (-1, 1), strict=True):
            chip_y = y + side * (_MODULE_HEIGHT - CHIP_HEIGHT) / 2
            chips.append(Chip(op, source, node, x, chip_y, chip_width))
            ports[source].append((layer[node], chip_y))
    output_height = max(TERMINAL_HEIGHT, _PORT_HEIGHT * len(sources[output]))
    by_height = sorted(sources[output], key=lambda state: ys[layer[output] - 1, state])
    for rank, state in enumerate(by_height):
        spread = output_height * ((rank + 0.5) / len(by_height) - 0.5)
        ports[state].append((layer[output], ys[layer[output], output] + spread))

    wires = {}
    for state, targets in ports.items():
        wires[state] = _wires(state, layer[state], targets, ys, lefts, rights)
    height = max(ys.values()) + _MODULE_HEIGHT / 2 + _MARGIN
    return CellLayout(
        rights[-1] + _MARGIN, height, centers, tuple(chips), wires, output_height
    )


def _inputs(edges: Edges, node: int) -> list[tuple[str, int]]:
    return list(edges[2 * node - 4 : 2 * node - 2])


def _columns(
    depth: int, chip_width: float, height: float
) -> tuple[list[float], list[float]]:
    """Returns the left and right border of every layer."""
    # Steep curves are hard to follow: a tall cell gets wider channels.
    channel = max(_MIN_CHANNEL, 0.26 * height)
    module_width = chip_width + _CHIP_TO_NODE + 2 * NODE_RADIUS
    widths = [TERMINAL_WIDTH, *[module_width] * (depth - 1), TERMINAL_WIDTH]
    lefts, rights, x = [], [], _MARGIN
    for width in widths:
        lefts.append(x)
        rights.append(x + width)
        x += width + channel
    return lefts, rights


def _wires(
    state: int,
    depth: int,
    targets: Sequence[tuple[int, float]],
    ys: Mapping[_Item, float],
    lefts: Sequence[float],
    rights: Sequence[float],
) -> tuple[Wire, ...]:
    """Returns one trunk through the lanes of `state` and a branch to every target."""
    wires = []
    for here in range(depth, max((layer for layer, _ in targets), default=depth)):
        start = rights[here] if here == depth else lefts[here]
        stretch = (start, rights[here], ys[here, state], lefts[here + 1])
        for layer, y in targets:
            if layer == here + 1:
                wires.append(Wire(*stretch, y, ends=True))
        if (here + 1, state) in ys:
            wires.append(Wire(*stretch, ys[here + 1, state], ends=False))
    return tuple(wires)


def _heights(
    sources: Mapping[int, Sequence[int]], layer: Mapping[int, int]
) -> dict[_Item, float]:
    """Returns the height of every state and lane: near what it is wired to."""
    links: dict[_Item, list[_Item]] = {(d, state): [] for state, d in layer.items()}
    for target, inputs in sources.items():
        for source in inputs:
            path = [(depth, source) for depth in range(layer[source], layer[target])]
            path.append((layer[target], target))
            for left, right in itertools.pairwise(path):
                links.setdefault(left, []).append(right)
                links.setdefault(right, []).append(left)

    columns = [
        sorted(item for item in links if item[0] == depth)
        for depth in range(max(layer.values()) + 1)
    ]
    ys = {item: 60.0 * item[1] for item in links}
    for _ in range(_SWEEPS):
        for column in columns:
            wanted = {
                item: sum(ys[other] for other in links[item]) / len(links[item])
                if links[item]
                else ys[item]
                for item in column
            }
            order = sorted(column, key=lambda item: (wanted[item], item))
            if column is columns[0]:
                order = column  # the inputs keep their order
            sizes = [_size(item, layer) for item in order]
            placed = _spread([wanted[item] for item in order], sizes)
            ys.update(zip(order, placed, strict=True))
    top = min(y - _size(item, layer) / 2 for item, y in ys.items())
    shift = _TITLE_HEIGHT + _MARGIN - top
    return {item: y + shift for item, y in ys.items()}


def _size(item: _Item, layer: Mapping[int, int]) -> float:
    depth, state = item
    return _MODULE_HEIGHT if layer[state] == depth else _LANE_HEIGHT


def _spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Returns the heights closest to `wanted` that keep their order and their distance.

    Without the distances this is isotonic regression; pooling adjacent violators solves
    it exactly.
    """
    offsets = [0.0]
    for above, below in itertools.pairwise(sizes):
        offsets.append(offsets[-1] + (above + below) / 2 + _SEPARATION)
    blocks: list[tuple[float, int]] = []  # (mean, count)
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean = (mean * count + other * others) / (count + others)
            count += others
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
