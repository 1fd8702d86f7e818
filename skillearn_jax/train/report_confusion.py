"""The confusion matrix of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from skillearn_jax.train import report_figures
from skillearn_jax.train.wording import counted

HELDOUT_LIKE = {
    "": {
        "": {
            "confusion": [[0.0]],
            "loss": 0.0,
            "top5_error": None,
            "calibration": 0.0,
        }
    }
}
"""What it reads in `heldout.json`: of each network, of each seed."""

_MOST_LABELS, _LONGEST_LABEL = 20, 12  # of classes; characters


def confusion(
    heldout: Mapping[str, Any], class_names: Sequence[str]
) -> tuple[str, str] | None:
    """Returns the first network's confusion matrix, all seeds, and a caption.

    Few classes have a label each: a name if all of them have short ones, else a number.
    """
    name, by_seed = next(iter(heldout.items()), ("", {}))
    trainings = list(by_seed.values())
    if not trainings:
        return None
    counts = np.sum([t["confusion"] for t in trainings], axis=0)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context({**report_figures.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        ax = figure.subplots()
        # A path for each of a million cells would be a page that nobody can open.
        many = len(counts) > _MOST_LABELS
        mesh = ax.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, rasterized=many)
        ax.invert_yaxis()
        if labels := _class_labels(class_names, len(counts)):
            middles = np.arange(len(counts)) + 0.5
            turned = 90 if max(map(len, labels)) > 2 else 0
            ax.set_xticks(middles, labels, rotation=turned, parse_math=False)
            ax.set_yticks(middles, labels, parse_math=False)
        ax.set(xlabel="predicted class", ylabel="class", title="Held-out images, %")
        figure.colorbar(mesh)
        drawn = report_figures.svg(figure, "Confusion matrix")
    words = [f"mean loss {np.mean([t['loss'] for t in trainings]):.3f}"]
    if all(t["top5_error"] is not None for t in trainings):
        words.insert(
            0, f"top-5 error {np.mean([t['top5_error'] for t in trainings]):.2f} %"
        )
    words.append(
        f"calibration error {np.mean([t['calibration'] for t in trainings]):.2f} %"
    )
    return drawn, (
        f"What {name} takes each class for, in per cent of its images, "
        f"{counted(len(trainings), 'seed')}; {', '.join(words)}."
    )


def _class_labels(names: Sequence[str], count: int) -> list[str]:
    if count > _MOST_LABELS:
        return []
    short = all(len(name) <= _LONGEST_LABEL and name.isprintable() for name in names)
    return list(names if short and len(names) == count else map(str, range(count)))
