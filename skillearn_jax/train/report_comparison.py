"""Floor 4: the page and the figures of a comparison of hypergradients."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from skillearn_jax.framework.comparing import ADJOINTS, DTYPES
from skillearn_jax.nas import Genotype
from skillearn_jax.nas.derive import softmax
from skillearn_jax.nas.draw import genotype_text
from skillearn_jax.train import report_figures as figures
from skillearn_jax.train.comparison_problems import search_values
from skillearn_jax.train.report_page import (
    Figure,
    page,
    paragraph,
    save,
    section,
    show,
    table,
)

Record = Mapping[str, Any]
_EXACT, _DIFFERENCE = map(repr, ADJOINTS[:2])
_NAMES = {_EXACT: "exact", _DIFFERENCE: "finite difference"}
_COLORS = dict(zip(DTYPES, figures.COLORS, strict=False))
"""Of a number type the same in all figures."""

_NAMED: dict[str, Any] = {"adjoint": "", "dtype": ""}
_ACCURACY = _NAMED | {"supporting": "", "stage": "", "norm": None}
_ACCURACY |= {"radius": None, "rel_error": None, "cosine": None}
_COST = _NAMED | {"step_s": 0.0, "compile_s": 0.0, "peak_bytes": 0.0}
_SEARCH: dict[str, Any] = {"name": "", "genotype": {}, "error": 0.0, "search_s": 0.0}
_SWEEP = {"": {"rows": [_ACCURACY]}}
LIKE = {
    "problem": "",
    "program": "",
    "batch_size": 0.0,
    "reference": "",
    "rows": [_ACCURACY],
    "costs": [_COST],
    "warnings": [""],
    "sweeps": {"batch": _SWEEP, "depth": _SWEEP},
    "searches": [_SEARCH | {"alphas": [{"step": 0.0}]}],
}
"""An example of a record, for `read_json`; `None` may be a number that is none."""


def write(folder: Path, record: Record) -> Path:
    """Writes `report/index.html` and its figures; returns the page's path.

    Args:
        folder: of the comparison.
        record: what `comparison.json` holds, see `LIKE`.
    """
    drawn = {
        name: Figure(svg, caption)
        for name, svg, caption in (
            (
                "radius",
                _by_radius(record),
                "Relative error of the finite difference against its radius, for each "
                "supporting set; the dotted lines are the exact hypergradient in the same "
                "number type. Where there is none, its error is zero.",
            ),
            (
                "batch",
                _by_sweep(record, "batch", "batch size"),
                "The same, against the size of the batches.",
            ),
            (
                "depth",
                _by_sweep(record, "depth", "stages"),
                "The same on the toy chain, against its number of stages.",
            ),
            (
                "alphas",
                _alphas(record),
                "Weights of the operations on each edge over the epochs of a search from "
                "one seed, by exact (solid), finite-difference (dashed) and first-order "
                "(dotted) hypergradients.",
            ),
        )
        if svg is not None
    }
    return save(folder, _page(record, drawn), drawn)


def _page(record: Record, drawn: Mapping[str, Figure]) -> str:
    title = f"Hypergradients of {record['problem']}"
    story = (
        f"Every adjoint against {record['reference']}, batches of "
        f"{record['batch_size']}."
    )
    warnings = "".join(paragraph(line, "verdict") for line in record["warnings"])
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(story)}</p></header>",
        section("Accuracy", warnings + show(drawn, "radius") + _accuracy(record)),
        section("Cost", _costs(record)),
        section("Batches and depth", show(drawn, "batch", "depth")),
        section("What it does to a search", _searches(record) + show(drawn, "alphas")),
        section("The program", f"<pre>{escape(record['program'])}</pre>"),
    ]
    return page(title, parts)


def _accuracy(record: Record) -> str:
    rows = [
        (
            row["adjoint"],
            row["dtype"],
            row["supporting"],
            row["stage"],
            _number(row["norm"], ".2e"),
            _number(row["rel_error"], ".1e"),
            _number(row["cosine"], ".6f"),
        )
        for row in record["rows"]
        if row["radius"] in (None, 0.01)
    ]
    head = ("adjoint", "numbers", "set", "through", "norm", "rel. error", "cosine")
    return table(head, rows, "results")


def _costs(record: Record) -> str:
    rows = [
        (
            row["adjoint"],
            row["dtype"],
            f"{1e3 * row['step_s']:.2f} ms",
            f"{row['compile_s']:.1f} s",
            f"{row['peak_bytes'] / 2**20:.2f} MiB",
        )
        for row in record["costs"]
    ]
    head = ("adjoint", "numbers", "a call", "compilation", "memory beside arguments")
    return table(head, rows, "results")


def _searches(record: Record) -> str:
    if not record["searches"]:
        return ""
    rows = [
        (
            row["name"].replace("_", " "),
            f"{row['error']:.2f}",
            f"{row['search_s']:.1f} s",
        )
        for row in record["searches"]
    ]
    cells = "".join(
        f"<details><summary>cell by {escape(row['name'].replace('_', ' '))}</summary>"
        f"<pre>{escape(genotype_text(Genotype.from_json(row['genotype'])))}</pre></details>"
        for row in record["searches"]
    )
    head = ("hypergradient", "held-out error %, one seed", "search steps")
    # The same of all; an earlier version noted none.
    notes = record["searches"][0].get("caveats", ())
    return table(head, rows, "results") + "".join(map(paragraph, notes)) + cells


def _by_radius(record: Record) -> str | None:
    totals = [row for row in record["rows"] if row["stage"] == "total"]
    names = _unique(row["supporting"] for row in totals)
    with matplotlib.rc_context(figures.STYLE):
        figure, axes = figures.grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            of_set = [row for row in totals if row["supporting"] == name]
            for dtype in _unique(row["dtype"] for row in of_set):
                of_type = [row for row in of_set if row["dtype"] == dtype]
                points = sorted(
                    (row["radius"], row["rel_error"])
                    for row in of_type
                    if row["radius"] and row["rel_error"]
                )
                color = _COLORS.get(dtype)
                if points:
                    ax.loglog(*zip(*points, strict=True), "o-", ms=3, color=color)
                exact = next(r for r in of_type if r["adjoint"] == _EXACT)["rel_error"]
                if exact:
                    ax.axhline(exact, color=color, ls=":")
                ax.plot([], [], color=color, label=dtype)
            ax.set(xlabel="radius", title=name, xscale="log", yscale="log")
            ax.legend()
        axes[0].set_ylabel("relative error")
        return figures.svg(figure, "Error of the finite difference against its radius")


def _by_sweep(record: Record, sweep: str, label: str) -> str | None:
    points = record["sweeps"][sweep]
    if len(points) < 2:
        return None
    at = sorted(points, key=int)
    names = _unique(row["supporting"] for row in points[at[0]]["rows"])
    with matplotlib.rc_context(figures.STYLE):
        figure, axes = figures.grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            _lines(ax, [(int(x), points[x]["rows"]) for x in at], name)
            ax.set(xlabel=label, title=name)
        axes[0].set_ylabel("relative error")
        return figures.svg(figure, f"Error against {label}")


def _lines(ax: Axes, points: Sequence[tuple[int, Sequence[Record]]], name: str) -> None:
    of_points = [{row["dtype"] for row in rows} for _, rows in points]
    for dtype in _unique(row["dtype"] for row in points[0][1]):
        if not all(dtype in known for known in of_points):
            continue  # float64, of the size alone that is compared in full
        for adjoint, style in ((_EXACT, ":"), (_DIFFERENCE, "-")):
            found = [
                (x, row["rel_error"])
                for x, rows in points
                for row in rows
                if (row["adjoint"], row["dtype"]) == (adjoint, dtype)
                and (row["supporting"], row["stage"]) == (name, "total")
                and row["rel_error"]
            ]
            if found:
                ax.loglog(
                    *zip(*found, strict=True),
                    style,
                    marker="o",
                    ms=3,
                    color=_COLORS.get(dtype),
                    label=f"{_NAMES[adjoint]}, {dtype}",
                )
    ax.legend(fontsize=6.5)


def _alphas(record: Record) -> str | None:
    searches = [row for row in record["searches"] if row["alphas"]]
    if not searches:
        return None
    kinds = sorted(k for k in searches[0]["alphas"][0] if k not in ("step", "phase"))
    edges = [
        (kind, edge)
        for kind in kinds
        for edge in range(len(searches[0]["alphas"][0][kind]))
    ][:6]
    ops = search_values(epochs=1)["space"]["ops"]
    with matplotlib.rc_context(figures.STYLE):
        figure, axes = figures.grid(len(edges))
        for ax, (kind, edge) in zip(axes, edges, strict=True):
            for row, style in zip(searches, ("-", "--", ":"), strict=False):
                logits = np.array([line[kind][edge] for line in row["alphas"]])
                weights = softmax(logits)
                steps = [line["step"] for line in row["alphas"]]
                for op in range(weights.shape[1]):
                    color = figures.COLORS[op % len(figures.COLORS)]
                    label = ops[op] if style == "-" else None
                    ax.plot(
                        steps, weights[:, op], style, color=color, lw=1.2, label=label
                    )
            ax.set(title=f"{kind}, edge {edge}", xlabel="step")
        axes[0].set_ylabel("weight of each operation")
        axes[0].legend(fontsize=6.5)
        return figures.svg(figure, "Architectures over time")


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
