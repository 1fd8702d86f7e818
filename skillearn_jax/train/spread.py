"""Floor 4: how far trainings lie apart, and what may be claimed of a difference."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    """Returns `mean` and `std`, the deviation of a sample; of one value there is none.

    Args:
        values: one or more.
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std}


def plus_minus(row: Mapping[str, Any]) -> str:
    """Returns `mean` and `std` as text, and the mean alone where there is no `std`."""
    spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
    return f"{row['mean']:.2f}{spread}"


def verdict(
    derived: Sequence[float],
    random: Sequence[float],
    whose: str = "the random cells' mean",
) -> str:
    """Returns one sentence on whether the derived cell beats others.

    A gain is claimed only if the intervals mean +- one standard deviation are apart, and
    not at all without at least three trainings on both sides, nor for means that are
    equal as they are printed.

    Args:
        derived: held-out errors in percent, one per seed.
        random: those of all random cells and seeds, or of another run's cells.
        whose: mean, in words.
    """
    difference = np.mean(random) - np.mean(derived)
    points = f"{abs(difference):.2f}"
    equal = points == "0.00"
    relation = "below" if difference > 0 else "above"
    text = "The derived cell's mean error " + (
        f"equals {whose} to two decimals"
        if equal
        else f"lies {points} points {relation} {whose}"
    )
    if min(len(derived), len(random)) < 3:
        return f"{text}; too few trainings to say whether that is more than chance."
    if equal:
        return f"{text}, so no difference is claimed."
    spread = np.std(derived, ddof=1) + np.std(random, ddof=1)
    if abs(difference) <= spread:
        return f"{text}; the intervals overlap, so no difference is claimed."
    return f"{text}; the intervals (one standard deviation) do not overlap."
