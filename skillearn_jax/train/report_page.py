"""The page of a report: summary, figures and tables as one HTML text."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flax.traverse_util import flatten_dict

from skillearn_jax.train.json_files import fits, write_text
from skillearn_jax.train.report_style import STYLE
from skillearn_jax.train.report_summary import (
    count,
    error_of,
    evaluations,
    story,
    tiles,
    title_of,
)
from skillearn_jax.train.wording import counted

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing with its caption and, where there is one, the same thing as text."""

    svg: str
    caption: str
    text: str = ""


def render(
    *,
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    figures: Mapping[str, Figure],
    files: Sequence[str],
    skipped: int,
) -> str:
    """Returns the page.

    Args:
        summary: what `summary.json` holds.
        config: what `config.json` holds; may be empty.
        figures: by name, which is also the name of the figure's file.
        files: names in the run's folder; folders end in a slash.
        skipped: number of unreadable lines of metrics.
    """
    evaluation = summary.get("evaluation") or {}
    title, given = title_of(summary), summary.get("task") == "evaluation"
    before = _before(config.get("changes"))
    settings = [
        (name, f"{value}{before.get(f'config.{name}', '')}")
        for name, value in flatten_dict(config.get("config") or {}, sep=".").items()
    ]
    software = {"device": config.get("device"), **(config.get("versions") or {})}
    about = [(k, f"{v}{before.get(k, '')}") for k, v in software.items() if v]
    program = config.get("program")
    note = f"Skipped {skipped} unreadable line(s) of metrics.jsonl." if skipped else ""
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(story(summary))}</p></header>",
        _tiles(summary),
        section(
            "The given cell" if given else "The derived cell",
            show(figures, "normal", "reduction", "cell")
            + "".join(map(paragraph, summary.get("caveats") or ())),
        ),
        section(
            "Search",
            show(figures, "search", "candidates", "trainings") + paragraph(note),
        ),
        section("The exam", show(figures, "exam")),
        section(
            "Evaluation",
            paragraph(evaluation.get("verdict"), "verdict")
            + "".join(map(paragraph, (evaluation.get("comparisons") or {}).values()))
            + show(figures, "errors")
            + _evaluation_table(summary)
            + show(figures, "evaluation", "confusion"),
        ),
        section("The program", f"<pre>{escape(str(program))}</pre>" if program else ""),
        section("Configuration", table(("setting", "value"), settings, "settings")),
        section("Software", table(("name", "version"), about, "settings")),
        section("Files", _links(files, figures)),
    ]
    return page(title, parts)


def page(title: str, parts: Sequence[str]) -> str:
    """Returns a page that needs nothing but itself, of parts in HTML; some may be empty."""
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=escape(title), style=STYLE, body=body)


def save(workdir: Path, html: str, figures: Mapping[str, Figure]) -> Path:
    """Writes `report/index.html` and its figures; returns the page's path."""
    folder = workdir / "report"
    for name, figure in figures.items():
        write_text(folder / f"{name}.svg", figure.svg)
    path = folder / "index.html"
    write_text(path, html)
    return path


def _tiles(summary: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{escape(name)}</dt>"
        f"<dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in tiles(summary)
    )
    return f'<dl class="tiles">{items}</dl>' if items else ""


def _evaluation_table(summary: Mapping[str, Any]) -> str:
    """Returns the derived network beside the random ones; errors in percent."""
    rows: list[tuple[str, ...]] = []
    for row in (summary.get("evaluation") or {}).get("rows") or ():
        errors = "  ".join(f"{error:.2f}" for error in row.get("errors") or ())
        size = (count(row.get("params")), count(row.get("macs")))
        rows.append((str(row.get("name", "")), *size, errors, error_of(row)))
    for task, evaluation in evaluations(summary):
        if chance := evaluation.get("random"):
            name = counted(chance.get("count") or 0, "random cell")
            name += f" on {task}" if task else ""
            rows.append((name, "", "", "", error_of(chance)))
    columns = ("network", "parameters", "multiply-adds", "each seed, %", "error ± std")
    return table(columns, rows, "results")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """Returns a table of text; nothing without rows. The first column is its head."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def show(figures: Mapping[str, Figure], *names: str) -> str:
    """Returns those of the figures that there are."""
    return "".join(_figure(figures[name], name) for name in names if name in figures)


def _figure(figure: Figure, name: str) -> str:
    text = (
        f"<details><summary>as text</summary><pre>{escape(figure.text)}</pre></details>"
        if figure.text
        else ""
    )
    return (
        f'<figure id="{name}"><div class="wide">{figure.svg}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption>{text}</figure>"
    )


def _links(files: Sequence[str], figures: Mapping[str, Figure]) -> str:
    targets = [(f"../{quote(os.fsencode(name))}", name) for name in files]
    targets += [(f"{name}.svg", f"report/{name}.svg") for name in figures]
    items = (
        f'<li><a href="{escape(target)}">{escape(name)}</a></li>'
        for target, name in targets
    )
    return f'<ul class="files">{"".join(items)}</ul>'


def section(title: str, content: str) -> str:
    """Returns a section of HTML; nothing without content."""
    return f"<section><h2>{title}</h2>\n{content}</section>" if content else ""


def paragraph(text: object, kind: str = "note") -> str:
    """Returns a paragraph of HTML; nothing without a text."""
    return f'<p class="{kind}">{escape(str(text))}</p>' if text else ""


def _before(changes: Any) -> dict[str, str]:
    """Returns by name what a run that went on had before, to stand behind what it has."""
    olds: dict[str, list[str]] = {}
    for change in changes if fits(changes, [{"": [None]}]) else ():
        for name, old_and_new in change.items():
            olds.setdefault(name, []).extend(map(str, old_and_new[:1]))
    return {name: f" (before: {', '.join(each)})" for name, each in olds.items()}
