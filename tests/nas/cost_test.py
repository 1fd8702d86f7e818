import json

import pytest

from skillearn_jax.nas.cost import main


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--genotype=NOSUCH",), "'NOSUCH' is neither .* nor one of DARTS_V1"),
        (("--genotype=PDARTS", "--cells=-1"), "-1 is no number of cells: set --cells"),
        (
            ("--genotype=PDARTS", "--dataset=imagenet", "--channels=3"),
            "3 channels are odd",
        ),
        (("--genotype=PDARTS", "--channels=99999999999999999999"), "to 10000, or 0"),
        (("--genotype=",), "genotype '' is neither a readable file"),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys):
    import re

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
