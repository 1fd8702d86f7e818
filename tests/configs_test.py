"""Every skill times every method: the configs of the matrix, traced, and some stepped."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from skillearn_jax.data import Examples, ImageData, load
from skillearn_jax.train import Config
from skillearn_jax.train.build import build_search
from skillearn_jax.train.build_tasks import build_tasks
from skillearn_jax.train.checks import check, check_images
from skillearn_jax.train.config import HypergradConfig
from skillearn_jax.train.evaluation_program import training_program
from skillearn_jax.train.random_search import draw_candidates, short_training
from skillearn_jax.train.search import search_stage
from skillearn_jax.train.spaces import space_kind

DATA_SETS = ("cifar10", "cifar100")


def load_module(root, name):
    path = root / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SKILLS = ("baseline", "lpt", "il", "joint")
METHODS = (
    "darts1",
    "darts2",
    "pcdarts",
    "pdarts",
    "darts_minus",
    "darts_plus",
    "nasbench201",
)
PAIRS = [f"{skill}_{method}" for skill in SKILLS for method in METHODS]
RANDOM = ("random_darts", "random_nasbench201")


def test_the_matrix_is_whole(repo_root):
    common = load_module(repo_root, "common")
    assert set(common.SKILLS) == set(SKILLS)
    assert set(METHODS) == set(common.METHODS)
    assert set(common.VARIANTS) == {*PAIRS, *RANDOM}


@pytest.mark.parametrize("pair", [*PAIRS, *RANDOM])
def test_each_pair_is_valid_at_full_size(pair, repo_root):
    seen = set()
    for name in DATA_SETS:
        config = Config.parse(load_module(repo_root, name).get_config(pair))
        check(config)
        images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
        shown = Examples(images, jnp.zeros(1, jnp.int32))
        check_images(config, ImageData(name, shown, 10, (0,) * 3, (1,) * 3, shown))
        seen.add(config.data.name)
    skill, _, method = pair.partition("_")
    assert seen == ({"digits"} if skill in ("il", "joint") else set(DATA_SETS))
    assert bool(config.tasks) == (skill in ("il", "joint"))
    second = method in ("darts2", "nasbench201")
    assert config.hypergrad.adjoint == ("exact" if second else "first_order")


@pytest.fixture(scope="module")
def images():
    digits = load("digits")
    return {"": digits, "mnist5k": digits, "digits": digits}


@functools.cache
def smoke_config(repo_root, pair):
    config = Config.parse(
        load_module(repo_root, "cifar100").get_config(f"{pair}_smoke")
    )
    check(config)
    return config


def step_of(config, images):
    """Returns the first step of the search proper on two images, of a key.

    The second result is a list that gets the program when the step is traced.
    """
    stage = dataclasses.replace(search_stage(config, 0, config.space.build()), cells=1)
    if config.tasks:
        data = {name: images[name] for name in config.tasks}
        build, given = build_tasks, data
    else:
        build, given = build_search, images[""]
    programs = []

    def one_step(key):
        setup = build(config, given, key, 2, None, stage)
        program = setup.phases[-1].program
        programs.append(program)
        shown = jax.random.normal(key, (2, 8, 8, 1))
        batch = {"image": shown, "label": jnp.arange(2)}
        params = {name: setup.params[name] for name in program.sets}
        state = program.init(params, key, setup.model_state)
        return program.step(state, dict.fromkeys(program.streams, batch))

    return one_step, programs


@pytest.mark.parametrize("pair", PAIRS)
def test_each_pair_can_be_traced(pair, repo_root, images):
    one_step, programs = step_of(smoke_config(repo_root, pair), images)
    _, metrics = jax.eval_shape(one_step, jax.random.key(0))
    assert metrics["validation/objective"].shape == ()
    turns = {"baseline": 1, "lpt": 2, "il": 4, "joint": 1}[pair.partition("_")[0]]
    assert len(programs[0].stages) == turns


def one_step_is_sound(config, adjoint, images):
    config = dataclasses.replace(config, hypergrad=HypergradConfig(adjoint))
    one_step, _ = step_of(config, images)
    state, metrics = jax.jit(one_step)(jax.random.key(0))
    assert all(np.isfinite(value) for value in metrics.values())
    assert state.step == 1
    assert metrics["hypergrad/alphas/norm"] > 0


@pytest.mark.parametrize("skill", ["lpt", "il"])
def test_skills_can_be_stepped_in_the_space_of_nasbench201(
    skill, repo_root, images, quick_compilation
):
    """In first order, whose programs are the smallest. Other tests run the others."""
    config = smoke_config(repo_root, f"{skill}_nasbench201")
    one_step_is_sound(config, "first_order", images)


@pytest.mark.long
@pytest.mark.parametrize("adjoint", ["first_order", "exact"])
@pytest.mark.parametrize("pair", PAIRS)
def test_each_pair_can_be_stepped(pair, adjoint, repo_root, images, quick_compilation):
    """In both orders, whichever the papers take."""
    one_step_is_sound(smoke_config(repo_root, pair), adjoint, images)


@pytest.mark.parametrize("variant", RANDOM)
def test_a_candidate_of_a_random_search_can_be_traced(variant, repo_root, images):
    config = short_training(smoke_config(repo_root, variant))
    cells = draw_candidates(config)["candidate 1"]
    network = space_kind(config).network(cells, config, 10, None, auxiliary=True)
    program = training_program(network, config, 2, None)

    def one_step(key):
        batch = {"image": jnp.zeros((2, 8, 8, 1)), "label": jnp.zeros(2, jnp.int32)}
        variables = network.init(key, batch["image"], train=False)
        state = program.init(
            {"weights": variables["params"]}, key, {"network": variables["batch_stats"]}
        )
        return program.step(state, {"train": batch, "progress": 0.0})

    _, metrics = jax.eval_shape(one_step, jax.random.key(0))
    assert metrics["network/loss"].shape == ()


def test_nasbench201_is_a_column_of_the_matrix(repo_root):
    module = load_module(repo_root, "nasbench201")
    cifar10 = load_module(repo_root, "cifar10")
    for variant, pair in (
        ("", "baseline_nasbench201"),
        ("smoke", "baseline_nasbench201_smoke"),
        ("random", "random_nasbench201"),
        ("il_smoke", "il_nasbench201_smoke"),
    ):
        assert module.get_config(variant) == cifar10.get_config(pair)
    for variant in ("short", "lpt_short", "il_short", "random_short"):
        config = Config.parse(module.get_config(variant))
        check(config)
        assert config.data.image_size == 16
    for variant in ("pcdarts", "pcdarts_short", "short_lpt"):
        with pytest.raises(ValueError, match=f"unknown variant '{variant}'"):
            module.get_config(variant)


def test_every_ablation_is_valid_and_another(repo_root):
    module = load_module(repo_root, "lpt_ablations")
    seen = set()
    for name in module.ABLATIONS:
        for variant in (name, f"{name}_smoke"):
            config = Config.parse(module.get_config(variant))
            check(config)
            assert config.data.name == ("digits" if "smoke" in variant else "cifar10")
            seen.add(str(config))
    # Their testers are the only difference; the smoke variants keep it.
    assert len(seen) == 2 * len(module.ABLATIONS)
    for misspelt in ("stalesmoke", "stale_", "_", "_smoke"):
        with pytest.raises(ValueError, match=f"unknown variant '{misspelt}'"):
            module.get_config(misspelt)


@pytest.mark.parametrize("variant", ["", "lpt"])
def test_the_search_on_imagenet_is_pcdarts(variant, repo_root, images):
    get_config = load_module(repo_root, "search_imagenet").get_config
    config = Config.parse(get_config(variant))
    check(config)
    search, tester = config.search, config.tester
    assert config.data.batch_size == (768 if variant else 1024)
    assert (search.stem, search.partial, search.cells, search.channels) == (
        "imagenet",
        2,
        8,
        16,
    )
    assert (search.epochs, search.warmup_epochs) == (50, 35)
    assert (search.weights.lr, search.weights.min_lr) == (0.5, 0.0)
    assert (search.weights.warmup_epochs, tester.weights.warmup_epochs) == (5, 0)
    assert (search.alphas.lr, search.alphas.clip) == (6e-3, 5.0)
    assert config.data.colours == (0, 0, 0, 0)  # their evaluation alone has them
    if variant:
        assert (tester.weights.lr, tester.weights.clip) == (0.5, 5.0)
        assert (tester.creator.lr, tester.creator.clip) == (6e-3, 5.0)
    smoke = Config.parse(get_config(f"{variant}_smoke".removeprefix("_")))
    check(smoke)
    one_step, _ = step_of(smoke, images)
    _, metrics = jax.eval_shape(one_step, jax.random.key(0))
    assert metrics["validation/objective"].shape == ()


FIRST = {"hypergrad.adjoint": "first_order"}
OF_BENCH = {
    "space.name": "nasbench201",
    "search.cells": 5,
    "search.weights.weight_decay": 5e-4,
    "search.weights.nesterov": True,
    "evaluation.epochs": 0,
    "evaluation.cells": 5,
    "evaluation.channels": 16,
    "evaluation.batch_size": 256,
    "evaluation.auxiliary_weight": 0.0,
    "evaluation.drop_path": 0.0,
    "evaluation.cutout": 0,
    "evaluation.weights.lr": 0.1,
    "evaluation.weights.weight_decay": 5e-4,
    "evaluation.weights.nesterov": True,
    "evaluation.weights.clip": 0.0,
}
OF_PCDARTS = {
    **FIRST,
    "space.edge_normalization": True,
    "search.partial": 4,
    "search.warmup_epochs": 15,
    "data.batch_size": 256,
    "search.weights.lr": 0.1,
    "search.weights.min_lr": 0.0,
    "search.alphas.lr": 6e-4,
    "evaluation.drop_path": 0.3,
}
OF_PDARTS = {
    **FIRST,
    "search.epochs": 25,
    "search.warmup_epochs": 10,
    "search.stage_cells": (5, 11, 17),
    "search.stage_candidates": (8, 5, 3),
    "search.stage_skip_dropout": (0.1, 0.4, 0.7),
    "search.max_skips": 2,
    "data.batch_size": 96,
    "search.weights.min_lr": 0.0,
    "search.alphas.lr": 6e-4,
    "search.alphas.clip": 5.0,
    "evaluation.batch_size": 128,
    "evaluation.drop_path": 0.3,
}
SMALL_STEPS = {"search.alphas.lr": 3e-5, "search.alphas.weight_decay": 1e-4}
OF_TASKS = {"tasks": ("cifar100", "cifar10"), "data.name": "digits"}
RECIPES = {
    "baseline_darts1": FIRST,
    "baseline_darts2": {},
    "baseline_pcdarts": OF_PCDARTS,
    "baseline_pdarts": OF_PDARTS,
    "baseline_darts_minus": {**FIRST, "search.auxiliary_skip": "linear"},
    "baseline_darts_plus": {**FIRST, "search.stop": "skips"},
    "baseline_nasbench201": OF_BENCH,
    "lpt_darts2": {},
    "lpt_pcdarts": {
        **OF_PCDARTS,
        "tester.weights.lr": 0.1,
        "tester.weights.min_lr": 0.0,
    },
    "lpt_pdarts": {
        **OF_PDARTS,
        "tester.weights.min_lr": 0.0,
        "tester.weights.clip": 5.0,
        "tester.creator.clip": 5.0,
    },
    "il_darts2": {
        **OF_TASKS,
        **SMALL_STEPS,
        "interleaving.interaction_weight": 1.5e-4,
    },
    "joint_pcdarts": {**OF_TASKS, **OF_PCDARTS},
    "random_darts": {**FIRST, "search.num_random": 10, "search.epochs": 5},
}


def changed(given):
    """Returns what a config has otherwise than the defaults, by path."""
    defaults = flatten_dict(Config().to_dict(), sep=".")
    values = flatten_dict(Config.parse(given).to_dict(), sep=".")
    return {path: v for path, v in values.items() if v != defaults[path]}


@pytest.mark.parametrize("pair", RECIPES)
def test_a_recipe_differs_from_that_of_darts_as_the_authors_do(pair, repo_root):
    skills = {"il": "interleaving"}
    skill = pair.partition("_")[0]
    expected = {
        "skill": skills.get(skill, skill),
        "data.name": "cifar100",
        "data.padding": 4,
        "data.flip": True,
        "evaluation.cutout": 16,
        **RECIPES[pair],
    }
    defaults = flatten_dict(Config().to_dict(), sep=".")
    expected = {path: v for path, v in expected.items() if v != defaults[path]}
    assert changed(load_module(repo_root, "cifar100").get_config(pair)) == expected


def test_a_training_on_cifar10_is_that_of_darts(repo_root):
    # The lengths, sizes and rates are the defaults.
    assert changed(load_module(repo_root, "evaluate_cifar10").get_config()) == {
        "skill": "baseline",
        "genotype": "DARTS_V2",
        "data.name": "cifar10",
        "data.padding": 4,
        "data.flip": True,
        "evaluation.cutout": 16,
        "evaluation.num_random": 0,
    }


@pytest.mark.parametrize("variant", ["", "pdarts", "pcdarts"])
def test_a_training_on_imagenet_is_that_of_its_authors(variant, repo_root):
    found = changed(load_module(repo_root, "evaluate_imagenet").get_config(variant))
    linear = {"weights.schedule": "linear", "weights.tail_epochs": 5}
    of_variant = {
        "": {"batch_size": 128, "weights.schedule": "exponential"},
        "pdarts": {**linear, "batch_size": 256, "auxiliary_norm": True},
        "pcdarts": {
            **linear,
            "batch_size": 1024,
            "weights.lr": 0.5,
            "weights.warmup_epochs": 5,
        },
    }[variant]
    evaluation = {
        "stem": "imagenet",
        "cells": 14,
        "channels": 48,
        "epochs": 250,
        "auxiliary_norm": False,
        "label_smoothing": 0.1,
        "drop_path": 0.0,
        "num_random": 0,
        "num_seeds": 1,
        "weights.lr": 0.1,
        "weights.weight_decay": 3e-5,
        **of_variant,
    }
    if variant == "pdarts":
        del evaluation["auxiliary_norm"]  # as on CIFAR
    assert found == {
        "skill": "baseline",
        "genotype": "DARTS_V2",
        "data.name": "stream:imagenet2012",
        "data.flip": True,
        "data.colours": (0.4, 0.4, 0.4, 0.2),
        **{f"evaluation.{name}": value for name, value in evaluation.items()},
    }
    default = Config().evaluation  # on which they agree with CIFAR
    assert (default.auxiliary_weight, default.weights.decay) == (0.4, 0.97)


def test_what_the_methods_ask_of_a_training_and_a_tester(repo_root):
    get_config = load_module(repo_root, "cifar10").get_config
    bench = get_config("lpt_nasbench201").evaluation
    assert (bench.cutout, bench.weights.clip, bench.weights.by_step) == (0, 0, False)
    for pair, rate in (("lpt_darts2", 0.025), ("lpt_pcdarts", 0.1)):
        config = get_config(pair)
        assert config.evaluation.cutout == 16
        assert config.tester.weights.lr == config.search.weights.lr == rate
        assert not config.tester.weights.by_step
    search = get_config("lpt_nasbench201").search
    assert (search.weights.nesterov, search.weights.by_step) == (True, False)
