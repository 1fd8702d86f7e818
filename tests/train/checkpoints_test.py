"""Checkpoints: complete or absent, bit for bit, and damage is passed over."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from skillearn_jax.errors import InputError, StorageError
from skillearn_jax.framework import State
from skillearn_jax.parallel import Devices, processes
from skillearn_jax.train import checkpoints as checkpoints_module
from skillearn_jax.train import manifest as manifest_module
from skillearn_jax.train.checkpoints import Checkpoints
from skillearn_jax.train.manifest import read_manifest

# Orbax leaves the reads that it no longer needs behind, unawaited.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]


def make_state(step, size=3):
    rng = np.random.default_rng(step)
    params = {
        "weights": {"a/b": jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)},
        "alphas": {"normal": jnp.asarray(rng.normal(size=(2,)), jnp.bfloat16)},
    }
    return State(
        params,
        {"learner": ((), {"count": jnp.int32(7)}), "validation": {}},
        {"learner": {"mean": jnp.full((2,), 0.1), "none": jnp.zeros((0, 3))}},
        jnp.int32(step),
        jax.random.key(5),
    )


def bits(state):
    data = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), data)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def save(path, *steps, **options):
    checkpoints = Checkpoints(path, **options)
    for step in steps:
        checkpoints.save(step, make_state(step), {"at": [step]}, metric=None)
    checkpoints.close()
    return checkpoints


def test_the_lines_beside_are_on_the_disk_before_a_checkpoint_is(tmp_path, monkeypatch):
    path, synced = tmp_path / "checkpoints", []
    for name in ("metrics.jsonl", "alphas.jsonl", "config.json"):
        (tmp_path / name).write_text("{}\n")

    def sync(of):
        synced.append((of.relative_to(tmp_path).as_posix(), (path / "1").exists()))

    monkeypatch.setattr(checkpoints_module, "sync", sync)
    save(path, 1, beside=tmp_path)
    *before, names = synced
    assert sorted(before) == [
        ("alphas.jsonl", False),
        ("checkpoints/.1.partial/manifest.json", False),
        ("metrics.jsonl", False),
    ]
    assert names == ("checkpoints", True)


def test_lines_that_were_lost_since_a_checkpoint_are_said(tmp_path):
    """A run that goes on writes those after it again, and none of those before."""
    path, lines = tmp_path / "search", '{"step": 1}\n{"step": 2}\n'
    for name in ("metrics.jsonl", "alphas.jsonl", "timing.jsonl"):
        (tmp_path / name).write_text(lines)
    save(path, 2, beside=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n')
    assert newest(path, beside=tmp_path)[1] == []
    (tmp_path / "alphas.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "timing.jsonl").unlink()
    assert sorted(newest(path, beside=tmp_path)[1]) == [
        f"{name} lacks {lost} of the 24 bytes that it had when {path}/2 was "
        "saved: what they said is not written again"
        for name, lost in (("alphas.jsonl", 12), ("timing.jsonl", 24))
    ]


def newest(path, **options):
    """Returns the newest checkpoint, and what was said of those passed over."""
    said = []
    checkpoints = Checkpoints(path, say=said.append, **options)
    saved = checkpoints.newest()
    checkpoints.close()
    return saved, said


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of steps 2 and 4."""
    path = tmp_path_factory.mktemp("two") / "c" / "search"
    save(path, 2, 4)
    return path


@pytest.fixture
def copy(two, tmp_path):
    """A copy of them, to damage."""
    return shutil.copytree(two, tmp_path / "c" / "search")


def test_nothing_is_there_at_first(tmp_path):
    assert newest(tmp_path / "c") == (None, [])
    assert list(tmp_path.iterdir()) == []


def test_the_newest_state_comes_back_bit_for_bit(two):
    saved, said = newest(two)
    state = saved.restore(make_state(0))
    assert (saved.step, saved.note, said) == (4, {"at": [4]}, [])
    assert bits(state) == bits(make_state(4))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(0))
    for leaf, wanted in zip(*map(jax.tree.leaves, (state, make_state(0))), strict=True):
        assert leaf.dtype == wanted.dtype
        assert isinstance(leaf, jax.Array)


@pytest.mark.parametrize(
    ("keep", "keep_best", "kept"),
    [(1, 0, [9]), (2, 0, [8, 9]), (1, 2, [3, 5, 9]), (3, 1, [3, 7, 8, 9])],
)
def test_the_newest_and_the_best_stay(tmp_path, keep, keep_best, kept):
    metrics = {2: 0.4, 3: 0.1, 5: 0.2, 6: 0.3, 7: 0.3, 8: None, 9: 0.9}
    checkpoints = Checkpoints(tmp_path / "c", keep=keep, keep_best=keep_best)
    for step, metric in metrics.items():
        checkpoints.save(step, {"a": jnp.ones(2)}, metric=metric)
    checkpoints.close()
    assert checkpoints.steps() == kept
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == list(
        map(str, kept)
    )


def test_the_best_of_an_earlier_process_stays(tmp_path):
    for step, metric in ((1, 0.1), (2, 0.5), (3, 0.6)):
        checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1)
        checkpoints.save(step, {"a": jnp.ones(2)}, metric=metric)
        checkpoints.close()
    assert checkpoints.steps() == [1, 3]


def test_values_of_two_metrics_are_not_compared(tmp_path):
    """A run that goes on with another `best_metric` ranks from there on."""
    loss, objective = ("learner/loss", "validation/objective")
    for step, metric, name in (
        (1, 0.1, objective),
        (2, 0.2, objective),
        (3, 9.0, loss),
        (4, 8.0, loss),
        (5, 9.5, loss),
    ):
        checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric=name)
        checkpoints.save(step, {"a": jnp.ones(2)}, metric=metric)
        checkpoints.close()
    assert checkpoints.steps() == [4, 5]


def test_a_save_is_not_disturbed_by_the_steps_that_follow(tmp_path):
    """The next step is given the saved buffers to overwrite while they are written."""
    advance = jax.jit(
        lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
    )
    state = {"x": jnp.arange(2_000_000.0)}
    note = {"values": [1.0]}
    advance(jax.tree.map(jnp.copy, state))  # compiled before the race begins
    expected = np.asarray(state["x"]).tobytes()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, note)
    note["values"].append(2.0)
    for _ in range(20):
        state = advance(state)
    jax.block_until_ready(state)
    checkpoints.close()
    saved, _ = newest(tmp_path)
    assert np.asarray(saved.restore(state)["x"]).tobytes() == expected
    assert saved.note == {"values": [1.0]}


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(8, 1), (1, 8), (8, 2)])
def test_any_number_of_devices_may_load_it(tmp_path, saved_on, loaded_on):
    before, after = Devices(saved_on), Devices(loaded_on)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, before.fetch(before.place(make_state(4))))
    checkpoints.close()
    saved, _ = newest(tmp_path)
    state = after.place(saved.restore(make_state(0)))
    assert len(jax.tree.leaves(state)[0].devices()) == loaded_on
    assert bits(after.fetch(state)) == bits(make_state(4))


def test_what_a_kill_left_is_no_checkpoint_and_is_removed(copy):
    for name in (".6.partial", ".2.old"):
        shutil.copytree(copy / "4", copy / name)
    assert newest(copy)[0].step == 4
    save(copy, 6)
    assert sorted(path.name for path in copy.iterdir()) == ["4", "6"]


def test_another_structure_is_refused_by_the_leaf_that_differs(two):
    saved, _ = newest(two)
    like = make_state(0)
    for other, message in (
        (make_state(0, size=5), r"weights/a/b is float32\[3, 4\], and float32\[5, 4\]"),
        (like._replace(model_state={}), "it has model_state/learner/mean"),
        (like._replace(opt_states={"x": jnp.ones(1)}), "opt_states"),
        (like._replace(step=jnp.float32(0)), r"step is int32\[\], and float32\[\]"),
    ):
        with pytest.raises(InputError, match=rf"4 cannot be read \(.*{message}") as e:
            saved.restore(other)
        assert "\n" not in str(e.value)


# Damage.


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path, where=0.5):
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = largest(folder / "arrays")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def without(folder, entry):
    """Leaves an entry out of a manifest, as a version that knew none would."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content[entry], content["digest"]
    path.write_text(
        json.dumps({**content, "digest": manifest_module.digest_of(content)})
    )


DAMAGES = {
    "flipped byte": (lambda f: flip(largest(f / "arrays")), ""),
    "truncated": (truncate, ""),
    "empty folder": (empty, "it has no manifest.json"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("")), "manifest.json"),
    "no manifest": (
        lambda f: (f / "manifest.json").unlink(),
        "it has no manifest.json",
    ),
    "flipped manifest": (
        # What it breaks, the syntax or a value, depends on where the bytes lie.
        lambda f: flip(f / "manifest.json", 0.3),
        "its manifest.json ",
    ),
    "half a manifest": (
        lambda f: (f / "manifest.json").write_text('{"format": 2'),
        "its manifest.json is not readable",
    ),
    "no name of the metric": (
        lambda f: without(f, "metric_name"),
        "its manifest.json does not hold what a run writes there",
    ),
    "no files": (
        lambda f: without(f, "files"),
        "its manifest.json does not hold what a run writes there",
    ),
    "manifest of another": (
        lambda f: shutil.copy(f.parent / "2" / "manifest.json", f),
        "it is that of step 2",
    ),
    "arrays of another": (
        lambda f: (
            shutil.rmtree(f / "arrays"),
            shutil.copytree(f.parent / "2" / "arrays", f / "arrays"),
        ),
        "has changed since it was saved",
    ),
    "no arrays": (lambda f: shutil.rmtree(f / "arrays"), ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(copy, name):
    damage, reason = DAMAGES[name]
    damage(copy / "4")
    before = contents(copy)
    saved, (line,) = newest(copy)
    assert bits(saved.restore(make_state(0))) == bits(make_state(2))
    assert line.startswith(f"the checkpoint {copy}/4 is passed over: ")
    assert reason in line
    assert "\n" not in line
    assert len(line.partition("over: ")[2]) > 5
    assert contents(copy) == before


def test_bits_that_orbax_reads_without_complaint_are_noticed(tmp_path):
    """Values are changed through Orbax itself: nothing but the digest can tell."""
    save(tmp_path, 2, 4)
    arrays = ocp.load(str(tmp_path / "4" / "arrays"))
    arrays["params/weights/a/b"][0, 0] += 1e-6
    shutil.rmtree(tmp_path / "4" / "arrays")
    ocp.save(str(tmp_path / "4" / "arrays"), arrays)
    saved, (line,) = newest(tmp_path)
    assert saved.step == 2
    assert "the file arrays/" in line
    manifest = read_manifest(tmp_path / "4" / "manifest.json")
    with pytest.raises(
        manifest_module.DamagedError, match="params/weights/a/b has chan"
    ):
        manifest_module.verify(arrays, manifest)
    del arrays["step"]
    arrays["params/weights/a/b"][0, 0] -= 1e-6
    with pytest.raises(manifest_module.DamagedError):
        manifest_module.verify(arrays, manifest)


def test_a_file_that_the_disk_gives_back_no_more_is_damage(copy, monkeypatch):
    digest = manifest_module.hashlib.file_digest

    def fails(file, name):
        if "/4/" in file.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return digest(file, name)

    monkeypatch.setattr(manifest_module.hashlib, "file_digest", fails)
    found, said = newest(copy)
    assert found.step == 2
    assert "is passed over" in said[0]
    assert "cannot be read (Input/output error)" in said[0]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_may_not_be_read_is_not_an_empty_one(copy, monkeypatch, number):
    """A run would begin anew, over what it could go on from."""

    def fails(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fails)
        with pytest.raises(InputError, match=rf"\({os.strerror(number)}\): "):
            newest(copy)
        checkpoints = Checkpoints(copy)
        checkpoints.save(6, make_state(6))
        with pytest.raises(StorageError, match=rf"\({os.strerror(number)}\): "):
            checkpoints.close()


def test_every_damaged_one_is_named_and_none_is_left(copy):
    for step in (2, 4):
        truncate(copy / str(step))
    before = contents(copy)
    said = []
    checkpoints = Checkpoints(copy, say=said.append)
    with pytest.raises(InputError, match=rf"{copy}/4 cannot be read .* remove ") as e:
        checkpoints.newest()
    checkpoints.close()
    assert "\n" not in str(e.value)
    assert [line.split(" is passed")[0][-1] for line in said] == ["4", "2"]
    assert contents(copy) == before


@pytest.mark.parametrize("change", ["half", "empty", "gone", "noise"])
def test_whichever_file_is_hit_the_state_is_right_or_the_one_before(copy, change):
    passed = 0
    for file in [path for path in (copy / "4").rglob("*") if path.is_file()]:
        content = file.read_bytes()
        if change == "gone":
            file.unlink()
        elif change == "noise":
            file.write_bytes(bytes(255 - byte for byte in content))
        else:
            file.write_bytes(content[: len(content) // 2 if change == "half" else 0])
        saved, said = newest(copy)
        assert saved.step == (2 if said else 4), file
        assert bits(saved.restore(make_state(0))) == bits(make_state(saved.step)), file
        passed += len(said)
        file.write_bytes(content)
    assert passed


def test_a_run_that_fell_back_replaces_the_damaged_one(copy):
    truncate(copy / "4")
    checkpoints = Checkpoints(copy, keep=2)
    assert checkpoints.newest().step == 2
    checkpoints.save(3, make_state(3))
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3, 4]  # not counted, and not yet reached
    checkpoints.save(4, make_state(4))
    checkpoints.close()
    saved, said = newest(copy)
    assert (saved.step, said) == (4, [])
    assert sorted(path.name for path in copy.iterdir()) == ["3", "4"]


@pytest.mark.parametrize("damage", [truncate, lambda f: without(f, "metric_name")])
def test_a_damaged_one_that_was_passed_is_removed_first(copy, damage):
    damage(copy / "4")
    checkpoints = Checkpoints(copy, keep=2)
    assert checkpoints.newest().step == 2
    checkpoints.save(5, make_state(5))
    checkpoints.close()
    assert checkpoints.steps() == [2, 5]


# Formats.


def test_a_newer_format_is_refused_and_not_passed_over(copy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "FORMAT", 3)
        save(copy, 6)
    before = contents(copy)
    with pytest.raises(InputError, match=r"/6 has format 3, and this .* format 2") as e:
        newest(copy)
    assert "\n" not in str(e.value)
    assert contents(copy) == before


def test_the_manifest_says_what_is_there(two):
    content = read_manifest(two / "4" / "manifest.json")
    assert (content["format"], content["step"]) == (2, 4)
    assert content["arrays"]["params/alphas/normal"]["dtype"] == "bfloat16"
    assert content["arrays"]["key"] == {
        "dtype": "uint32",
        "shape": [2],
        "sha256": content["arrays"]["key"]["sha256"],
    }
    json.dumps(content)


# Disks.


@pytest.mark.parametrize("where", ["arrays", "manifest", "move"])
def test_a_full_disk_is_one_line_and_the_old_one_stays(copy, monkeypatch, where):
    before = contents(copy)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(*args, **kwargs):
        raise full

    with monkeypatch.context() as patch:
        if where == "arrays":
            patch.setattr(ocp, "save", fails)
        elif where == "manifest":
            patch.setattr("skillearn_jax.train.checkpoints.write_manifest", fails)
        else:
            patch.setattr(Checkpoints, "_move", fails)
        checkpoints = Checkpoints(copy)
        checkpoints.save(6, make_state(6))
        with pytest.raises(StorageError, match=r"search/6 \(No space left on dev") as e:
            checkpoints.close()
    assert "\n" not in str(e.value)
    assert contents(copy) == before
    assert newest(copy)[0].step == 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("UNKNOWN: Failed to write 9 bytes [os_error_code='5']", "Input/output error"),
        ("ABORTED: Failed [os_error_code='116']", os.strerror(errno.ESTALE)),
        ("PERMISSION_DENIED: x [os_error_code='30']", "Read-only file system"),
        ("NOT_FOUND: Error reading what was written", "No such file or directory"),
    ],
)
def test_what_a_disk_refuses_is_known_in_the_words_of_tensorstore(
    copy, monkeypatch, text, why
):
    """Of a disk that was mounted anew to be read only, a server of files that is gone."""
    before = contents(copy)

    def fails(*args, **kwargs):
        raise ValueError(text)

    monkeypatch.setattr(ocp, "save", fails)
    checkpoints = Checkpoints(copy)
    checkpoints.save(6, make_state(6))
    with pytest.raises(StorageError, match=rf"search/6 \({why}\): "):
        checkpoints.close()
    assert contents(copy) == before


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake in the program"),
        # An OSError, by which Orbax tells of a process that is gone.
        TimeoutError("Timeout waiting at barrier 'x': UNAVAILABLE: Failed to send RPC"),
    ],
)
def test_an_error_that_no_disk_made_is_shown_as_it_is(copy, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(ocp, "save", fails)
    checkpoints = Checkpoints(copy)
    checkpoints.save(6, make_state(6))
    with pytest.raises(type(error), match=str(error)):
        checkpoints.close()


def test_a_server_of_files_that_does_not_answer_is_a_disk_that_refuses(
    copy, monkeypatch
):
    def fails(*args, **kwargs):
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(ocp, "save", fails)
    checkpoints = Checkpoints(copy)
    checkpoints.save(6, make_state(6))
    with pytest.raises(StorageError, match="Connection timed out"):
        checkpoints.close()


LIMITED = """
import resource
import sys
import jax.numpy as jnp
from skillearn_jax.errors import StorageError
from skillearn_jax.train.checkpoints import Checkpoints
from pathlib import Path
path = Path(sys.argv[1])
checkpoints = Checkpoints(path)
{before}
checkpoints.save(6, {{"x": jnp.arange(500_000.0)}})
try:
    checkpoints.close()
except StorageError as error:
    print(error)
    sys.exit(4)
"""


def in_a_process(path, before):
    script = LIMITED.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": "", "HOME": "/nonexistent"},
    )


def test_a_disk_that_takes_only_so_much(copy):
    """A limit on the size of files, which the operating system itself enforces."""
    before = contents(copy)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    done = in_a_process(copy, limit)
    assert done.returncode == 4, done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot save the checkpoint" in done.stdout
    assert contents(copy) == before
    assert newest(copy)[0].step == 4


def test_a_read_only_folder(two, tmp_path_factory):
    path = tmp_path_factory.mktemp("readonly") / "c"
    shutil.copytree(two, path)
    before = contents(path)
    path.chmod(0o555)
    become = ""
    if os.geteuid() == 0:  # who may write everything; and must have imported all first
        for folder in path.parents[:3]:
            folder.chmod(0o755)
        become = f"""
import os
warm = Checkpoints(Path("{path.parent}/warm"))
warm.save(1, {{"x": jnp.ones(2)}})
warm.close()
os.setuid(65534)
"""
    done = in_a_process(path, become)
    path.chmod(0o755)
    assert done.returncode == 4, done.stderr
    assert "Permission denied" in done.stdout
    assert done.stdout.count("\n") == 1
    assert contents(path) == before


def test_what_the_first_process_cannot_save_all_raise(tmp_path, monkeypatch):
    """Otherwise the others would wait for it in Orbax."""
    told = json.dumps({"error": ["StorageError", "cannot save"]}).encode()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "_broadcast", lambda data: told)
    with (
        contextlib.closing(Checkpoints(tmp_path / "c")) as checkpoints,
        pytest.raises(StorageError, match="cannot save"),
    ):
        checkpoints.save(1, {"a": np.ones(2)})
    assert not (tmp_path / "c").exists()
