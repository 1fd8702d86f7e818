"""Drawings of a NAS-Bench-201 cell, as SVG and as text."""

from xml.sax.saxutils import escape

from skillearn_jax.nas.draw import chip_family, document
from skillearn_jax.nas.layout import CHIP_HEIGHT, NODE_RADIUS, label
from skillearn_jax.nas.nasbench201.architecture import EDGES, Architecture

_STEP = 190.0  # between two nodes, in pixels
_LEFT, _MIDDLE, _HEIGHT = 50.0, 190.0, 350.0
_CHIP_WIDTH = 118.0
# The height of each edge's label: neighbours straight on, longer edges around.
_LEVELS = {(0, 2): -75.0, (1, 3): 75.0, (0, 3): -130.0}


def architecture_svg(cell: Architecture) -> str:
    """Returns a cell as an SVG document: nodes in a row, a box per operation.

    Edges with `none` are left out.

    Args:
        cell: to draw.
    """
    parts = ['<text class="heading" x="22" y="32">cell</text>']
    for op, edge in zip(cell.ops, EDGES, strict=True):
        if op != "none":
            parts.append(_edge(op, *edge))
    for node in range(4):
        x = _LEFT + _STEP * node
        name = {0: "input", 3: "output"}.get(node, f"node {node}")
        parts.append(
            f'<g class="state"><title>{name}</title>'
            f'<circle cx="{x:.0f}" cy="{_MIDDLE:.0f}" r="{NODE_RADIUS:.0f}"/>'
            f'<text x="{x:.0f}" y="{_MIDDLE + 5:.0f}">{node}</text></g>'
        )
    return document(2 * _LEFT + 3 * _STEP, _HEIGHT, "cell", parts)


def architecture_text(cell: Architecture) -> str:
    """Returns a cell for the console: the benchmark's notation, then edge by edge."""
    lines = [cell.to_text()]
    for op, (source, target) in zip(cell.ops, EDGES, strict=True):
        lines.append(f"  {source} → {target}  {label(op)}")
    return "\n".join(lines)


def _edge(op: str, source: int, target: int) -> str:
    start, end = (_LEFT + _STEP * node for node in (source, target))
    x = (start + end) / 2
    y = _MIDDLE + _LEVELS.get((source, target), 0.0)
    # A curve through its label: control points a third beyond its height.
    bend = _MIDDLE + (y - _MIDDLE) * 4 / 3
    path = (
        f"M{start:.1f} {_MIDDLE:.1f}C{start + 30:.1f} {bend:.1f} {end - 30:.1f} "
        f"{bend:.1f} {end:.1f} {_MIDDLE:.1f}"
    )
    hint = escape(f"{op}: node {source} → node {target}")
    return (
        f'<g class="op {chip_family(op)}"><title>{hint}</title>'
        f'<path d="{path}" fill="none"/>'
        f'<rect x="{x - _CHIP_WIDTH / 2:.1f}" y="{y - CHIP_HEIGHT / 2:.1f}"'
        f' width="{_CHIP_WIDTH:.0f}" height="{CHIP_HEIGHT:.0f}" rx="7"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}">{escape(label(op))}</text></g>'
    )
