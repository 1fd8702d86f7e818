"""The curves of a report, as SVG that is reproducible and fits light and dark pages."""

import io
import itertools
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from skillearn_jax.nas.draw import xml_text
from skillearn_jax.train.events import LABELS

Row = Mapping[str, Any]
Points = dict[float, list[float]]  # x: the values there
_Panel = tuple[str, str]  # prefix of its metrics, and kind

# Stands for the page's own text colour until the SVG is written.
_INK = "#010203"
COLORS = ("#3b7df0", "#e07b2e", "#2c9f68", "#a566dd", "#d64f7c", "#8a94a6")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "skillearn_jax",
    "svg.fonttype": "none",
    "path.simplify": True,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), _INK
    ),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), _INK),
}
_LEGEND_COLUMNS = 3
# Metrics of one prefix share a panel if they measure the same kind of thing.
_KINDS = (
    ("loss", "loss"),
    ("objective", "loss"),
    ("interaction", "loss"),
    ("accuracy", "share"),
    ("error", "share"),
    ("size", "size"),
    ("hardness", "hardness"),
    ("capacity", "share"),
    ("passed", "share"),
    ("passes", "count"),
)
MAX_POINTS = 400
"""Of a curve; steps beyond are drawn as means of neighbours."""
_LOG_RATIO = 30.0


def search_curves(rows: Iterable[Row]) -> str | None:
    """Returns all metrics of the search over its steps; None if there are none.

    The steps of warm-ups are shaded.
    """
    panels, warmups = _collected(rows)
    if not panels:
        return None
    # Neighbours by subject, subjects in order of appearance.
    subjects = list(dict.fromkeys(prefix.split("/")[0] for prefix, _ in panels))
    order = sorted(panels, key=lambda panel: subjects.index(panel[0].split("/")[0]))
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels))
        for ax, panel in zip(axes, order, strict=True):
            series = panels[panel]
            for begin, end in warmups:
                ax.axvspan(begin, end, color=_INK, alpha=0.06, linewidth=0)
            for index, (name, points) in enumerate(series.items()):
                color = COLORS[index % len(COLORS)]
                label: str | None = _plain(name.rpartition("/")[2])
                for part in _unbroken(points, warmups):
                    most = math.ceil(MAX_POINTS * len(part) / len(points))
                    _curve(ax, part, label, color, most)
                    label = None  # once in the legend
            _finish(ax, panel[0], list(series))
        return svg(figure, "Metrics of the search")


def training_curves(
    rows: Iterable[Row], phase: str = "evaluate", chosen: str = ""
) -> str | None:
    """Returns the training of a phase's networks; None if there was none.

    Args:
        rows: of metrics.jsonl.
        phase: `evaluate`, or the `search` of a random search.
        chosen: name of the network in colour; by default the first.
    """
    panels: dict[str, dict[str, Points]] = defaultdict(dict)
    for row in rows:
        if row.get("phase") == phase and "network" in row:
            network = str(row["network"])
            for name, value in _metrics(row):
                points = panels[name].setdefault(network, {})
                points.setdefault(float(row.get("step", 0)), []).append(value)
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels))
        for ax, (name, networks) in zip(axes, panels.items(), strict=True):
            front = chosen if chosen in networks else next(iter(networks))
            # The one in colour last, above the others.
            for network in sorted(networks, key=lambda name: name == front):
                points = networks[network]
                xs = sorted(points)
                color, width = COLORS[-1], 1.0
                if network == front:
                    color, width = COLORS[0], 2.0
                means = [np.mean(points[x]) for x in xs]
                ax.plot(xs, means, color=color, lw=width, marker=_marker(xs))
            unit = ", %" if name.endswith("error") else ""
            _finish(ax, name.replace("_", " ") + unit, [])
        return svg(figure, "Training of the networks")


def candidate_dots(candidates: Mapping[str, Row], chosen: str) -> str:
    """Returns the validation error of each candidate, and the least one so far."""
    errors = [row["error"] for row in candidates.values()]
    places = np.arange(1, len(errors) + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.6), layout="constrained")
        ax = figure.subplots()
        least = np.minimum.accumulate(errors)
        ax.step(places, least, where="post", color=COLORS[0], lw=1.4)
        ax.plot(places, errors, "o", ms=5, mfc="none", mec=COLORS[-1])
        place = list(candidates).index(chosen)
        ax.plot([places[place]], [errors[place]], "o", ms=8, color=COLORS[0])
        ax.set(xlabel="random cell, as drawn", ylabel="validation error, %")
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        return svg(figure, "Validation error of every candidate")


def error_dots(evaluation: Row) -> str | None:
    """Returns the held-out errors, a line of dots for each network; None without any."""
    rows = [row for row in evaluation.get("rows", ()) if row.get("errors")]
    if not rows:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.75 + 0.3 * len(rows)), layout="constrained")
        ax = figure.subplots()
        chance = evaluation.get("random") or {}
        if (mean := chance.get("mean")) is not None:
            spread = chance.get("std") or 0.0
            ax.axvspan(
                mean - spread, mean + spread, color=_INK, alpha=0.07, linewidth=0
            )
            ax.axvline(mean, color=_INK, alpha=0.5, linewidth=1, linestyle=(0, (4, 3)))
        for height, row in enumerate(rows):
            # Of several tasks, each has a derived network.
            derived = row["name"] in ("derived", f"derived on {row.get('task')}")
            color = COLORS[0] if derived else COLORS[-1]
            errors = row["errors"]
            ax.plot(errors, [height] * len(errors), "o", ms=5, mfc="none", mec=color)
            ax.plot([np.mean(errors)], [height], "o", ms=8, color=color)
        names = [xml_text(str(row["name"])) for row in rows]
        ax.set_yticks(range(len(rows)), names, parse_math=False)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel("held-out error, %")
        ax.grid(False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        return svg(figure, "Held-out error of every evaluated network")


def _collected(
    rows: Iterable[Row],
) -> tuple[dict[_Panel, dict[str, Points]], list[tuple[float, float]]]:
    """Returns the curves of a search by panel, and where its warm-ups begin and end.

    A step has several rows, of different metrics. Of a metric that a step has twice, in a
    run that was stopped and has gone on, the later one counts. A search in stages has
    several warm-ups.
    """
    panels: dict[_Panel, dict[str, Points]] = {}
    phases: dict[float, str] = {}
    for row in rows:
        if row["phase"] == "evaluate" or "network" in row:
            continue
        step = float(row["step"])
        phases[step] = row["phase"]
        for name, value in _metrics(row):
            curves = panels.setdefault(_panel(name), {})
            curves.setdefault(name, {})[step] = [value]
    warmups, begin = [], 0.0
    for phase, steps in itertools.groupby(sorted(phases), key=phases.__getitem__):
        end = list(steps)[-1]
        if phase == "warmup":
            warmups.append((begin, end))
        begin = end
    return panels, warmups


def _metrics(row: Row) -> list[tuple[str, float]]:
    return [
        (name, float(value))
        for name, value in row.items()
        if name not in LABELS
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    ]


def _panel(name: str) -> _Panel:
    prefix, _, leaf = name.rpartition("/")
    return prefix, next((kind for part, kind in _KINDS if part in leaf), "")


def _unbroken(points: Points, warmups: Sequence[tuple[float, float]]) -> list[Points]:
    """Returns a curve in parts: no line is drawn across a warm-up that has none of it."""
    parts: list[Points] = []
    before = math.inf
    for x in sorted(points):
        if not parts or any(before <= begin and end < x for begin, end in warmups):
            parts.append({})
        parts[-1][x] = points[x]
        before = x
    return parts


def _curve(ax: Axes, points: Points, label: str | None, color: str, most: int) -> None:
    """Draws a curve, of more than `most` points by means of neighbours."""
    x = np.array(sorted(points))
    y = np.array([points[step][0] for step in x])
    bins = np.array_split(np.arange(len(x)), min(len(x), most))
    x = np.array([x[index].mean() for index in bins])
    y = np.array([y[index].mean() for index in bins])
    window = max(1, len(y) // 20)
    counts = np.convolve(np.ones_like(y), np.ones(window), mode="same")
    smooth = np.convolve(y, np.ones(window), mode="same") / counts
    if window > 1:
        ax.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
    ax.plot(x, smooth, color=color, linewidth=1.7, label=label, marker=_marker(x))


def _marker(x: Sequence[float] | np.ndarray) -> str:
    """Returns a line's marker: a dot where there is no line, of one point."""
    return "o" if len(x) == 1 else ""


def _finish(ax: Axes, prefix: str, names: Sequence[str]) -> None:
    """Gives a panel of curves over steps its title, legend and, if wide, a log scale."""
    title = prefix or "run"
    if len(names) == 1:
        title = names[0]
    elif names:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=_LEGEND_COLUMNS,
            borderaxespad=0,
            handlelength=1.1,
            columnspacing=1.0,
            borderpad=0.2,
        )
    legend_rows = -(-len(names) // _LEGEND_COLUMNS)
    ax.set_title(_plain(title), pad=8 + 12 * max(1, legend_rows))
    values = np.concatenate([np.asarray(line.get_ydata()) for line in ax.lines])
    if values.min() > 0 and values.max() / values.min() > _LOG_RATIO:
        ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.margins(x=0.01)
    whole = matplotlib.ticker.MaxNLocator(5, integer=True, min_n_ticks=1)
    ax.xaxis.set_major_locator(whole)


def grid(count: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure of so many panels, at most three in a row."""
    columns = min(3, count)
    height = math.ceil(count / columns)
    size = (3.5 * columns, 2.35 * height)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=size, layout=layout)
    axes = [figure.add_subplot(height, columns, index + 1) for index in range(count)]
    return figure, axes


def _plain(text: str) -> str:
    """Returns text that matplotlib prints as it is, dollar signs and all."""
    return xml_text(text).replace("$", r"\$").lstrip("_") or "?"


def svg(figure: Figure, title: str) -> str:
    """Returns a figure as SVG: the same bytes each time, for light and dark pages."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # It measures names in a font of its own; the page has those of the browser.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = text.replace("xlink:href", "href").replace(_INK, "currentColor")
    text = text.replace("*{", ".plot *{", 1)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    # Names of groups, which nothing refers to, would repeat on a page of many figures.
    text = re.sub(r'<g id="[\w.]+_\d+">', "<g>", text)
    dark = "@media screen and (prefers-color-scheme: dark) { .plot { color: #dfe4ee } }"
    return text.replace(
        "<svg", f'<svg class="plot" role="img" aria-label="{title}"', 1
    ).replace(
        ">",
        f">\n<title>{title}</title>\n<style>.plot {{ color: #1d2430 }} {dark}</style>",
        1,
    )
