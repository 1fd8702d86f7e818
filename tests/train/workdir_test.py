"""The folder of a run: nothing in it gets lost, and nothing foreign is touched."""

import errno
import json
import os
import pathlib
import re
import shlex
from types import SimpleNamespace

import jax
import pytest

from skillearn_jax.cli import parse_command
from skillearn_jax.errors import InputError, StorageError
from skillearn_jax.parallel import processes
from skillearn_jax.train import Config
from skillearn_jax.train.workdir import Workdir


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    """A workdir with a config, of a run that read no data."""
    Workdir(tmp_path / "run", Config()).write_config("the program")
    return tmp_path / "run"


def test_a_new_workdir_is_made_with_its_parents(tmp_path):
    workdir = Workdir(str(tmp_path / "a" / "b"), Config())
    assert workdir.path == tmp_path / "a" / "b"
    assert files(workdir.path) == {}


def test_config_says_what_was_run(folder):
    written = json.loads((folder / "config.json").read_text())
    assert set(written) == {"config", "versions", "device", "program", "data"}
    assert written["config"]["search"]["weights"]["lr"] == 0.025
    assert written["program"] == "the program"
    assert re.fullmatch(r"8 x \w.*", written["device"])
    assert {"jax", "python", "skillearn-jax"} <= set(written["versions"])
    assert all(re.match(r"\d+\.", version) for version in written["versions"].values())


def test_the_same_config_opens_it_again(folder):
    before = files(folder)
    Workdir(folder, Config())
    assert files(folder) == before


def test_another_version_and_another_device_are_noted(folder):
    """Else config.json says of the whole run what is true of its end."""
    assert Workdir(folder, Config()).moved() == {}
    record = json.loads((folder / "config.json").read_text())
    now = record["versions"]["jax"], record["device"]
    record["versions"]["jax"], record["device"] = "0.1.0", "1 x abacus"
    (folder / "config.json").write_text(json.dumps(record))
    workdir = Workdir(folder, Config())
    moved = {"jax": ["0.1.0", now[0]], "device": ["1 x abacus", now[1]]}
    assert workdir.moved() == moved
    workdir.write_config("the program")
    again = json.loads((folder / "config.json").read_text())
    assert again["changes"] == [moved]
    assert (again["versions"]["jax"], again["device"]) == now


def test_products_of_another_precision_are_noted(folder):
    """On accelerators the same run has other numbers with it."""
    with jax.default_matmul_precision("highest"):
        (noted,) = Workdir(folder, Config()).moved().values()
    before, now = noted
    assert now == f"{before}, products highest"


def test_another_number_of_processes_is_noted(folder, monkeypatch):
    """Their devices share the batch, so that numbers may differ."""
    monkeypatch.setattr(jax, "device_count", lambda: 16)  # 8 of them in this process
    before, now = Workdir(folder, Config()).moved()["device"]
    assert (before.split()[0], now.split()[0]) == ("8", "16")


def test_another_config_is_refused_with_the_key_that_differs(folder):
    before = files(folder)
    other = Config.parse({"search": {"weights": {"lr": 0.5}}})
    with pytest.raises(InputError) as caught:
        Workdir(folder, other)
    text = str(caught.value)
    assert "config.search.weights.lr = 0.025, not 0.5" in text
    assert "--config.search.weights.lr=0.025" in text
    assert files(folder) == before


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_flags_that_are_offered_can_be_pasted(tmp_path):
    """A shell takes lists without quotes apart."""
    begun = {"skill": "joint", "tasks": ("digits", "mnist5k"), "genotype": "a b"}
    begun = Config.parse({**begun, "data": {"dir": "x", "per_class": (20, 7)}})
    Workdir(tmp_path / "run", begun).write_config("the program")
    now = Config.parse({"data": {"dir": "x"}, "tasks": ("digits",)})
    with pytest.raises(InputError) as caught:
        Workdir(tmp_path / "run", now)
    offered = shlex.split(str(caught.value).rpartition(", or ")[2])
    (tmp_path / "c.py").write_text(
        "from skillearn_jax.train import default_config as get_config"
    )
    command = [f"--config={tmp_path / 'c.py'}", "--workdir=x", "--config.data.dir=x"]
    assert Config.parse(parse_command(["run.py", *command, *offered]).config) == begun


@pytest.mark.parametrize(
    "begun", ["evaluation.json", "checkpoints/evaluation", "tasks"]
)
def test_an_evaluation_that_has_begun_keeps_its_config(folder, begun):
    """Until then it may have any; of a run over several tasks it lies in `tasks`."""
    other = Config.parse({"evaluation": {"epochs": 7}})
    (change,) = Workdir(folder, other).changes
    assert (change.path, change.more) == ("config.evaluation.epochs", True)
    (folder / begun).mkdir(parents=True)
    with pytest.raises(InputError, match=r"--config\.evaluation\.epochs=600"):
        Workdir(folder, other)


@pytest.mark.parametrize(
    ("change", "stays"),
    [({"evaluation": {"epochs": 7}}, False), ({"log_every": 2}, True)],
)
def test_what_is_not_all_any_more_is_no_summary(folder, change, stays):
    (folder / "summary.json").write_text("{}")
    workdir = Workdir(folder, Config.parse(change), {})
    assert (folder / "summary.json").exists()
    workdir.write_config("the program")
    assert (folder / "summary.json").exists() == stays


def test_a_key_of_a_later_version_is_no_flag_of_this_one(folder):
    record = json.loads((folder / "config.json").read_text())
    record["config"]["search"]["later"] = {"rate": 0.5}
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        Workdir(folder, Config.parse({"seed": 5}))
    assert str(caught.value) == (
        f"the workdir {folder} holds a run with config.seed = 2, not 5; "
        "config.search.later.rate = 0.5, a key that this version does not know: set "
        "--workdir to a new folder, or use the version that wrote it"
    )


def test_tuples_and_the_lists_of_json_are_the_same(folder):
    Workdir(folder, Config.parse({"space": {"ops": Config().space.ops}}))
    with pytest.raises(InputError, match=r"config\.space\.ops"):
        Workdir(folder, Config.parse({"space": {"ops": ("none", "skip_connect")}}))


def test_of_several_processes_only_the_first_touches_the_folder(tmp_path, monkeypatch):
    """Seen from the second of two, which hears what the first has read."""
    config, path = Config.parse({"logging": {"tensorboard": True}}), tmp_path / "run"
    same = map(json.dumps, (config.to_dict(), str(path), None))
    said = iter([*same, [["config.log_every", 1, 2, False]], {"a": 1}, [{"step": 1}]])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(
        processes, "_broadcast", lambda data: json.dumps({"value": next(said)}).encode()
    )
    workdir = Workdir(path, config)
    assert list(map(str, workdir.changes)) == ["config.log_every = 1, not 2"]
    assert workdir.read_json("summary.json") == {"a": 1}
    assert workdir.read_rows("metrics.jsonl") == [{"step": 1}]
    assert not path.exists()
    path.mkdir()
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    workdir.write_config("the program")
    workdir.write_json("summary.json", {"a": 2})
    workdir.append_rows([{"step": 2}])
    workdir.keep_rows(lambda row: False)
    workdir.close()
    assert files(path) == {"metrics.jsonl": b'{"step": 1}\n'}


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds no run \(thesis\.tex, \.\.\.\)"):
        Workdir(tmp_path, Config())
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("flags", "kind", "reason"),
    [
        (0, InputError, "Permission denied"),
        (os.ST_RDONLY, StorageError, "Read-only file system"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path, monkeypatch, flags, kind, reason
):
    monkeypatch.setattr(os, "access", lambda path, how: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
    with pytest.raises(kind, match=rf"the workdir .* \({reason}\): .*set --wo"):
        Workdir(tmp_path, Config())


def test_a_full_disk_at_the_start_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(tmp_path), "mkdir", full)
    with pytest.raises(StorageError, match="No space left on device"):
        Workdir(tmp_path / "run", Config())


@pytest.mark.parametrize("place", ["file", "file/x"])
def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write the workdir .*\): set --wo"):
        Workdir(tmp_path / place, Config())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"config": {',
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"3",
        b'{"config": {}}',
        b'{"config": {}, "data": null}',
        b'{"config": {}, "data": {"training images": 3}}',
    ],
)
def test_a_damaged_config_is_refused_in_one_line(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        Workdir(folder, Config())
    assert "\n" not in str(caught.value)
    assert re.search(r"config.json .*restore it, or set --workdir", str(caught.value))
    assert files(folder) == {"config.json": content}


def test_what_a_kill_leaves_of_the_first_file_does_not_lock_the_folder(tmp_path):
    (tmp_path / ".config.json.partial").write_text('{"config"')
    Workdir(tmp_path, Config())


def test_json_is_replaced_in_one_move(folder):
    workdir = Workdir(folder, Config())
    assert workdir.read_json("summary.json") is None
    workdir.write_json("summary.json", {"a": [1, None]})
    assert workdir.read_json("summary.json") == {"a": [1, None]}
    with pytest.raises(TypeError):
        workdir.write_json("summary.json", {"a": object()})
    assert workdir.read_json("summary.json") == {"a": [1, None]}


def test_unreadable_json_is_an_input_error(folder):
    (folder / "evaluation.json").write_text('{"derived": {"0"')
    with pytest.raises(InputError, match=r"evaluation\.json is not readable JSON"):
        Workdir(folder, Config()).read_json("evaluation.json")


def test_metrics_are_appended(folder):
    workdir = Workdir(folder, Config())
    workdir.append_rows([{"step": 1}])
    workdir.append_rows([{"step": 2}, {"step": 3}])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": s} for s in (1, 2, 3)]


def test_a_line_that_was_cut_takes_none_that_follows_with_it(folder):
    """As a full disk cuts one; of timing.jsonl nothing is dropped when a run goes on."""
    workdir = Workdir(folder, Config())
    (folder / "timing.jsonl").write_text('{"step": 1}\n{"ste')
    for step in (2, 3):
        workdir.append_rows([{"step": step}], "timing.jsonl")
    assert workdir.read_rows("timing.jsonl") == [{"step": s} for s in (1, 2, 3)]


def test_keep_rows_drops_later_rows_and_torn_lines(folder):
    workdir = Workdir(folder, Config())
    workdir.keep_rows(lambda row: False)
    assert not (folder / "metrics.jsonl").exists()
    rows = [{"step": step, "loss": 0.1 + step} for step in range(1, 6)]
    workdir.append_rows(rows)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "los')
    workdir.keep_rows(lambda row: row["step"] <= 3)
    text = (folder / "metrics.jsonl").read_text()
    assert text == "".join(json.dumps(row) + "\n" for row in rows[:3])
    # What is written next begins on a line of its own.
    workdir.append_rows([{"step": 4}])
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[3])


@pytest.mark.parametrize("row", [b"{}", b'{"step": "2"}', b'{"step": null}'])
def test_rows_without_what_is_read_in_them_are_dropped(folder, row):
    workdir = Workdir(folder, Config())
    (folder / "metrics.jsonl").write_bytes(row + b'\n{"step": 1}\n')
    workdir.keep_rows(lambda row: row["step"] <= 3)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("line", [b"3", b"[1]", b"null", b'"text"', b"\xff\xfe"])
def test_lines_that_are_no_rows_are_dropped(folder, line):
    workdir = Workdir(folder, Config())
    (folder / "metrics.jsonl").write_bytes(line + b'\n{"step": 1}\n')
    workdir.keep_rows(lambda row: row.get("step", 9) <= 3)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("what", ["json", "metrics", "timing"])
def test_a_full_disk_is_one_line_and_nothing_is_lost(folder, monkeypatch, what):
    workdir = Workdir(folder, Config())
    workdir.write_json("summary.json", {"a": 1})
    workdir.append_rows([{"step": 1}])
    before = files(folder)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    act = {
        "json": lambda: workdir.write_json("summary.json", {"a": 2}),
        "metrics": lambda: workdir.append_rows([{"step": 2}]),
        "timing": lambda: workdir.append_rows([{"step": 2}], "timing.jsonl"),
    }[what]
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", full)
        patch.setattr(pathlib.Path, "open", full)
        with pytest.raises(StorageError, match=r"\(No space left on device\): ") as e:
            act()
    assert "\n" not in str(e.value)
    assert files(folder) == before
