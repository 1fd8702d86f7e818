"""Floor 4: what the progress bar of a search shows of its metrics."""

from skillearn_jax.framework.graph import VALIDATION
from skillearn_jax.train.loop import StepMetrics

_SHOWN = {
    "objective": "validation/objective",
    "exam": "validation/exam_loss",
    "tester acc": "validation/tester_accuracy",
    "|dA|": "hypergrad/alphas/norm",
    "|dC|": "hypergrad/creator/norm",
}
"""What the progress bar shows after the training loss, where a run has it."""


def shown(metrics: StepMetrics) -> StepMetrics:
    """Returns what the progress bar shows; `loss` is the learner's, or all stages' mean."""
    losses = {
        name.removesuffix("/loss"): value
        for name, value in metrics.items()
        if name.endswith("/loss") and name != f"{VALIDATION}/loss"
    }
    rest = {label: metrics[name] for label, name in _SHOWN.items() if name in metrics}
    if not losses:
        return rest
    mean = sum(losses.values()) / len(losses)
    return {"loss": losses.get("learner", mean), **rest}
