"""Floor 4: what a run has found, in `summary.json` and on the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from skillearn_jax.train.config import Config
from skillearn_jax.train.console import Console
from skillearn_jax.train.images import OneSet
from skillearn_jax.train.spaces import Cells
from skillearn_jax.train.spread import plus_minus
from skillearn_jax.train.wording import counted


def summary_of(config: Config, sets: Sequence[OneSet], cells: Cells) -> dict[str, Any]:
    """Returns what a summary says before any evaluation.

    Args:
        config: of the run.
        sets: the data sets, one or several.
        cells: derived or given.
    """
    part: dict[str, Any] = {}
    if config.data.per_class and not config.genotype:  # what the search received
        classes = sum(each.num_classes for each in sets)
        part["num_searched"] = classes * sum(config.data.per_class)
    notes = caveats(config)
    return {
        "task": "evaluation" if config.genotype else config.skill,
        "dataset": " and ".join(each.name for each in sets),
        "seed": config.seed,
        "num_train": sum(each.num_train for each in sets),
        **part,
        "num_heldout": sum(each.num_heldout for each in sets),
        "genotype": cells.to_json(),
        **({"caveats": notes} if notes else {}),
    }


def caveats(config: Config) -> list[str]:
    """Returns what networks of one or two cells cannot tell, in sentences.

    In DARTS's space these are reduction cells: no loss reads the logits of the normal
    cell, and Adam makes its steps of what weight decay leaves of their noise.
    """
    search, evaluation = config.search, config.evaluation
    key = "stage_cells" if search.stage_cells else "cells"
    networks = {}
    if not config.genotype:
        networks[f"search.{key}"] = (
            search.stage_cells or (search.cells,),
            "what the search decides of it there, its skips included, is chance",
        )
    if evaluation.epochs:
        networks["evaluation.cells"] = (evaluation.cells,), "errors say nothing of it"
    return [
        f"config.{name} is {', '.join(map(str, depths))}: networks of fewer than 3 cells "
        f"have no normal cell, so {text}."
        for name, (depths, text) in networks.items()
        if config.space.name == "darts" and min(depths) < 3
    ]


def evaluated(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an evaluation adds to a summary: itself and the sizes of its first."""
    first = evaluation["rows"][0]
    sizes = {name: first[name] for name in ("params", "macs")}
    return {"evaluation": evaluation, **sizes}


def print_evaluation(console: Console, evaluation: Mapping[str, Any]) -> None:
    """Prints the errors of all networks and what may be claimed of them.

    Args:
        console: to print on.
        evaluation: entry of a summary.
    """
    seeds = counted(evaluation["num_seeds"], "seed")
    console.table(
        f"error on held-out images, {counted(evaluation['epochs'], 'epoch')}, {seeds}",
        ("cells", "parameters", "multiply-adds", "error %"),
        [
            (row["name"], row["params"], row["macs"], plus_minus(row))
            for row in evaluation["rows"]
        ],
    )
    for row in evaluation["rows"]:
        if mobile := row.get("mobile"):
            relation = "within" if mobile["kept"] else "ABOVE"
            console.message(
                f"{row['name']}: {mobile['macs'] / 1e6:.0f}M multiply-adds at 224x224, "
                f"{relation} the mobile limit of {mobile['limit'] / 1e6:.0f}M"
            )
    if random := evaluation.get("random"):
        console.message(
            f"random cells: {plus_minus(random)} % "
            f"({counted(random['count'], 'cell')} x {seeds})"
        )
    for text in claims(evaluation):
        console.message(text)


def claims(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns what may be claimed of the errors: of random cells, then of each rival's."""
    texts = (evaluation.get("verdict"), *evaluation.get("comparisons", {}).values())
    return [text for text in texts if text]
