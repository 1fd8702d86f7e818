"""The floor rule: a module imports only what lies below it."""

import ast
import builtins
import importlib
import inspect
import keyword
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "skillearn_jax"

FLOORS = {
    "commands": 0,
    "errors": 0,
    "paths": 0,
    "randomness": 0,
    "types": 0,
    "tree": 0,
    "layers": 0,
    "subroutines": 0,
    "tracing": 0,
    "hypergrad": 1,
    "nas": 1,
    "models": 1,
    "data": 1,
    "parallel": 1,
    "framework": 2,
    "skills": 3,
    "train": 4,
    "cli": 5,
    "export": 5,
    "predict": 5,
}
"""Floors by the first name below the package; `skillearn_jax` itself is the roof."""

DOMAIN_FREE = ("framework", "skills/lpt.py", "hypergrad", "skills/baseline.py")
"""What knows no architecture search, no network and no data set."""

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [file for file in FILES if file.parent != PACKAGE or file.stem in FLOORS]


def relative(file):
    return file.relative_to(PACKAGE).as_posix()


def room_of(file):
    """Returns the first name below the package: a package or a module of floor 0."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source, package="skillearn_jax"):
    """Returns the absolute names of everything that a source imports, at any depth.

    `from a import b` counts as `a.b`, so that a package may not hide behind its parent.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def rooms_imported(source):
    return {
        name.split(".")[1]
        for name in imports(source)
        if name.split(".")[0] == "skillearn_jax" and "." in name
    }


def violations(room, source):
    """Returns the rooms that a source of one room imports and must not."""
    floor = FLOORS[room]
    return {
        other
        for other in rooms_imported(source) - {room}
        # Floor 0 is one room in which modules use each other, downward.
        if other not in FLOORS or FLOORS[other] > floor or FLOORS[other] == floor != 0
    }


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("nas", "from skillearn_jax.data import halves", {"data"}),
        ("nas", "from skillearn_jax import data", {"data"}),
        ("nas", "import skillearn_jax.data.splits as s", {"data"}),
        ("nas", "def f():\n    import skillearn_jax.framework", {"framework"}),
        ("tree", "from skillearn_jax.hypergrad import Exact", {"hypergrad"}),
        ("hypergrad", "from skillearn_jax import Config", {"Config"}),
        ("layers", "from skillearn_jax.types import Array", set()),
        ("nas", "from skillearn_jax.nas.ops import x\nimport jax", set()),
        ("cli", "from skillearn_jax.train import run", set()),
    ],
)
def test_the_rule_sees_what_it_should(room, source, expected):
    assert violations(room, source) == expected


def test_every_module_has_a_floor():
    rooms = {room_of(file) for file in FILES} - {"__init__"}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_imports_go_down(file):
    wrong = violations(room_of(file), file.read_text(encoding="utf-8"))
    assert not wrong, f"{relative(file)} must not import {sorted(wrong)}"


def test_floor_0_has_no_cycle():
    reads: dict[str, set[str]] = {}
    for file in FILES:
        room = room_of(file)
        if FLOORS.get(room) == 0:
            below = rooms_imported(file.read_text(encoding="utf-8")) - {room}
            reads[room] = reads.get(room, set()) | below
    while reads:
        lowest = {room for room, below in reads.items() if not below & set(reads)}
        assert lowest, f"a cycle among {sorted(reads)}"
        reads = {room: below for room, below in reads.items() if room not in lowest}


def test_skills_and_framework_know_no_models():
    files = [f for f in FILES if relative(f).startswith(DOMAIN_FREE)]
    assert len(files) > 10
    for file in files:
        found = rooms_imported(file.read_text(encoding="utf-8"))
        assert not found & {"nas", "models", "data"}, relative(file)


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("flax.linen", ("nas/", "models/", "layers/")),
        ("absl", ("cli.py",)),
        ("orbax", ("train/checkpoints.py",)),
        ("rich", ("train/console.py",)),
        ("tensorboardX", ("train/events.py",)),
        ("matplotlib", ("train/report",)),
        ("sklearn", ("data/embedded.py",)),
        ("mlxtend", ("data/embedded.py",)),
        ("ml_collections", ("train/", "cli.py")),
    ],
)
def test_libraries_stay_where_they_belong(library, homes):
    users = {
        relative(file)
        for file in FILES
        for name in imports(file.read_text(encoding="utf-8"))
        if f"{name}.".startswith(f"{library}.")
    }
    assert users, f"nobody uses {library}: drop it from this test"
    assert {user for user in users if not user.startswith(homes)} == set()


def forbidden(source):
    """Returns what would let data execute: names of calls and modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in (
                "eval",
                "exec",
                "compile",
                "__import__",
            ):
                found.add(node.func.id)
            for word in node.keywords:
                if word.arg == "allow_pickle" and not (
                    isinstance(word.value, ast.Constant) and word.value.value is False
                ):
                    found.add("allow_pickle")
    roots = {name.split(".")[0] for name in imports(source)}
    return found | roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("eval('1')", {"eval"}),
        ("def f():\n    exec(x)", {"exec"}),
        ("np.load(f, allow_pickle=True)", {"allow_pickle"}),
        ("np.load(f, allow_pickle=yes)", {"allow_pickle"}),
        ("from pickle import loads", {"pickle"}),
        ("jax.jit(f).lower(x).compile()\nnp.load(f, allow_pickle=False)", set()),
    ],
)
def test_the_ban_sees_what_it_should(source, expected):
    assert forbidden(source) == expected


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_data_never_execute(file):
    # The official CIFAR archives for Python are pickles; one file reads them, with
    # everything refused that is not a plain array.
    allowed = {"pickle"} if relative(file) == "data/cifar_pickle.py" else set()
    assert forbidden(file.read_text(encoding="utf-8")) <= allowed


def test_numpy_files_are_read_without_pickle():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                assert "allow_pickle" in {word.arg for word in node.keywords}


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_no_name_begins_with_test(file):
    """pytest would collect it. `Tester...` is the one word of the domain allowed."""
    names = [file.stem]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
    wrong = [name for name in names if re.match(r"_*test(?!er)", name, re.IGNORECASE)]
    assert wrong == []


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_files_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_every_file_says_what_it_is(file):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


PACKAGES = [
    ".".join(file.parent.relative_to(ROOT).parts)
    for file in sorted(PACKAGE.rglob("__init__.py"))
]


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_exist_and_are_documented(name):
    package = importlib.import_module(name)
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names), "a name twice"
    for name in names:
        assert name.isidentifier()
        assert not keyword.iskeyword(name)
        assert not hasattr(builtins, name), f"{name} hides a builtin"
        value = getattr(package, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            # A dataclass writes itself a docstring, its signature: that is none.
            text = value.__doc__ or ""
            assert text.strip(), name
            assert not text.startswith(f"{name}("), f"{package.__name__}.{name}"


def test_only_declared_names_leave_a_package():
    """What one room uses of another is in the other's `__all__`, or a module of it."""
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            module = (node.module or "").split(".")
            if module[0] != "skillearn_jax" or len(module) != 2:
                continue
            if module[1] == room_of(file) or FLOORS.get(module[1], 0) in (0, 5):
                continue
            package = importlib.import_module(node.module)
            folder = PACKAGE / module[1]
            for alias in node.names:
                known = alias.name in package.__all__
                assert known or (folder / f"{alias.name}.py").exists(), (
                    f"{relative(file)}: {alias.name} is not public in {node.module}"
                )
