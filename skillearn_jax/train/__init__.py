"""Runs: config, search, evaluation, checkpoints, report."""

from skillearn_jax.train.comparison import Comparison, run_comparison
from skillearn_jax.train.config import Config, default_config
from skillearn_jax.train.config.compare import CompareConfig, compare_config
from skillearn_jax.train.experiment import Result, run
from skillearn_jax.train.report import write_report
from skillearn_jax.train.trained import Classifier, Trained, load

__all__ = [
    "Classifier",
    "CompareConfig",
    "Comparison",
    "Config",
    "Result",
    "Trained",
    "compare_config",
    "default_config",
    "load",
    "run",
    "run_comparison",
    "write_report",
]
