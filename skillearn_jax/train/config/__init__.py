"""Floor 4: the configuration of a run as frozen, checked dataclasses, group by group."""

from skillearn_jax.train.config.benchmark import BenchmarkConfig
from skillearn_jax.train.config.curriculum import CurriculumConfig
from skillearn_jax.train.config.data import DataConfig
from skillearn_jax.train.config.evaluation import EvaluationConfig
from skillearn_jax.train.config.optimizers import AdamConfig, SgdConfig
from skillearn_jax.train.config.root import Config, default_config
from skillearn_jax.train.config.runtime import (
    CheckpointConfig,
    LoggingConfig,
    ParallelConfig,
)
from skillearn_jax.train.config.search import (
    HypergradConfig,
    LptConfig,
    SearchConfig,
    SpaceConfig,
    TesterConfig,
)
from skillearn_jax.train.config.tasks import InterleavingConfig

__all__ = [
    "AdamConfig",
    "BenchmarkConfig",
    "CheckpointConfig",
    "Config",
    "CurriculumConfig",
    "DataConfig",
    "EvaluationConfig",
    "HypergradConfig",
    "InterleavingConfig",
    "LoggingConfig",
    "LptConfig",
    "ParallelConfig",
    "SearchConfig",
    "SgdConfig",
    "SpaceConfig",
    "TesterConfig",
    "default_config",
]
