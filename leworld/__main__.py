"""Start of the command ``leworld``, after a look at whether its packages are the ones that were installed with it.

``actors`` and ``cluster`` are ordinary words: another package of that name may come first on Python's path.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("actors", "cluster")


def main() -> int:
    """Run a command; the exit code, 2 where another package is in the way."""
    for name in PACKAGES:
        own, found = Path(__file__).parents[1] / name, folder_of(name)
        if found is None or found.resolve() != own.resolve():
            print(f"leworld: {in_the_way(name, own, found)}", file=sys.stderr)
            return 2
    # By name, as nothing in leworld depends on what is above it.
    return import_module("cluster.cli.app").main()


def folder_of(name: str) -> Path | None:
    """Where a package, or the file of a module, would be imported from."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def in_the_way(name: str, own: Path, found: Path | None) -> str:
    """What is wrong, and the way out."""
    where = "is not installed" if found is None else f"is {found}"
    return (
        f"package {name} {where}, not LeWorld's {own}: install leworld into a fresh virtual environment,"
        " and leave out PYTHONPATH"
    )


if __name__ == "__main__":
    sys.exit(main())
