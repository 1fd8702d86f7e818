"""Learners, training stages, validation: a learning skill as one pure step."""

from skillearn_jax.framework.checking import CheckReport, check
from skillearn_jax.framework.comparing import CompareReport, compare
from skillearn_jax.framework.gains import measure_gain, optimizer_gains
from skillearn_jax.framework.objective import Aux, Objective
from skillearn_jax.framework.phase import Phase
from skillearn_jax.framework.program import Program
from skillearn_jax.framework.stage import Learner, Stage, Validation
from skillearn_jax.framework.state import HypergradInfo, State

__all__ = [
    "Aux",
    "CheckReport",
    "CompareReport",
    "HypergradInfo",
    "Learner",
    "Objective",
    "Phase",
    "Program",
    "Stage",
    "State",
    "Validation",
    "check",
    "compare",
    "measure_gain",
    "optimizer_gains",
]
