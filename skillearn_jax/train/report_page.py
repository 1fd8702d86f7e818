"""The page of a report: summary, figures and tables as one HTML text."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from flax.traverse_util import flatten_dict

from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES
from skillearn_jax.train.report_style import STYLE

_SKILLS = {
    "lpt": "learning by passing tests",
    "baseline": "plain differentiable search",
    "random": "random search",
    "interleaving": "interleaving learning",
    "joint": "joint learning of all tasks",
    "blocked": "interleaving learning in blocks",
    "sequential": "sequential fine-tuning",
    "evaluation": "evaluation of given cells",
}
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
    seed = f", seed {summary['seed']}" if "seed" in summary else ""
    task = str(summary.get("task", "run"))
    skill = _SKILLS.get(task, task)
    skill = skill[:1].upper() + skill[1:]
    title = f"{skill} on {summary.get('dataset', 'unknown data')}{seed}"
    settings = [
        (name, str(value))
        for name, value in flatten_dict(config.get("config") or {}, sep=".").items()
    ]
    about = [*_pairs({"device": config.get("device")}), *_pairs(config.get("versions"))]
    program = config.get("program")
    note = f"Skipped {skipped} unreadable line(s) of metrics.jsonl." if skipped else ""
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_story(summary))}</p></header>",
        _tiles(summary, evaluation),
        section("The derived cell", show(figures, "normal", "reduction", "cell")),
        section(
            "Search",
            show(figures, "search", "candidates", "trainings") + _paragraph(note),
        ),
        section("The exam", show(figures, "exam")),
        section(
            "Evaluation",
            _paragraph(evaluation.get("verdict"), "verdict")
            + "".join(map(_paragraph, (evaluation.get("comparisons") or {}).values()))
            + show(figures, "errors")
            + _evaluation_table(evaluation)
            + show(figures, "evaluation", "confusion"),
        ),
        section("The program", f"<pre>{escape(str(program))}</pre>" if program else ""),
        section("Configuration", table(("setting", "value"), settings, "settings")),
        section("Software", table(("name", "version"), about, "settings")),
        section("Files", _links(files, figures)),
    ]
    body = "\n".join(part for part in parts if part)
    return page(title, body)


def page(title: str, body: str) -> str:
    """Returns a page that needs nothing but itself, of a title and HTML."""
    return _PAGE.format(title=escape(title), style=STYLE, body=body)


def _story(summary: Mapping[str, Any]) -> str:
    """Returns what happened, in plain words."""
    task, search = str(summary.get("task", "")), summary.get("search") or {}
    evaluation = summary.get("evaluation") or {}
    searched = (
        f"A cell was searched on {summary.get('dataset', 'the data')} by "
        f"{_SKILLS.get(task, task or 'an unnamed skill')}"
        + _if(" for {epochs} epochs ({steps} steps)", search)
        + _if(" on {num_train:,} training images", summary)
        + "."
    )
    given = task == "evaluation"
    sentences = [] if given else [searched]
    if evaluation.get("rows"):
        first = evaluation["rows"][0]
        sentences.append(
            (
                f"A given cell was trained on {summary.get('dataset', 'the data')}"
                if given
                else "The network derived from it was then trained from scratch"
            )
            + _if(
                " for {epochs} epochs with {channels} channels and {cells} cells",
                evaluation,
            )
            + (f" and errs on {_error(first)} of" if _error(first) else " and tried on")
            + _if(" {num_heldout:,}", summary)
            + " held-out images."
        )
    chance = evaluation.get("random") or {}
    sentences.append(
        _if("The mean of {count} random cells, trained alike, is {mean:.2f} %.", chance)
    )
    return " ".join(sentence for sentence in sentences if sentence)


def _tiles(summary: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    search, table = summary.get("search") or {}, summary.get("benchmark") or {}
    rows = evaluation.get("rows") or [{}]
    compiling = _seconds(search.get("compile_s"))
    mobile = rows[0].get("mobile") or {}
    relation = "within" if mobile.get("kept") else "ABOVE"
    tiles = (
        (
            "held-out error",
            _if("{mean:.2f} %", rows[0]),
            _if("± {std:.2f} ", rows[0]) + _if("({num_seeds} seeds)", evaluation),
        ),
        (
            "tabulated test accuracy",
            _if("{benchmark/test_accuracy:.2f} %", table),
            _if(
                f"{{dataset}}, rank {{benchmark/test_rank:,.0f}} of {NUM_ARCHITECTURES:,}",
                table,
            ),
        ),
        (
            "tabulated validation accuracy",
            _if("{benchmark/val_accuracy:.2f} %", table),
            _if(
                f"{{dataset}}, rank {{benchmark/val_rank:,.0f}} of {NUM_ARCHITECTURES:,}",
                table,
            ),
        ),
        ("parameters", _count(summary.get("params")), "derived network"),
        ("multiply-adds", _count(summary.get("macs")), "per image"),
        (
            "multiply-adds at 224x224",
            _count(mobile.get("macs")),
            f"{relation} the mobile limit of {_count(mobile.get('limit'))}",
        ),
        (
            "search",
            _seconds(search.get("steps_s")),
            compiling and f"after {compiling} of compiling",
        ),
        ("whole run", _seconds(summary.get("wall_s")), "wall clock"),
        ("peak memory", _count(summary.get("peak_bytes"), "B"), ""),
    )
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in tiles
        if value
    )
    return f'<dl class="tiles">{items}</dl>' if items else ""


def _evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """Returns the derived network beside the random ones; errors in percent."""
    rows: list[tuple[str, ...]] = []
    for row in evaluation.get("rows") or ():
        errors = "  ".join(f"{error:.2f}" for error in row.get("errors") or ())
        size = (_count(row.get("params")), _count(row.get("macs")))
        rows.append((str(row.get("name", "")), *size, errors, _error(row)))
    if chance := evaluation.get("random"):
        rows.append((f"{chance.get('count')} random cells", "", "", "", _error(chance)))
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
    targets = [(f"../{name}", name) for name in files]
    targets += [(f"{name}.svg", f"report/{name}.svg") for name in figures]
    items = (
        f'<li><a href="{escape(target)}">{escape(name)}</a></li>'
        for target, name in targets
    )
    return f'<ul class="files">{"".join(items)}</ul>'


def section(title: str, content: str) -> str:
    """Returns a section of HTML; nothing without content."""
    return f"<section><h2>{title}</h2>\n{content}</section>" if content else ""


def _paragraph(text: object, kind: str = "note") -> str:
    return f'<p class="{kind}">{escape(str(text))}</p>' if text else ""


def _pairs(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in (values or {}).items() if value]


def _if(template: str, values: Mapping[str, Any]) -> str:
    """Returns the template filled in; nothing where a value is missing."""
    try:
        return template.format_map(values)
    except (KeyError, TypeError, ValueError):
        return ""


def _error(row: Mapping[str, Any]) -> str:
    spread = _if(" ± {std:.2f}", row)
    return _if("{mean:.2f}", row) and f"{row['mean']:.2f}{spread} %"


def _count(value: float | None, unit: str = "") -> str:
    """Returns a count in thousands: `31.2 k`, `1.23 M`."""
    if value is None:
        return ""
    size, prefixes = float(value), iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while abs(size) >= 999.5 and prefix != "P":
        size, prefix = size / 1000, next(prefixes)
    return f"{size:.3g} {prefix}{unit}".strip()


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
