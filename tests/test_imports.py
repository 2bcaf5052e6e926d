"""What is imported is declared, and only where it is needed: torch takes seconds and most of a process's memory."""

import ast
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import leworld.memory

ROOT = Path(__file__).parents[1]
PACKAGES = ("leworld", "actors", "cluster")
HEAVY = {"torch", "ray", "gymnasium", "matplotlib", "rich"}
COMMAND = "from cluster.cli.app import main; main({!r})"


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_a_shard_does_not_import_torch_and_placement_does_when_it_is_asked_for():
    shard = loaded("import actors.memory_cluster.replica_actor")
    assert "leworld.store.durable_store" in shard
    assert "torch" not in shard
    assert "torch" in loaded("from leworld.memory import HashPlacement")


def test_names_that_do_not_exist_are_refused_as_usual():
    assert leworld.memory.AppendPlacement(8).address(1, 1).tolist() == [0]
    with pytest.raises(AttributeError, match=r"module 'leworld\.memory' has no attribute 'Placement'"):
        _ = leworld.memory.Placement


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level names that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def plain(distribution: str) -> str:
    """A distribution's name without extras, version, case and kind of dash."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", distribution)[0]).lower()


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {plain(name) for name in [*project["dependencies"], *extras["mujoco"], *extras["fast"]]}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {name for path in files for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
    known = packages_distributions()
    outside = names - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {name for name in outside if not declared & {plain(found) for found in known.get(name, [name])}} == set()


def test_help_imports_nothing_heavy():
    assert not {*HEAVY, "numpy", "pydantic", "yaml", "zmq", "msgpack"} & loaded(COMMAND.format(["--help"]))


def test_reading_a_memory_imports_neither_torch_nor_sockets(tmp_path: Path):
    memory = str(tmp_path / "memory")
    for arguments in (["create", memory, "--bits", "8"], ["write", memory, "0", "1"], ["read", memory, "0", "4"]):
        modules = loaded(COMMAND.format(["memory", *arguments]))
        assert not {*HEAVY, "yaml", "zmq"} & modules


def test_help_takes_little_longer_than_to_import_numpy():
    def seconds(code: str) -> float:
        began = time.perf_counter()
        loaded(code)
        return time.perf_counter() - began

    pairs = [(seconds(COMMAND.format(["--help"])), seconds("import numpy")) for _ in range(5)]
    assert min(helped for helped, _ in pairs) < 4 * min(alone for _, alone in pairs)
