"""Draws a cell: with Unicode lines for the terminal, as SVG for a page."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from skillearn_jax.nas import layout
from skillearn_jax.nas.genotype import Genotype

_MAX_COLUMNS = 100
_INPUT_NAMES = ("c_{k-2}", "c_{k-1}")
_OUTPUT_NAME = "c_{k}"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# (first letters of the operation's name, family); the first match counts.
_FAMILIES = (
    ("sep_", "separable"),
    ("dil_", "dilated"),
    ("max_pool", "pool"),
    ("avg_pool", "pool"),
    ("skip", "skip"),
)

_RULES = """
.cell .page { fill: PAPER }
.cell .heading { font: 600 15px ui-sans-serif, system-ui, sans-serif; fill: INK }
.cell .casing { fill: none; stroke: PAPER; stroke-width: 6 }
.cell .wire { fill: none; stroke: WIRE; stroke-width: 1.6 }
.cell .arrow { fill: WIRE }
.cell .op text, .cell .state text {
  font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  text-anchor: middle }
.cell .op path { fill: none; stroke-width: 2 }
.cell .state rect, .cell .state circle { fill: INK }
.cell .state text { fill: PAPER; font-size: 13px; font-weight: 600 }
.cell .state .index { font-size: 10px }
"""
_LIGHT = {"PAPER": "#ffffff", "INK": "#1d2430", "WIRE": "#8a94a6"}
_DARK = {"PAPER": "#161b22", "INK": "#dfe4ee", "WIRE": "#77839a"}

# family: ((fill, line) on a light page, (fill, line) on a dark one)
_COLORS = {
    "separable": (("#e3edff", "#2158b8"), ("#16294a", "#7aacff")),
    "dilated": (("#f1e6ff", "#7439b8"), ("#2c1c45", "#c198ff")),
    "pool": (("#fdeed8", "#955405"), ("#3b2810", "#f0aa4c")),
    "skip": (("#e2f4e8", "#1f6d38"), ("#15321f", "#67cb8d")),
    "dense": (("#fde4ea", "#b02952"), ("#421824", "#ff8dab")),
}


def genotype_text(genotype: Genotype, columns: int = _MAX_COLUMNS) -> str:
    """Returns both cells as text, side by side where so many columns hold them."""
    normal = cell_text(genotype.normal, genotype.normal_concat, "normal cell")
    reduction = cell_text(
        genotype.reduction, genotype.reduction_concat, "reduction cell"
    )
    left, right = normal.splitlines(), reduction.splitlines()
    side_by_side = len(left) == len(right)
    if not side_by_side or len(left[0]) + 2 + len(right[0]) > columns:
        return f"{normal}\n\n{reduction}"
    return "\n".join(f"{a}  {b}" for a, b in zip(left, right, strict=True))


def cell_text(edges: layout.Edges, concat: Sequence[int], title: str) -> str:
    """Returns one cell as text: each node with its two operations, joined to the output.

    Args:
        edges: `(op, source)`, two for each intermediate node in rank order.
        concat: the states (0 and 1 are the inputs) that the output joins.
        title: printed in the frame.
    """
    op_width = min(40, max(len(op) for op, _ in edges))
    lines = []  # (text, whether it joins the output)
    for state in sorted(set(concat) & {0, 1}):
        lines.append((f"{_name(state):7} ─".ljust(op_width + 20, "─"), True))
    for node in range(2, 2 + len(edges) // 2):
        pair = edges[2 * node - 4 : 2 * node - 2]
        upper, lower = (
            f"{_name(source):7} ─ {_fit(op, op_width)} ─" for op, source in pair
        )
        joins = node in concat
        tail = f"├─▶ {node - 2:<2}" + ("──" if joins else "  ")
        lines.append((f"{upper}╮".ljust(op_width + 20), False))
        lines.append((" " * (op_width + 12) + tail, joins))
        lines.append((f"{lower}╯".ljust(op_width + 20), False))
    return "\n".join(_framed(_with_output(lines), title))


def _fit(op: str, width: int) -> str:
    return op.ljust(width) if len(op) <= width else f"{op[: width - 1]}…"


def _with_output(lines: Sequence[tuple[str, bool]]) -> list[str]:
    """Returns the lines with a vertical bar at their right that leads to the output."""
    joints = [row for row, (_, joins) in enumerate(lines) if joins]
    first, last = (joints[0], joints[-1]) if joints else (0, -1)
    exit_row = joints[len(joints) // 2] if joints else len(lines) // 2
    drawn = []
    for row, (text, joins) in enumerate(lines):
        leaves = row == exit_row
        bar = _bar(up=first < row <= last, down=first <= row < last, left=joins)
        if leaves:
            bar = {"┤": "┼", "╮": "┬", "╯": "┴", "─": "─"}.get(bar, bar)
        tail = f"─▶ {_OUTPUT_NAME}" if leaves else ""
        drawn.append(f"{text}{bar}{tail:8}")
    return drawn


def _bar(*, up: bool, down: bool, left: bool) -> str:
    if not left:
        return "│" if up and down else " "
    return {(True, True): "┤", (False, True): "╮", (True, False): "╯"}.get(
        (up, down), "─"
    )


def _framed(lines: Sequence[str], title: str) -> list[str]:
    width = max(len(line) for line in lines)
    title = _fit(title, min(len(title), width - 2))
    top = f"╭─ {title} {'─' * (width - len(title) - 1)}╮"
    body = [f"│ {line:{width}} │" for line in lines]
    return [top, *body, f"╰{'─' * (width + 2)}╯"]


def cell_svg(edges: layout.Edges, concat: Sequence[int], title: str) -> str:
    """Returns one cell as an SVG document that suits light and dark pages.

    Wires carry states, coloured boxes are operations, and a circle adds the two that
    lead into it. Wires, boxes and nodes name themselves to screen readers and pointers.

    Args:
        edges: `(op, source)`, two for each intermediate node in rank order.
        concat: the states (0 and 1 are the inputs) that the output joins.
        title: printed above the cell; the document's accessible name.
    """
    placed = layout.place_cell(edges, concat)
    return document(placed.width, placed.height, title, _cell_parts(placed, title))


def genotype_html(genotype: Genotype) -> str:
    """Returns both cells for a page: an SVG each, side by side where they fit."""
    cells = (
        cell_svg(genotype.normal, genotype.normal_concat, "normal cell"),
        cell_svg(genotype.reduction, genotype.reduction_concat, "reduction cell"),
    )
    return f'<div style="display: flex; flex-wrap: wrap">{"".join(cells)}</div>'


def xml_text(text: str) -> str:
    """Returns text with U+FFFD for what no XML may hold, as control characters."""
    return _NO_XML.sub("\ufffd", text)


def _escaped(text: str) -> str:
    """Returns text as XML may hold it: without markup and control characters."""
    return escape(xml_text(text))


def document(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Returns an SVG document of some parts, with the style of all cells."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="cell" role="img"'
            f' aria-label="{_escaped(title)}" width="{width:.0f}" height="{height:.0f}"'
            f' viewBox="0 0 {width:.0f} {height:.0f}">',
            f"<title>{_escaped(title)}</title>",
            f"<style>{_style()}</style>",
            f'<rect class="page" width="{width:.0f}" height="{height:.0f}" rx="10"/>',
            *parts,
            "</svg>",
        ]
    )


def _cell_parts(placed: layout.CellLayout, title: str) -> list[str]:
    parts = [f'<text class="heading" x="22" y="32">{_escaped(title)}</text>']
    for state, wires in placed.wires.items():
        paths = "".join(_wire_path(wire) for wire in wires)
        if not paths:
            continue
        # The casing cuts the wires below, so that crossings read as bridges.
        parts.append(
            f'<g><title>{_name(state)}</title><path class="casing" d="{paths}"/>'
        )
        parts.append(f'<path class="wire" d="{paths}"/>')
        parts += [_arrow(wire.x1, wire.y1) for wire in wires if wire.ends]
        parts.append("</g>")
    parts += [_chip(chip, placed.centers[chip.target]) for chip in placed.chips]
    output = max(placed.centers)
    for state, (x, y) in placed.centers.items():
        terminal = state < 2 or state == output
        name = _OUTPUT_NAME if state == output else _name(state)
        height = placed.output_height if state == output else layout.TERMINAL_HEIGHT
        parts.append(_terminal(name, x, y, height) if terminal else _node(state, x, y))
    return parts


def _wire_path(wire: layout.Wire) -> str:
    end = wire.x1 - (6 if wire.ends else 0)
    middle = (wire.x0 + end) / 2
    return (
        f"M{wire.x_start:.1f} {wire.y0:.1f}H{wire.x0:.1f}"
        f"C{middle:.1f} {wire.y0:.1f} {middle:.1f} {wire.y1:.1f} {end:.1f} {wire.y1:.1f}"
    )


def _arrow(x: float, y: float) -> str:
    return f'<path class="arrow" d="M{x:.1f} {y:.1f}l-8 -3.6v7.2z"/>'


def _chip(chip: layout.Chip, node: tuple[float, float]) -> str:
    right, top = chip.x + chip.width, chip.y - layout.CHIP_HEIGHT / 2
    end = node[0] - layout.NODE_RADIUS
    bend = (right + end) / 2
    family = chip_family(chip.op)
    hint = f"{chip.op}: {_name(chip.source)} → {_name(chip.target)}"
    return (
        f'<g class="op {family}"><title>{_escaped(hint)}</title>'
        f'<path d="M{right:.1f} {chip.y:.1f}C{bend:.1f} {chip.y:.1f} {bend:.1f}'
        f' {node[1]:.1f} {end:.1f} {node[1]:.1f}"/>'
        f'<rect x="{chip.x:.1f}" y="{top:.1f}" width="{chip.width:.1f}"'
        f' height="{layout.CHIP_HEIGHT:.0f}" rx="7"/>'
        f'<text x="{chip.x + chip.width / 2:.1f}" y="{chip.y + 4:.1f}">'
        f"{_escaped(layout.label(chip.op))}</text></g>"
    )


def _node(state: int, x: float, y: float) -> str:
    return (
        f'<g class="state"><title>{_name(state)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{layout.NODE_RADIUS:.0f}"/>'
        f'<text x="{x:.1f}" y="{y + 5:.1f}">{state - 2}</text></g>'
    )


def _terminal(name: str, x: float, y: float, height: float) -> str:
    width = layout.TERMINAL_WIDTH
    base, index = name.rstrip("}").replace("-", "−").split("_{")
    return (
        f'<g class="state"><title>{name}</title>'
        f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.0f}"'
        f' height="{height:.1f}" rx="9"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}">{base}'
        f'<tspan class="index" dy="4">{index}</tspan></text></g>'
    )


def _name(state: int) -> str:
    return _INPUT_NAMES[state] if state < 2 else f"node {state - 2}"


def chip_family(op: str) -> str:
    """Returns the class of an operation in the style sheet: its colour."""
    for start, family in _FAMILIES:
        if op.startswith(start):
            return family
    return "dense"


def _style() -> str:
    light = _rules(_LIGHT, {family: both[0] for family, both in _COLORS.items()})
    dark = _rules(_DARK, {family: both[1] for family, both in _COLORS.items()})
    return f"{light}@media screen and (prefers-color-scheme: dark) {{{dark}}}\n"


def _rules(page: Mapping[str, str], families: Mapping[str, tuple[str, str]]) -> str:
    # Explicit colours: many SVG viewers do not know CSS variables.
    rules = _RULES
    for name, color in page.items():
        rules = rules.replace(name, color)
    for family, (fill, line) in families.items():
        rules += (
            f".cell .{family} rect {{ fill: {fill}; stroke: {line} }}\n"
            f".cell .{family} path {{ stroke: {line} }}\n"
            f".cell .{family} text {{ fill: {line} }}\n"
        )
    return rules
