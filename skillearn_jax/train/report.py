"""Writes the report of a run: one page that needs nothing but itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skillearn_jax.errors import InputError
from skillearn_jax.parallel import on_first
from skillearn_jax.paths import user_path
from skillearn_jax.train import exam_contents, report_figures, report_page
from skillearn_jax.train.json_files import fits, read_json, read_rows
from skillearn_jax.train.random_search import CANDIDATE, CANDIDATES, best_candidate
from skillearn_jax.train.report_confusion import HELDOUT_LIKE, confusion
from skillearn_jax.train.spaces import Cells, kind_of_cells, read_cells
from skillearn_jax.train.trained import kept_class_names

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Records:
    summary: Json
    config: Json
    genotype: Cells | None
    exam: Json | None
    candidates: Json | None  # of a random search, by name
    heldout: Json  # by network and seed
    class_names: Sequence[str]
    metrics: Sequence[Json]
    skipped: int  # unreadable lines of metrics.jsonl


def write_report(workdir: Path) -> Path:
    """Writes `report/index.html` and its figures, and returns the page's path.

    The page reads only what the run left in `workdir` and holds no time, size or path of
    its own: the same files give the same report, byte for byte. Parts that a run does
    not have (an evaluation, an exam, a genotype) are left out.

    Args:
        workdir: folder of a finished run; `summary.json` must be there.

    Raises:
        InputError: if the summary is missing or a file cannot be understood.
        StorageError: if the disk does not take the page; the old one is as it was.
    """
    workdir = user_path(workdir)
    records = _read(workdir)
    figures = _figures(records)
    page = report_page.render(
        summary=records.summary,
        config=records.config,
        figures=figures,
        files=_files(workdir),
        skipped=records.skipped,
    )
    return report_page.save(workdir, page, figures)


def report_by_first(workdir: Path) -> Path:
    """Writes the report of a run of several processes; see `write_report`."""
    return Path(on_first(lambda: str(write_report(workdir))))


def _figures(records: _Records) -> dict[str, report_page.Figure]:
    """Returns the figures by name, in the order of the page."""
    figures: dict[str, report_page.Figure] = {}
    if (cells := records.genotype) is not None:
        for name, (svg, text) in kind_of_cells(cells).figures(cells).items():
            caption = "The cell." if name == "cell" else f"The {name} cell."
            figures[name] = report_page.Figure(svg, caption, text)
    if (exam := records.exam) is not None:
        figures["exam"] = report_page.Figure(
            exam_contents.exam_svg(exam),
            exam_contents.exam_caption(exam),
            exam_contents.exam_text(exam, records.class_names),
        )
    figures |= _candidates(records)
    evaluation = records.summary.get("evaluation") or {}
    for name, curves, caption in (
        (
            "search",
            report_figures.search_curves(records.metrics),
            "Every metric of the search: each step faint (of more than "
            f"{report_figures.MAX_POINTS}, means of neighbours), the running mean bold. "
            "The warm-up, where there is one, is shaded.",
        ),
        (
            "errors",
            report_figures.error_dots(evaluation),
            "Held-out error of each network: one ring per seed, a disc for the mean."
            + _of_chance(evaluation.get("random") or {}),
        ),
        (
            "evaluation",
            report_figures.training_curves(records.metrics),
            "Training of the evaluated networks, mean over seeds: the first one in "
            "colour, the others grey.",
        ),
    ):
        if curves is not None:
            figures[name] = report_page.Figure(curves, caption)
    drawn = confusion(records.heldout, records.class_names)
    if drawn is not None:
        svg, caption = drawn
        figures["confusion"] = report_page.Figure(svg, caption)
    return figures


def _of_chance(random: Json) -> str:
    """Returns what the line and the band in the figure of the errors are, if there."""
    if random.get("mean") is None:
        return ""
    if random.get("std") is None:
        return " The line is the random cells' mean."
    return " The line and the band are the random cells' mean and standard deviation."


def _candidates(records: _Records) -> dict[str, report_page.Figure]:
    """Returns the figures of a random search."""
    if not records.candidates:
        return {}
    best = best_candidate(records.candidates)
    dots = report_figures.candidate_dots(records.candidates, best)
    figures = {
        "candidates": report_page.Figure(
            dots,
            "Validation error of the random cells after their short training; the line is "
            "the least so far, the disc the cell that was taken.",
        )
    }
    curves = report_figures.training_curves(records.metrics, "search", best)
    if curves is not None:
        figures["trainings"] = report_page.Figure(
            curves,
            "Their training: the cell that was taken in colour, the others grey.",
        )
    return figures


def _read(workdir: Path) -> _Records:
    summary = read_json(workdir / "summary.json", {})
    if summary is None:
        raise InputError(f"{workdir}: no summary.json; a report needs a finished run")
    genotype = read_json(workdir / "genotype.json", {}) or summary.get("genotype")
    lines, skipped = read_rows(workdir / "metrics.jsonl")
    metrics = [row for row in lines if fits(row, {"phase": "", "step": 0.0})]
    return _Records(
        summary=summary,
        config=read_json(workdir / "config.json", {}) or {},
        genotype=read_cells(genotype) if genotype else None,
        exam=read_json(workdir / exam_contents.EXAM, exam_contents.EXAM_LIKE),
        candidates=read_json(workdir / CANDIDATES, {"": CANDIDATE}),
        heldout=read_json(workdir / "heldout.json", HELDOUT_LIKE) or {},
        class_names=kept_class_names(workdir),
        metrics=metrics,
        skipped=skipped + len(lines) - len(metrics),
    )


def _files(workdir: Path) -> list[str]:
    return sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in workdir.iterdir()
        if path.name != "report" and not path.name.startswith(".")
    )
