"""Drawings of cells: complete, well-formed, and nothing on top of anything else."""

import itertools
import xml.etree.ElementTree as ET

import hypothesis
import hypothesis.strategies as st
import pytest

from skillearn_jax.nas import draw, layout
from skillearn_jax.nas.genotype import Genotype

SVG = "{http://www.w3.org/2000/svg}"
OPS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NORMAL = (
    ("sep_conv_3x3", 0),
    ("sep_conv_3x3", 1),
    ("dil_conv_5x5", 0),
    ("skip_connect", 2),
    ("avg_pool_3x3", 1),
    ("sep_conv_5x5", 3),
)
GENOTYPE = Genotype(
    normal=NORMAL,
    reduction=(*NORMAL[:4], ("max_pool_3x3", 1), ("dil_conv_3x3", 2)),
    normal_concat=(2, 3, 4),
    reduction_concat=(2, 3, 4),
)


@st.composite
def cells(draw_from, max_nodes=7):
    num_nodes = draw_from(st.integers(1, max_nodes))
    edges = []
    for node in range(2, 2 + num_nodes):
        pairs = st.sets(st.integers(0, node - 1), min_size=2, max_size=2)
        for source in sorted(draw_from(pairs)):
            edges.append((draw_from(st.sampled_from(OPS)), source))
    states = st.integers(0, 1 + num_nodes)
    return tuple(edges), sorted(draw_from(st.sets(states, min_size=1)))


def boxes(svg):
    """The rectangle of every symbol: (left, top, right, bottom)."""
    found = []
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        if rect.get("class") != "page":
            x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    for circle in ET.fromstring(svg).iter(f"{SVG}circle"):
        x, y, r = (float(circle.get(k)) for k in ("cx", "cy", "r"))
        found.append((x - r, y - r, x + r, y + r))
    return found


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(cells())
def test_svg_symbols_lie_inside_and_apart(cell):
    edges, concat = cell
    svg = draw.cell_svg(edges, concat, "a cell")
    root = ET.fromstring(svg)
    _, _, width, height = (float(number) for number in root.get("viewBox").split())
    symbols = boxes(svg)
    assert len(symbols) == len(edges) + len(edges) // 2 + 3
    for left, top, right, bottom in symbols:
        assert left >= 0
        assert top >= 34  # below the heading
        assert right <= width
        assert bottom <= height
    for a, b in itertools.combinations(symbols, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(cells())
def test_every_edge_is_wired_in_both_drawings(cell):
    edges, concat = cell
    svg = draw.cell_svg(edges, concat, "a cell")
    names = [title.text for title in ET.fromstring(svg).iter(f"{SVG}title")]
    sources = ["c_{k-2}", "c_{k-1}", *(f"node {i}" for i in range(len(edges) // 2))]
    states = [
        g for g in ET.fromstring(svg).iter(f"{SVG}g") if g.get("class") == "state"
    ]
    numbers = {g.find(f"{SVG}title").text: g.find(f"{SVG}text").text for g in states}
    assert all(numbers[f"node {i}"] == str(i) for i in range(len(edges) // 2))
    text = draw.cell_text(edges, concat, "a cell")
    for index, (op, source) in enumerate(edges):
        assert f"{op}: {sources[source]} → node {index // 2}" in names
        assert f"{sources[source]:7} ─ {op}" in text
    for node in range(2, 2 + len(edges) // 2):
        assert (f"├─▶ {node - 2:<2}──" in text) == (node in concat)
    assert text.count("▶ c_{k} ") == 1
    widths = {len(line) for line in text.splitlines()}
    assert len(widths) == 1
    assert widths.pop() <= 100


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(cells())
def test_wires_never_run_through_operations(cell):
    placed = layout.place_cell(*cell)
    for wires in placed.wires.values():
        for wire in wires:
            for chip in placed.chips:
                beside = wire.x0 <= chip.x or wire.x_start >= chip.x + chip.width
                apart = abs(wire.y0 - chip.y) > layout.CHIP_HEIGHT / 2
                assert beside or apart


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(cells())
def test_wires_lead_from_a_state_to_all_that_reads_it(cell):
    edges, concat = cell
    placed = layout.place_cell(edges, concat)
    chips = [(chip.op, chip.source) for chip in placed.chips]
    assert sorted(chips) == sorted(edges)
    last = max(chip.x for chip in placed.chips)
    height = placed.centers[max(placed.centers)][1]
    for state, wires in placed.wires.items():
        ends = [(wire.x1, wire.y1) for wire in wires if wire.ends]
        into_output = [y for x, y in ends if x > last]
        assert len(into_output) == (state in concat)
        assert all(abs(y - height) <= placed.output_height / 2 for y in into_output)
        read = [(chip.x, chip.y) for chip in placed.chips if chip.source == state]
        assert sorted(end for end in ends if end[0] <= last) == sorted(read)
        # Each stretch begins at the state, or where another has come to.
        places = {placed.centers[state][1]} | {w.y1 for w in wires if not w.ends}
        assert all(wire.y0 in places for wire in wires)


def test_labels_fit_their_boxes():
    placed = layout.place_cell(NORMAL, (2, 3, 4))
    for chip in placed.chips:
        assert chip.width >= 7.25 * len(layout.label(chip.op)) + 12


def test_genotype_is_drawn_side_by_side_in_100_columns():
    text = draw.genotype_text(GENOTYPE)
    assert "normal cell" in text.splitlines()[0]
    assert "reduction cell" in text.splitlines()[0]
    width = max(len(line) for line in text.splitlines())
    assert width <= 100
    assert draw.genotype_text(GENOTYPE, width) == text
    narrow = draw.genotype_text(GENOTYPE, width - 1)
    assert max(map(len, narrow.splitlines())) < width / 2
    for kind in ("normal", "reduction"):
        edges = getattr(GENOTYPE, kind), getattr(GENOTYPE, f"{kind}_concat")
        assert draw.cell_text(*edges, f"{kind} cell") in narrow


def test_a_notebook_shows_both_cells():
    cells = ET.fromstring(GENOTYPE._repr_html_())
    assert [cell.get("aria-label") for cell in cells] == [
        "normal cell",
        "reduction cell",
    ]
    for cell, kind in zip(cells, ("normal", "reduction"), strict=True):
        edges = getattr(GENOTYPE, kind), getattr(GENOTYPE, f"{kind}_concat")
        alone = ET.fromstring(draw.cell_svg(*edges, f"{kind} cell"))
        assert ET.tostring(cell) == ET.tostring(alone)


@pytest.mark.parametrize("title", ["<script>&\"'", "a" * 150])
def test_titles_are_harmless(title):
    damaged = draw.cell_svg(NORMAL, (2, 3, 4), f"{title}\x00\x0b")
    assert ET.fromstring(damaged).get("aria-label") == f"{title}\ufffd\ufffd"
    root = ET.fromstring(draw.cell_svg(NORMAL, (2, 3, 4), title))
    assert root.get("aria-label") == title
    assert root.find(f"{SVG}title").text == title
    text = draw.cell_text(NORMAL, (2, 3, 4), title)
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize(
    ("op", "family"),
    [
        ("sep_conv_5x5", "separable"),
        ("dil_conv_3x3", "dilated"),
        ("avg_pool_3x3", "pool"),
        ("skip_connect", "skip"),
        ("nor_conv_1x1", "dense"),
    ],
)
def test_operations_are_coloured_by_family(op, family):
    svg = draw.cell_svg([(op, 0), (op, 1)], (2,), "one node")
    assert svg.count(f'class="op {family}"') == 2
    assert f".cell .{family} rect" in svg
