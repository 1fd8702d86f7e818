"""Floor 4: a search in stages: ever deeper supernets over ever fewer candidates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from skillearn_jax.errors import InputError
from skillearn_jax.nas import drop_candidates
from skillearn_jax.nas.ops import KERNEL_SIZES
from skillearn_jax.nas.space import CELL_KINDS
from skillearn_jax.train.config import Config
from skillearn_jax.train.fields import as_flag
from skillearn_jax.train.workdir import Workdir

STAGES = "stages.json"
"""What each stage has left: for a person to read; a run goes on from its checkpoint."""


@dataclasses.dataclass(frozen=True)
class SearchStage:
    """One supernet of a search, of which P-DARTS has three and others one.

    Attributes:
        index: from 0.
        space: candidates on every edge.
        cells: depth of the supernet.
        skip_dropout: rate of dropout after skips at the start.

    References:
        Chen et al. 2019 (P-DARTS), arXiv 1904.12760.
    """

    index: int
    space: Any
    cells: int
    skip_dropout: float = 0.0


def search_stage(config: Config, index: int, space: Any) -> SearchStage:
    """Returns a stage of a config, over a space."""
    search = config.search
    if not search.stage_cells:
        return SearchStage(index, space, search.cells)
    return SearchStage(
        index, space, search.stage_cells[index], search.stage_skip_dropout[index]
    )


def check_stages(config: Config) -> None:
    """Raises `InputError` for stages that do not fit together."""
    search = config.search
    for name in ("stage_candidates", "stage_skip_dropout"):
        given = getattr(search, name)
        if len(given) != len(search.stage_cells):
            raise InputError(
                f"config.search.{name} is {given}; it must have as many entries as "
                f"config.search.stage_cells, {search.stage_cells}: set "
                f"--config.search.{name}"
            )
    counts, num_ops = search.stage_candidates, len(config.space.ops)
    if counts and (counts[0] != num_ops or counts != tuple(sorted(counts)[::-1])):
        raise InputError(
            f"config.search.stage_candidates is {counts}; it must begin with {num_ops}, "
            "the operations of the space, and not rise: set "
            "--config.search.stage_candidates"
        )
    if any(search.stage_skip_dropout) and "skip_connect" not in config.space.ops:
        none = as_flag("config.search.stage_skip_dropout", (0.0,) * len(counts))
        raise InputError(
            f"config.search.stage_skip_dropout is {search.stage_skip_dropout}, but "
            "config.space.ops has no skip_connect to drop elements after: set "
            f"{none}, or more --config.space.ops"
        )
    if counts and counts[-1] < 2 and not config.space.edge_normalization:
        raise InputError(
            f"config.search.stage_candidates ends with {counts[-1]}, a candidate whose "
            "weight is 1 whatever the logits are; it must end with 2 or more: set "
            "--config.search.stage_candidates"
        )
    # Of three candidates one is neither a skip nor nothing.
    if counts and counts[-1] < 3 and search.max_skips >= 0:
        raise InputError(
            f"config.search.stage_candidates ends with {counts[-1]}; with max_skips it "
            "must end with 3 or more: set --config.search.max_skips=-1"
        )


def never_settles(config: Config, stage: SearchStage) -> bool:
    """Returns whether a ranking is waited for that the stages have left nothing of.

    It would stand from the first epoch on. A whole space without one is refused.
    """
    if config.search.stop != "ranking" or not config.search.stage_cells:
        return False
    edges = (ops for kind in CELL_KINDS for ops in stage.space.edge_ops(kind))
    return all(sum(op in KERNEL_SIZES for op in ops) < 2 for ops in edges)


def next_space(
    config: Config, stage: SearchStage, alphas: Mapping[str, Any], workdir: Workdir
) -> Any:
    """Returns the space of the stage that follows, and notes it in the workdir."""
    keep = config.search.stage_candidates[stage.index + 1]
    space = drop_candidates(alphas, stage.space, keep)
    known = [stage.space, space] if stage.index else [space]
    before = stage.index + 1 - len(known)
    # Each in its place, also where the file was lost.
    noted = [*(workdir.read_json(STAGES, []) or []), *[None] * before][:before]
    workdir.write_json(STAGES, [*noted, *map(_candidates, known)])
    return space


def note_stage(stage: SearchStage) -> dict[str, Any]:
    """Returns what a checkpoint keeps of a stage; JSON."""
    if stage.index == 0:  # whose candidates are those of the config
        return {"stage": 0}
    return {"stage": stage.index, "candidates": _candidates(stage.space)}


def noted_stage(config: Config, note: Mapping[str, Any]) -> tuple[int, Any]:
    """Returns the index and the space of the stage that a checkpoint was taken in."""
    space = config.space.build()
    if note["stage"] == 0:
        return 0, space
    normal, reduction = (tuple(map(tuple, note["candidates"][k])) for k in CELL_KINDS)
    return note["stage"], dataclasses.replace(space, normal=normal, reduction=reduction)


def _candidates(space: Any) -> dict[str, Any]:
    return {kind: space.edge_ops(kind) for kind in CELL_KINDS}
