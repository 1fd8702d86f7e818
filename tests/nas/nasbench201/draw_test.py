import itertools
from xml.etree import ElementTree as ET

import pytest

from skillearn_jax.nas.nasbench201 import OPS, Architecture
from skillearn_jax.nas.nasbench201.architecture import EDGES
from skillearn_jax.nas.nasbench201.draw import architecture_svg, architecture_text

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "ops",
    [("nor_conv_3x3",) * 6, (*OPS, "none"), ("none",) * 6],
    ids=["convolutions", "all", "none"],
)
def test_every_operation_but_none_has_a_box_of_its_own(ops):
    root = ET.fromstring(architecture_svg(Architecture(ops)))
    _, _, width, height = map(float, root.get("viewBox").split())
    groups = [g for g in root.iter(f"{SVG}g") if g.get("class").startswith("op ")]
    assert Architecture(ops)._repr_svg_() == architecture_svg(Architecture(ops))
    edges = zip(ops, EDGES, strict=True)
    assert [g.find(f"{SVG}title").text for g in groups] == [
        f"{op}: node {source} → node {target}"
        for op, (source, target) in edges
        if op != "none"
    ]
    boxes = []
    for group in groups:
        box = group.find(f"{SVG}rect")
        x, y, w, h = (float(box.get(k)) for k in ("x", "y", "width", "height"))
        boxes.append((x, y, x + w, y + h))
    for circle in root.iter(f"{SVG}circle"):
        x, y, r = (float(circle.get(k)) for k in ("cx", "cy", "r"))
        boxes.append((x - r, y - r, x + r, y + r))
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 34 <= top < bottom <= height  # below the heading
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_the_text_lists_the_edges():
    text = architecture_text(Architecture((*OPS, "none"))).splitlines()
    assert text[0].startswith("|none~0|+|skip_connect~0|")
    assert text[1:] == [
        "  0 → 1  none",
        "  0 → 2  skip connect",
        "  1 → 2  nor conv 1×1",
        "  0 → 3  nor conv 3×3",
        "  1 → 3  avg pool 3×3",
        "  2 → 3  none",
    ]
