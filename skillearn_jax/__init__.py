"""Human learning skills as differentiable multilevel optimisation in JAX.

The three layers that a notebook composes:

- `one_step`: an optimiser step that exact gradients flow through;
- `Stage`, `Validation`, `Program`: a learning skill as one pure step;
- `learning_by_passing_tests`, `interleaving_learning`, and what they are compared with,
  `baseline` and `joint_learning`: skills, assembled from those.

`run(config, workdir)` is the whole chain from images to a report, and `load(workdir)` the
network that it has trained, as a function. The other rooms are
`skillearn_jax.nas`, `.data`, `.models`, `.parallel` and `.train`.
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

from skillearn_jax.errors import InputError, NonFiniteError
from skillearn_jax.framework import (
    Aux,
    Learner,
    Phase,
    Program,
    Stage,
    State,
    Validation,
    compare,
)
from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FirstOrder,
    FixedPoint,
    Neumann,
    Steps,
    at_solution,
    central_difference,
    mixed_hvp,
    one_step,
    unroll,
)
from skillearn_jax.skills import (
    LearnerModel,
    TaskModel,
    TesterModel,
    baseline,
    interleaving_learning,
    joint_learning,
    learning_by_passing_tests,
)

if TYPE_CHECKING:
    from skillearn_jax.train import Config, default_config, load, run

__version__ = metadata.version("skillearn-jax")

__all__ = [
    "Autodiff",
    "Aux",
    "Config",
    "ConjugateGradient",
    "Exact",
    "FiniteDifference",
    "FirstOrder",
    "FixedPoint",
    "InputError",
    "Learner",
    "LearnerModel",
    "Neumann",
    "NonFiniteError",
    "Phase",
    "Program",
    "Stage",
    "State",
    "Steps",
    "TaskModel",
    "TesterModel",
    "Validation",
    "at_solution",
    "baseline",
    "central_difference",
    "compare",
    "default_config",
    "interleaving_learning",
    "joint_learning",
    "learning_by_passing_tests",
    "load",
    "mixed_hvp",
    "one_step",
    "run",
    "unroll",
]


def __getattr__(name: str) -> Any:
    """Imports the launcher's floor on demand: a notebook may do without networks."""
    if name in ("Config", "default_config", "load", "run"):
        from skillearn_jax import train

        return getattr(train, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
