"""Every skill times every method: the configs of the matrix, traced and not compiled."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from skillearn_jax.data import Examples, ImageData, load
from skillearn_jax.train import Config
from skillearn_jax.train.build import build_search
from skillearn_jax.train.build_tasks import build_tasks
from skillearn_jax.train.experiment import check, check_images
from skillearn_jax.train.search import search_stage

DATA_SETS = ("cifar10", "cifar100")


def load_module(root, name):
    path = root / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SKILLS = ("baseline", "lpt", "il", "joint")
METHODS = ("darts1", "darts2", "pcdarts", "pdarts", "darts_minus", "darts_plus")
PAIRS = [f"{skill}_{method}" for skill in SKILLS for method in METHODS]


def test_the_matrix_is_whole(repo_root):
    common = load_module(repo_root, "common")
    assert set(common.SKILLS) == set(SKILLS)
    assert set(METHODS) <= set(common.METHODS)


@pytest.mark.parametrize("pair", PAIRS)
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
    second = method == "darts2"
    assert config.hypergrad.adjoint == ("exact" if second else "first_order")


@pytest.fixture(scope="module")
def images():
    digits = load("digits")
    return {"": digits, "mnist5k": digits, "digits": digits}


@pytest.mark.parametrize("pair", PAIRS)
def test_each_pair_can_be_stepped(pair, repo_root, images):
    """The step of the last phase is traced on the smoke variant."""
    module = load_module(repo_root, "cifar100")
    config = Config.parse(module.get_config(f"{pair}_smoke"))
    check(config)
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
        batch = {"image": jnp.zeros((2, 8, 8, 1)), "label": jnp.zeros(2, jnp.int32)}
        params = {name: setup.params[name] for name in program.sets}
        state = program.init(params, key, setup.model_state)
        return setup.step(program)(state, dict.fromkeys(program.streams, batch))

    _, metrics = jax.eval_shape(one_step, jax.random.key(0))
    assert metrics["validation/objective"].shape == ()
    turns = {"baseline": 1, "lpt": 2, "il": 4, "joint": 1}[pair.partition("_")[0]]
    assert len(programs[0].stages) == turns


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
