"""The config of a run: defaults, checks, and the way there and back."""

import dataclasses
import inspect

import pytest
from ml_collections import ConfigDict

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Exact, FiniteDifference, FirstOrder
from skillearn_jax.nas import DARTS_OPS
from skillearn_jax.skills import (
    Curriculum,
    interleaving_learning,
    learning_by_passing_tests,
)
from skillearn_jax.skills.tasks import interleaved
from skillearn_jax.train import Config, default_config
from skillearn_jax.train.build_tasks import schedule_of
from skillearn_jax.train.checks import check
from skillearn_jax.train.config import CurriculumConfig, HypergradConfig


def leaves(kind, path="config"):
    """Yields `(path, field)` of every value of a config dataclass."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.default):
            yield from leaves(type(field.default), f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", field


def test_defaults_are_those_of_darts():
    config = Config.parse(default_config())
    assert config == Config()
    assert config.space.ops == DARTS_OPS
    search, evaluation = config.search, config.evaluation
    assert (search.cells, search.channels, search.epochs) == (8, 16, 50)
    assert (evaluation.cells, evaluation.channels, evaluation.epochs) == (20, 36, 600)
    assert (search.weights.lr, search.weights.min_lr) == (0.025, 0.001)
    assert (search.weights.momentum, search.weights.weight_decay) == (0.9, 3e-4)
    assert (search.weights.clip, config.data.train_fraction) == (5.0, 0.5)
    assert (search.alphas.lr, search.alphas.beta1, search.alphas.beta2) == (
        3e-4,
        0.5,
        0.999,
    )
    assert search.alphas.weight_decay == 1e-3
    assert (config.data.batch_size, evaluation.batch_size) == (64, 96)
    assert (evaluation.auxiliary_weight, evaluation.drop_path) == (0.4, 0.2)
    assert evaluation.weights == dataclasses.replace(search.weights, min_lr=0.0)


def test_defaults_of_a_skill_are_those_of_its_function():
    config = Config(skill="interleaving", tasks=("a", "b"))
    of_interleaving = {
        name: getattr(config.interleaving, name)
        for name in ("interaction_weight", "transfer", "coupling", "weights")
    }
    for function, given in (
        (learning_by_passing_tests, config.lpt.options()),
        (interleaving_learning, of_interleaving),
    ):
        defaults = inspect.signature(function).parameters
        assert given == {name: defaults[name].default for name in given}
    assert schedule_of(config) == interleaved(("a", "b"), 2)
    assert CurriculumConfig(active=True).build() == Curriculum()
    assert HypergradConfig("finite_difference").build() == FiniteDifference()
    # The tester is that of the authors' code.
    assert (config.tester.encoder, config.tester.stem) == ("resnet18", "imagenet")
    assert config.tester.weights == dataclasses.replace(config.search.weights, clip=0.0)
    assert config.tester.creator == config.search.alphas


def test_defaults_pass_their_own_checks():
    assert Config.parse(Config().to_dict()) == Config()
    check(Config())


def test_a_config_goes_there_and_back():
    values = default_config()
    values.search.weights.lr = 0.5
    values.space.ops = ("none", "skip_connect")
    config = Config.parse(values)
    assert config.search.weights.lr == 0.5
    assert config.space.ops == ("none", "skip_connect")
    assert Config.parse(ConfigDict(config.to_dict())) == config


def test_a_key_that_is_none_is_refused_where_it_is_set():
    values = default_config()
    with pytest.raises(AttributeError, match="epochs"):
        values.search.epoch = 3
    with pytest.raises(KeyError):
        values.search.update(epoch=3)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3


@pytest.mark.parametrize(
    ("path", "field"), list(leaves(Config)), ids=[path for path, _ in leaves(Config)]
)
def test_each_field_is_checked(path, field):
    """Each number has bounds, and each value outside of its own is refused."""
    groups = path.split(".")[1:-1]

    def nested(value):
        values = {field.name: value}
        for group in reversed(groups):
            values = {group: values}
        return values

    wrong = [None, object(), [field.default]]
    bounds = field.metadata.get("bounds", {})
    if isinstance(field.default, bool):
        wrong += [1, "true"]
    elif isinstance(field.default, int | float):
        assert bounds, "no bounds"
        wrong += ["1", True, float("nan")]
        for name, bound in bounds.items():
            beyond = {"above": 0, "below": 0, "at least": -1, "at most": 1}[name]
            wrong.append(type(field.default)(bound + beyond))
    elif "options" in field.metadata:
        wrong.append("nosuch" if isinstance(field.default, str) else ("nosuch",))
    for value in wrong:
        with pytest.raises(InputError, match=f"^{path} is ") as caught:
            Config.parse(nested(value))
        assert "\n" not in str(caught.value)


def test_adjoints_by_name():
    assert HypergradConfig().build() == Exact()
    difference = HypergradConfig("finite_difference", radius=0.5).build()
    assert difference == FiniteDifference(0.5)
    apart = HypergradConfig("finite_difference", radius=0.5, per_set=True).build()
    assert apart == FiniteDifference(0.5, per_set=True) != difference
    assert HypergradConfig("first_order").build() == FirstOrder()


@pytest.mark.parametrize("warmup", [2, 3])
def test_a_warmup_as_long_as_the_search_is_refused(warmup):
    values = {"search": {"epochs": 2, "warmup_epochs": warmup}}
    with pytest.raises(InputError, match=r"below config\.search\.epochs, 2: set --con"):
        check(Config.parse(values))
    check(Config.parse({"search": {"epochs": 2, "warmup_epochs": 1}}))
