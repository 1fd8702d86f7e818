"""The files around the package: configs, pins, metadata, the commands of the README."""

import ast
import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import ml_collections
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import skillearn_jax
from skillearn_jax.cli import parse_command
from skillearn_jax.train import (
    CompareConfig,
    Config,
    compare_config,
    default_config,
)
from skillearn_jax.train.checks import check

# Of ml_collections, where it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "skillearn_jax",
    "configs",
    "launch",
    "tests",
    "benchmarks",
    "examples",
    "notebooks",
)
SOURCES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
# Without the pieces that others are made of.
CONFIGS = sorted({*(ROOT / "configs").glob("*.py")} - {ROOT / "configs" / "common.py"})
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_file_compiles(file):
    compile(file.read_bytes(), str(file), "exec", dont_inherit=True)


# Configs.


def variants(file):
    """Returns the variants that a config's docstring lists; the first is `""`."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    _, _, listed = text.partition("Variants")
    return ["", *re.findall(r"^  (\w+) {2,}\S", listed, re.MULTILINE)]


CONFIG_VARIANTS = [(file, variant) for file in CONFIGS for variant in variants(file)]


def get_config(file, variant):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def test_there_are_configs_and_their_variants_are_found():
    assert CONFIGS
    assert variants(ROOT / "configs" / "lpt_digits.py") == ["", "full", "smoke"]


@pytest.mark.parametrize(
    ("file", "variant"),
    CONFIG_VARIANTS,
    ids=[f"{file.stem}:{variant}" for file, variant in CONFIG_VARIANTS],
)
def test_config_is_valid(file, variant):
    values = get_config(file, variant)
    assert isinstance(values, ml_collections.ConfigDict)
    parsed, defaults = parsed_config(values)
    # Every key is there, so that each can be overridden by a flag.
    assert parsed == values.to_dict()
    assert set(values.to_dict()) == set(defaults.to_dict())


def parsed_config(values):
    """Returns the checked config, of a run or a comparison, and the defaults of its kind."""
    if "problem" in values:
        return dataclasses.asdict(CompareConfig.parse(values)), compare_config()
    config = Config.parse(values)
    check(config)
    return config.to_dict(), default_config()


@pytest.mark.parametrize("file", CONFIGS, ids=relative)
def test_variants_differ_and_others_are_refused(file):
    seen = [get_config(file, variant).to_json() for variant in variants(file)]
    assert len(set(seen)) == len(seen)
    assert "smoke" in variants(file)
    with pytest.raises(ValueError, match="nosuchvariant"):
        get_config(file, "nosuchvariant")


@pytest.mark.parametrize("file", CONFIGS, ids=relative)
def test_config_says_what_it_is(file):
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    for label in ("Paper:", "Hardware:", "Expected:", "Command:"):
        assert re.search(rf"^{label} +\S", text, re.MULTILINE), label
    command = re.search(r"^Command: +(.+)$", text, re.MULTILINE)[1]
    assert f"--config={relative(file)}" in command
    assert_command_parses(command)


def plain_values(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from plain_values(inner)
    else:
        yield value


def test_defaults_can_all_be_overridden():
    """Flags cannot set lists, nor what is `None` by default."""
    for value in plain_values(default_config().to_dict()):
        assert isinstance(value, bool | int | float | str | tuple)


# Metadata.


def pins():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and line[0] != "#"]
    return {canonicalize_name(pin.name): pin for pin in wanted}


def declared():
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {canonicalize_name(Requirement(x).name): Requirement(x) for x in lines}


def exact_version(pin):
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return specifier.version


def test_pins_and_ranges_name_the_same_packages():
    assert set(pins()) - {"jaxlib"} == set(declared())


@pytest.mark.parametrize("name", sorted(declared()))
def test_pin_lies_in_its_range(name):
    assert declared()[name].specifier.contains(exact_version(pins()[name]))


def test_jaxlib_is_pinned_with_jax():
    assert exact_version(pins()["jaxlib"]) == exact_version(pins()["jax"])


def third_party(folder):
    """Returns the distributions that the sources of a folder import."""
    roots = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots.add(node.module.split(".")[0])
    roots -= {*sys.stdlib_module_names, "skillearn_jax"}
    known = metadata.packages_distributions()
    return {canonicalize_name(known[root][0]) for root in roots}


def test_what_is_imported_is_declared_and_nothing_else():
    dependencies = PYPROJECT["project"]["dependencies"]
    names = {canonicalize_name(Requirement(line).name) for line in dependencies}
    folders = ("skillearn_jax", "configs", "launch")
    imported = set().union(*map(third_party, folders))
    assert imported <= names
    needed_by_others = {"flatbuffers", "importlib-resources"}
    assert names - imported == needed_by_others


def test_version_is_that_of_the_installed_package():
    assert metadata.version("skillearn-jax") == PYPROJECT["project"]["version"]


def test_python_is_in_range():
    wanted = Requirement(f"python{PYPROJECT['project']['requires-python']}").specifier
    assert wanted.contains(".".join(map(str, sys.version_info[:3])))
    for line in PYPROJECT["project"]["classifiers"]:
        if match := re.fullmatch(r".*:: Python :: (3\.\d+)", line):
            assert wanted.contains(f"{match[1]}.0")


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "skillearn_jax" / "py.typed").exists()
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["skillearn_jax"]


def test_top_level_names_are_there_and_documented():
    names = getattr(skillearn_jax, "__all__", [])
    for name in names:
        assert getattr(skillearn_jax, name) is not None
    assert len(set(names)) == len(names)
    assert len(names) <= 34


# Makefile and README.


def make_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))


def test_make_targets_are_phony_and_commented():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())
    assert phony == make_targets()
    commented = set(re.findall(r"^([a-z][\w-]*):.*## ", text, re.MULTILINE))
    assert commented == make_targets()


def assert_command_parses(command):
    words = shlex.split(command, comments=True)
    while "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]  # VARIABLE=value in front of a command
    if words[0] == "make":
        for word in words[1:]:
            if not word.startswith("-") and "=" not in word:
                assert word in make_targets(), command
        return
    assert words[1] == "launch/run.py", command
    if {"--help", "-h"} & set(words):
        return
    config, workdir, _ = parse_command(words[1:])
    parsed_config(config)
    assert workdir


def test_make_commands_parse():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^\t\$\(BIN\)/(python launch/run\.py .+)$", text, re.M)
    assert commands
    for command in commands:
        assert_command_parses(command.replace("$(RUNS)", "runs"))


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(block):
    """Returns the commands of a shell block, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip()]


def is_ours(command):
    return bool(re.search(r"(^|\s)(python\d? launch/run\.py|make)(\s|$)", command))


def test_continued_lines_are_joined():
    block = "$ python launch/run.py \\\n  --workdir=x\n\npip install y\nmake test\n"
    found = commands(block)
    assert [shlex.split(command) for command in found] == [
        ["python", "launch/run.py", "--workdir=x"],
        ["pip", "install", "y"],
        ["make", "test"],
    ]
    assert [is_ours(command) for command in found] == [True, False, True]


@pytest.mark.parametrize(
    "command", ["make nosuchtarget", "python launch/run.py --workdir=x --confg=y"]
)
def test_a_wrong_command_is_seen(command):
    with pytest.raises((AssertionError, ValueError)):
        assert_command_parses(command)


def test_readme_commands_parse(readme, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = [c for block in fenced(readme, "bash") for c in commands(block)]
    ours = [command for command in found if is_ours(command)]
    assert ours
    for command in ours:
        for part in command.split("&&"):
            if is_ours(part):
                assert_command_parses(part)


def python_of(name):
    """Returns what a page's reader runs: README's blocks one by one, others as a whole."""
    blocks = fenced((ROOT / name).read_text(encoding="utf-8"), "python")
    return blocks if name == "README.md" else ["\n".join(blocks)]


@pytest.mark.parametrize("name", ["README.md", "docs/hypergradients.md"])
def test_python_in_the_documentation_runs(name, tmp_path, quick_flags):
    blocks = python_of(name)
    assert blocks
    for block in blocks:
        assert block
        # Each in a process of its own, as a reader would paste it, and outside the
        # repository, so that only what is installed can be imported.
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {quick_flags}",
                "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            },
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")})


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_prose_is_wrapped(document):
    """Tables and code are as wide as they are."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.M | re.S)
    wide = [line for line in text.splitlines() if len(line) > 100]
    assert [line for line in wide if not line.startswith("|")] == []


def anchors(file):
    """Returns what links into a document may name: its headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if target.startswith(("http", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
