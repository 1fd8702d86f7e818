import json
import re

import pytest

from skillearn_jax.nas.cost import main
from skillearn_jax.nas.nasbench201 import Architecture

SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"


def cost(capsys, *flags):
    assert main(flags) == 0
    return json.loads(capsys.readouterr().out)


# Counted by independent tools and found in the logs of the original code.
@pytest.mark.parametrize(
    ("name", "dataset", "params", "auxiliary", "macs"),
    [
        ("DARTS_V1", "cifar10", 3_169_414, 476_426, 501.0e6),
        ("DARTS_V1", "cifar100", 3_221_344, None, None),
        ("DARTS_V1", "imagenet", 4_510_432, 1_260_776, 505.9e6),
        ("DARTS_V2", "cifar10", 3_349_342, 476_426, 528.4e6),
        ("DARTS_V2", "cifar100", 3_401_272, None, 528.4e6),
        ("DARTS_V2", "imagenet", 4_718_752, 1_260_776, 529.9e6),
    ],
)
def test_published_sizes_are_exact(name, dataset, params, auxiliary, macs, capsys):
    row = cost(capsys, f"--genotype={name}", f"--dataset={dataset}")
    assert row["params"] == params
    if auxiliary is not None:
        assert row["params_aux"] - params == auxiliary
    if macs is not None:
        assert row["macs"] == pytest.approx(macs, abs=0.11e6)
    assert ("mobile" in row) == (dataset == "imagenet")
    assert row["genotype"] == name
    assert "convolutions" in row["convention"]


def test_cells_and_channels_can_be_chosen_and_files_read(capsys, tmp_path):
    published = cost(capsys, "--genotype=PDARTS", "--cells=2", "--channels=4")
    assert (published["cells"], published["channels"]) == (2, 4)
    from skillearn_jax.nas import KNOWN_GENOTYPES

    odd = cost(capsys, "--genotype=PDARTS", "--cells=2", "--channels=3")
    assert odd["params"] < published["params"]
    file = tmp_path / "genotype.json"
    file.write_text(json.dumps(KNOWN_GENOTYPES["PDARTS"].to_json()))
    own = cost(capsys, f"--genotype={file}", "--cells=2", "--channels=4")
    assert {**own, "genotype": "PDARTS"} == published


def test_cells_of_nasbench201_are_counted_too(capsys, tmp_path):
    """By the sizes that its authors publish, see `nasbench201/network_test.py`."""
    row = cost(capsys, f"--genotype={SKIPS}")
    assert (row["params"], row["macs"], row["cells"]) == (73_306, 7_783_040, 5)
    assert "params_aux" not in row
    convolutions = Architecture(("nor_conv_3x3",) * 6)
    (tmp_path / "genotype.json").write_text(json.dumps(convolutions.to_json()))
    row = cost(capsys, f"--genotype={tmp_path}")
    assert (row["params"], row["macs"]) == (1_531_546, 220_119_680)
    small = cost(capsys, f"--genotype={SKIPS}", "--cells=1", "--channels=4")
    assert small["params"] < 73_306


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--genotype=NOSUCH",), "'NOSUCH' is neither .* DARTS_V1.*: set --genotype$"),
        (("--genotype=PDARTS", "--cells=-1"), "-1 is no number of cells: set --cells"),
        (
            ("--genotype=PDARTS", "--dataset=imagenet", "--channels=3"),
            "3 channels are odd.*: set --channels$",
        ),
        (("--genotype=PDARTS", "--channels=99999999999999999999"), "to 10000, or 0"),
        (("--genotype=PDARTS", "--cells=501"), "501 is no number .* 1 to 500, or 0"),
        (("--genotype=|none~0|+",), r"has 3 nodes joined .*none~0.*: set --genotype$"),
        (
            (f"--genotype={SKIPS}", "--dataset=imagenet"),
            "on CIFAR: set --dataset=cifar10",
        ),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys):
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_the_mobile_limit_is_checked(capsys):
    published = cost(capsys, "--genotype=DARTS_V2", "--dataset=imagenet")
    assert published["mobile"] == {
        "macs": published["macs"],
        "limit": 600_000_000,
        "kept": True,
    }
    wide = cost(capsys, "--genotype=DARTS_V2", "--dataset=imagenet", "--channels=52")
    assert wide["mobile"]["macs"] == wide["macs"] > 600_000_000
    assert not wide["mobile"]["kept"]
