"""A cell of any search in the mobile setting of ImageNet: configs/evaluate_imagenet.py."""

import importlib.util
import json

import jax.numpy as jnp
import pytest

from skillearn_jax.data import Examples, ImageData
from skillearn_jax.errors import InputError
from skillearn_jax.nas import KNOWN_GENOTYPES, count_params
from skillearn_jax.train import Config, load, run
from skillearn_jax.train.checks import check, check_images
from skillearn_jax.train.spaces import space_kind


@pytest.fixture(scope="module")
def get_config(repo_root):
    path = repo_root / "configs" / "evaluate_imagenet.py"
    spec = importlib.util.spec_from_file_location("evaluate_imagenet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def params(config, auxiliary):
    cells = KNOWN_GENOTYPES["DARTS_V2"]
    network = space_kind(config).network(cells, config, 1000, None, auxiliary=auxiliary)
    return count_params(network, (224, 224, 3))


def test_the_network_is_the_published_one(get_config):
    config = Config.parse(get_config())
    assert params(config, auxiliary=False) == 4_718_752
    assert params(config, auxiliary=True) == 4_718_752 + 1_260_776
    # P-DARTS normalises the 768 channels of the head once more.
    pdarts = Config.parse(get_config("pdarts"))
    assert params(pdarts, auxiliary=True) == 4_718_752 + 1_260_776 + 2 * 768


@pytest.mark.usefixtures("quick_compilation")
def test_a_cell_of_another_search_is_evaluated_by_the_one_config(get_config, tmp_path):
    cells = KNOWN_GENOTYPES["DARTS_V1"]
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "genotype.json").write_text(json.dumps(cells.to_json()))
    config = get_config("smoke")
    config.genotype = str(tmp_path / "search")
    config.data.image_size = 16
    config.evaluation.cells = 1
    config.evaluation.channels = 2
    config.evaluation.batch_size = 256
    config.parallel.devices = 1
    result = run(config, tmp_path / "run", quiet=True)
    assert result.genotype == cells
    (row,) = result.summary["evaluation"]["rows"]
    assert row["mobile"]["macs"] > row["macs"] > 0
    assert (row["mobile"]["limit"], row["mobile"]["kept"]) == (600_000_000, True)
    assert "within the mobile limit of 600 M" in result.report.read_text()
    stem = load(tmp_path / "run").variables["params"]["stem"]
    assert sorted(n for n in stem if n.startswith("Conv")) == [
        f"Conv_{i}" for i in range(3)
    ]


def test_images_for_the_auxiliary_head_behind_the_stem(tiny):
    config = tiny({"evaluation.auxiliary_weight": 0.4, "evaluation.stem": "imagenet"})

    def check_side(side):
        images = jnp.zeros((1, side, side, 3), jnp.uint8)
        shown = Examples(images, jnp.zeros(1, jnp.int32))
        check_images(config, ImageData("own", shown, 10, (0,) * 3, (1,) * 3, shown))

    check_side(193)
    with pytest.raises(InputError, match=r"192x192 pixels; .* needs 193 or more"):
        check_side(192)


def test_a_tail_leaves_epochs_before_it(tiny):
    changes = {
        "evaluation.epochs": 5,
        "evaluation.weights.schedule": "linear",
        "evaluation.weights.tail_epochs": 5,
    }
    with pytest.raises(
        InputError, match=r"5; .*below config\.evaluation\.epochs, 5: set"
    ):
        check(tiny(changes))
    check(tiny({**changes, "evaluation.weights.tail_epochs": 4}))


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("config.data.padding", {}),
        ("config.data.cutout", {}),
        ("config.evaluation.cutout", {}),
        ("config.evaluation.cutout", {"genotype": "random:1"}),
    ],
)
def test_an_augmentation_leaves_something_of_an_image(flag, changes, tiny):
    shown = Examples(jnp.zeros((1, 9, 8, 1), jnp.uint8), jnp.zeros(1, jnp.int32))
    images = ImageData("own", shown, 10, (0,), (1,), shown)
    key = flag.removeprefix("config.")
    check_images(tiny({**changes, key: 7}), images)
    with pytest.raises(
        InputError, match=rf"{flag} is 8, .* 9x8 pixels; .* below 8: set"
    ):
        check_images(tiny({**changes, key: 8}), images)
