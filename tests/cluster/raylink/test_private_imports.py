"""Ray's private modules change without notice, so one folder alone imports them."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PRIVATE = ("ray._private", "ray._raylet", "ray.autoscaler", "ray.core", "ray.train.v2._internal", "ray.dashboard")
ALLOWED = "cluster/raylink"


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def users(*folders: str) -> set[str]:
    """Files that import private modules."""
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    return {
        file.relative_to(REPOSITORY).as_posix()
        for file in files
        if any(f"{module}.".startswith(f"{name}.") for module in imported(file) for name in PRIVATE)
    }


def test_only_raylink_imports_private_modules_of_ray():
    found = users("leworld", "actors", "cluster")
    assert found
    assert [file for file in found if not file.startswith(ALLOWED)] == []
