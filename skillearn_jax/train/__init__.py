"""Runs: config, search, evaluation, checkpoints, report."""

from skillearn_jax.train.config import Config, default_config
from skillearn_jax.train.experiment import Result, run
from skillearn_jax.train.report import write_report

__all__ = ["Config", "Result", "default_config", "run", "write_report"]
