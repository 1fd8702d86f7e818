"""What a report says first: its title, what happened in plain words, the main numbers."""

from collections.abc import Mapping
from typing import Any

from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES
from skillearn_jax.train.wording import counted

Json = Mapping[str, Any]
Tile = tuple[str, str, str]  # name, value, detail

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
_NOUNS = {
    "epochs": "epoch",
    "steps": "step",
    "stages": "stage",
    "cells": "cell",
    "channels": "channel",
    "num_seeds": "seed",
    "num_train": "training image",
    "num_searched": "training image",
    "num_heldout": "held-out image",
    "count": "random cell",
}


def title_of(summary: Json) -> str:
    """Returns the title: what was done, on which data, with which seed."""
    seed = f", seed {summary['seed']}" if "seed" in summary else ""
    task = str(summary.get("task", "run"))
    skill = _SKILLS.get(task, task)
    skill = skill[:1].upper() + skill[1:]
    return f"{skill} on {summary.get('dataset', 'unknown data')}{seed}"


def story(summary: Json) -> str:
    """Returns what happened, in plain words; of several tasks each by itself."""
    task, data = str(summary.get("task", "")), str(summary.get("dataset", "the data"))
    given = task == "evaluation"
    all_tasks = summary.get("searched_on")  # of which this is one
    counts, sentences = _counts(summary), []
    search = summary.get("search") or {}
    searched = _counts(search)
    images = _if(" on {num_searched}", counts) or _if(" on {num_train}", counts)
    if not given:
        sentences.append(
            f"A cell was searched on {all_tasks or data} by "
            f"{_SKILLS.get(task, task or 'an unnamed skill')}"
            + _if(" for {epochs} ({steps})", searched)
            + _if(" in {stages}", searched)
            + ("" if all_tasks else images)
            + _if(", until the rule {stopped_by!r} ended it", search)
            + "."
        )
    for name, entry in evaluations(summary):
        name = name or (data if all_tasks else "")
        if given:
            subject = f"A given cell was trained on {name or data}"
        else:
            subject = "The network derived from it was then trained from scratch"
            subject += f" on {name}" if name else ""
        sentences += _evaluated(subject, f"On {name}, the" if name else "The", entry)
    return " ".join(sentences)


def _evaluated(subject: str, the: str, evaluation: Json) -> list[str]:
    """Returns what an evaluation on one data set has shown."""
    counts, sentences = _counts(evaluation), []
    if evaluation.get("rows"):
        row = evaluation["rows"][0]
        error = error_of(row)
        # In NAS-Bench-201 the number of cells is that of a stage.
        if "cells" in counts and "ops" in (row.get("genotype") or {}):
            counts["cells"] += " in each of three stages"
        sentences.append(
            subject
            + _if(" for {epochs} with {channels} and {cells}", counts)
            + (f" and errs on {error} of " if error else " and tried on ")
            + counts.get("num_heldout", "held-out images")
            + "."
        )
    chance = evaluation.get("random") or {}
    words = {**chance, **_counts(chance)}
    mean = _if(
        "{the} mean of {count}, trained alike, is {mean:.2f} %.", {**words, "the": the}
    )
    return [*sentences, mean] if mean else sentences


def tiles(summary: Json) -> list[Tile]:
    """Returns the main numbers of a run, those that are known."""
    search, table = summary.get("search") or {}, summary.get("benchmark") or {}
    if not search.get("steps"):  # as of given cells
        search = {}
    compiling = duration(search.get("compile_s"))
    found = [
        *(
            tile
            for name, entry in evaluations(summary)
            for tile in _of_one(name, entry)
        ),
        *(
            _tabulated(table, *names)
            for names in (("test", "test"), ("val", "validation"))
        ),
        (
            "search",
            duration(search.get("steps_s")),
            compiling and f"after {compiling} of compiling",
        ),
        ("whole run", duration(summary.get("wall_s")), "wall clock"),
        ("peak memory", count(summary.get("peak_bytes"), "B"), "of the host"),
    ]
    return [tile for tile in found if tile[1]]


def _of_one(name: str, evaluation: Json) -> list[Tile]:
    """Returns the numbers of the derived network on one data set; named, of a task."""
    on = f" on {name}" if name else ""
    row = (evaluation.get("rows") or [{}])[0]
    counts, mobile = _counts(evaluation), row.get("mobile") or {}
    relation = "within" if mobile.get("kept") else "ABOVE"
    trained = ", ".join(counts[k] for k in ("num_seeds", "num_heldout") if k in counts)
    return [
        (
            f"held-out error{on}",
            _if("{mean:.2f} %", row),
            _if("± {std:.2f} ", row) + (f"({trained})" if trained else ""),
        ),
        (f"parameters{on}", count(evaluation.get("params")), "derived network"),
        (f"multiply-adds{on}", count(evaluation.get("macs")), "per image"),
        (
            f"multiply-adds at 224x224{on}",
            count(mobile.get("macs")),
            f"{relation} the mobile limit of {count(mobile.get('limit'))}",
        ),
    ]


def _tabulated(table: Json, name: str, words: str) -> Tile:
    rank = f"rank {{benchmark/{name}_rank:,.0f}} of {NUM_ARCHITECTURES:,}"
    return (
        f"tabulated {words} accuracy",
        _if(f"{{benchmark/{name}_accuracy:.2f}} %", table),
        _if(f"{{dataset}}, {rank}", table),
    )


def evaluations(summary: Json) -> list[tuple[str, Json]]:
    """Returns the evaluations with the sizes of their networks and of their data.

    Those of several tasks by their names; that on one data set has none.
    """
    evaluation = summary.get("evaluation") or {}
    if not (tasks := evaluation.get("tasks")):
        sizes = {name: summary.get(name) for name in ("params", "macs", "num_heldout")}
        return [("", {**evaluation, **sizes})]
    found: list[tuple[str, Json]] = []
    for name, entry in tasks.items():
        row = (entry.get("rows") or [{}])[0]
        sizes = {size: row.get(size) for size in ("params", "macs")}
        found.append((name, {**entry, **sizes}))
    return found


def _counts(values: Json) -> dict[str, str]:
    """Returns the numbers of things among the values, in words."""
    return {
        name: counted(values[name], noun)
        for name, noun in _NOUNS.items()
        if isinstance(values.get(name), int)
    }


def _if(template: str, values: Json) -> str:
    """Returns the template filled in; nothing where a value is missing."""
    try:
        return template.format_map(values)
    except (KeyError, TypeError, ValueError):
        return ""


def error_of(row: Json) -> str:
    """Returns mean and deviation of an error in percent; nothing where it has none."""
    mean = _if("{mean:.2f}", row)
    return mean and f"{mean}{_if(' ± {std:.2f}', row)} %"


def count(value: float | None, unit: str = "") -> str:
    """Returns a count in thousands: `31.2 k`, `1.23 M`."""
    if value is None:
        return ""
    size, prefixes = float(value), iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while abs(size) >= 999.5 and prefix != "P":
        size, prefix = size / 1000, next(prefixes)
    return f"{size:.3g} {prefix}{unit}".strip()


def duration(value: float | None) -> str:
    """Returns a time; nothing for none."""
    if value is None:
        return ""
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
