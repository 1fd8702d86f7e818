"""The benchmarks run and print what they promise; nothing here is timed."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES, Architecture


@pytest.fixture(scope="module", autouse=True)
def _quick_processes(quick_flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {quick_flags}")
        yield


def lines(repo_root, script, *flags):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *flags],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ORDERS = ("interleaved", "blocked")
SMALL = ("--cells=1", "--channels=2", "--batch=2")


@pytest.mark.parametrize("part", ["weights", "alphas"])
def test_search_step(part, repo_root):
    flags = (*SMALL, "--nodes=1", f"--part={part}", "--order=first")
    flags += ("--compute=bfloat16",) if part == "weights" else ("--precision=highest",)
    (line,) = lines(repo_root, "search_step.py", *flags)
    assert line["part"] == part
    for key in ("compile_s", "step_s", "cpu_s", "peak_bytes", "flops", "flops_per_s"):
        assert line[key] > 0, key
    assert {"device", "versions"} <= set(line)


@pytest.mark.long
def test_scaling_counts_what_is_sent(repo_root):
    flags = ("--mode=strong", "--counts=2", "--skill=baseline", "--nodes=1")
    (line,) = lines(repo_root, "scaling.py", *flags, *SMALL, "--steps=2", "--batch=4")
    assert line["devices"] == 2
    assert 0 < line["minimum_bytes"] <= line["sent_bytes"]
    assert line["sent_by"] == {"all-reduce": line["sent_bytes"]}
    assert line["step_s"] > 0


def test_scaling_knows_the_sizes_of_the_published_search(repo_root):
    flags = ("--nodes=4", "--cells=8", "--channels=16", "--side=32")
    (line,) = lines(
        repo_root, "scaling.py", "--mode=sizes", "--encoder=resnet18", *flags
    )
    params = line["params"]
    assert params["weights"] == 1_930_618
    trained = params["weights"] + params["encoder"] + params["executor"]
    moved = 4 * (3 * trained + params["alphas"] + params["creator"])
    assert line["minimum_bytes"] == moved


def test_bytes_are_read_off_a_compiled_program(repo_root, monkeypatch):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    from scaling import sent_bytes

    text = """
      %a = f32[3,4]{1,0} all-reduce(%x), channel_id=1
      %b = (f32[5]{0}, /*index=1*/f64[2,2]{1,0}) all-reduce(%y, %z), channel_id=2
      %c = f32[] all-reduce-start(%w), channel_id=3
      %d = u8[16]{0} all-gather(%v), channel_id=4
      %e = f32[9]{0} add(%all-reduce.1, %q)
    """
    assert sent_bytes(text) == {"all-reduce": 48 + 20 + 32 + 4, "all-gather": 16}


def test_search_step_in_torch(repo_root):
    pytest.importorskip("torch", reason="torch is not installed")
    found = lines(repo_root, "search_step_torch.py", *SMALL)
    assert [line["part"] for line in found] == ["weights", "alphas"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--problem=mlp", "--width=8", "--batch=4", "--implicit"),
        ("--problem=chain", "--levels=1,2"),
    ],
    ids=["mlp", "chain"],
)
def test_hypergradient(flags, repo_root):
    found = lines(
        repo_root, "hypergradient.py", *flags, "--dtypes=float32", "--repeats=1"
    )
    by_adjoint = {line["adjoint"]: line for line in found}
    assert {"Autodiff()", "Exact()"} <= set(by_adjoint)
    assert all(line["step_s"] > 0 and "versions" in line for line in found)
    assert by_adjoint["Exact()"]["rel_error"] < 1e-5
    if "--implicit" in flags:
        assert len(found) == 6


@pytest.mark.long
def test_retention(repo_root):
    flags = ("--seeds=1", "--rounds=2", "--updates=2")
    found = lines(repo_root, "retention.py", *flags)
    runs = [(line["order"], line["lambda"] > 0) for line in found]
    assert sorted(runs) == sorted((o, p) for o in ORDERS for p in (False, True))
    for line in found:
        assert np.shape(line["errors"]) == (6, 3)
        assert line["forgetting"] >= 0
    # The same updates, in another order.
    assert sorted(found[0]["schedule"]) == sorted(found[1]["schedule"])


@pytest.mark.long
def test_turns(repo_root):
    flags = ("--turns=2", "--channels=2", "--batch=2", "--size=8", "--repeats=1")
    apart, shared, scan = lines(repo_root, "turns.py", *flags)
    assert [line["form"] for line in (apart, shared, scan)] == [
        "apart",
        "shared",
        "scan",
    ]
    assert shared["difference"] == 0
    assert scan["difference"] < 1e-4


@pytest.mark.long
def test_skills(repo_root, tmp_path):
    flags = ("--seeds=1", "--updates=4", "--epochs=1", "--channels=1", "--cells=1")
    found = lines(repo_root, "skills.py", f"--workdir={tmp_path}", *flags)
    kinds = {line["cells"] for line in found}
    skills = {"joint", "interleaving", "blocked", "lpt_digits", "random_digits"}
    assert {"one random cell", *skills} <= kinds
    assert {line["task"] for line in found} == {"mnist5k", "digits"}
    assert all(line["errors"] == [line["mean"]] for line in found)
    assert {line["std"] for line in found} == {None}


def write_pack(folder, shades, train_labels, test_labels):
    """Writes images of one colour each, the training images first."""

    def jpeg(shade):
        stream = io.BytesIO()
        image = Image.new("RGB", (32, 32), (shade, 255 - shade, shade))
        image.save(stream, "JPEG", quality=75)
        return stream.getvalue()

    files = [jpeg(shade) for shade in shades]
    header = files[0][:20]  # of JFIF, the same in all
    bodies = [file[len(header) :] for file in files]
    path = folder / "cifar10_jpegpack.npz"
    np.savez(
        path,
        header=np.frombuffer(header, np.uint8),
        body=np.frombuffer(b"".join(bodies), np.uint8),
        offsets=np.cumsum([0, *map(len, bodies)]),
        train_labels=np.array(train_labels),
        test_labels=np.array(test_labels),
    )
    return path


def test_the_images_of_a_pack_of_jpegs(repo_root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    from cifar10_pack import read

    pack = write_pack(tmp_path, (0, 80, 160, 240), [3, 1, 2], [7])
    data = read(pack)
    assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
    assert (data.train.label.tolist(), data.heldout.label.tolist()) == ([3, 1, 2], [7])
    reds = np.asarray(data.train.image)[:, 5, 5, 0].astype(int)
    assert np.all(abs(reds - [0, 80, 160]) <= 3)
    assert abs(int(data.heldout.image[0, 5, 5, 0]) - 240) <= 3
    assert read(pack, limit=2).train.size == 2


def test_an_unknown_variant_of_the_config_is_one_line(repo_root, monkeypatch, tmp_path):
    write_pack(tmp_path, (0, 80), [0], [1])
    monkeypatch.setenv("SKILLEARN_DATA", str(tmp_path))
    flags = (f"--workdir={tmp_path / 'run'}", "--variant=shrt")
    done = subprocess.run(
        [sys.executable, "benchmarks/cells_on_cifar10.py", *flags],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error: --variant: unknown variant 'shrt'" in done.stderr.splitlines()[-1]


@pytest.mark.long
def test_search_on_nasbench201(repo_root, tmp_path, monkeypatch):
    labels = np.arange(160) % 10
    write_pack(tmp_path, range(170), labels, np.arange(10))
    monkeypatch.setenv("SKILLEARN_DATA", str(tmp_path))
    table = tmp_path / "table.csv"
    cells = map(Architecture.from_index, range(NUM_ARCHITECTURES))
    rows = [f"{cell.to_text()},1,{cell.index / 200},1,2,3,4" for cell in cells]
    columns = ("cifar10", "cifar100", "in16")
    names = [f"{name}_{split}" for name in columns for split in ("val", "test")]
    table.write_text("\n".join([",".join(["arch_str", *names]), *rows]) + "\n")
    drawn, found = lines(
        repo_root,
        "search_on_nasbench201.py",
        *(f"--workdir={tmp_path / 'runs'}", f"--table={table}", "--seeds=1"),
        *("--searches=first_order", "--epochs=2", "--images=8"),
    )
    assert drawn["mean"] == pytest.approx((NUM_ARCHITECTURES - 1) / 400)
    (cell,), (rank,), (by_epoch,) = found["cells"], found["rank"], found["by_epoch"]
    index = Architecture.from_text(cell).index
    assert found["test"] == [found["mean"]] == [pytest.approx(index / 200)]
    assert (rank, found["steps"]) == (NUM_ARCHITECTURES - index, 2)
    assert (len(by_epoch), by_epoch[-1]) == (2, found["mean"])


@pytest.mark.parametrize(
    ("pipeline", "library"),
    [("device", "jax"), ("tf.data", "tensorflow"), ("grain",) * 2],
)
def test_input(pipeline, library, repo_root):
    pytest.importorskip(library, reason=f"{library} is not installed")
    found = lines(repo_root, "input.py", "--seconds=0.01", f"--only={pipeline}")
    names = {line["name"].replace("device stream of", "device") for line in found}
    wanted = {"device": {"device 25000", "device 50000"}}
    assert names == wanted.get(pipeline, {pipeline})
    assert all(line["cpu_s_per_1000_images"] > 0 for line in found)


def test_train_step(repo_root):
    (line,) = lines(repo_root, "train_step.py", *SMALL, "--repeats=1")
    for key in ("compile_s", "images_per_s", "peak_bytes", "flops_per_s"):
        assert line[key] > 0, key
    assert line["genotype"] == "DARTS_V2"
    assert {"device", "versions"} <= set(line)
