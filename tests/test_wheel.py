"""What is installed from a wheel: complete, and found even where other packages have the same names."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the repository."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("leworld", "actors", "cluster", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(target)], cwd=source, check=True, capture_output=True, timeout=120)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was unpacked into."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def leworld(installed: Path, folder: Path, *arguments: object, first: Path | None = None):
    """Run ``leworld`` as installed, from a folder that is not the repository."""
    path = os.pathsep.join(str(part) for part in (first, installed) if part is not None)
    return subprocess.run(
        [sys.executable, "-c", "import sys; from leworld.__main__ import main; sys.exit(main())", *map(str, arguments)],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def test_only_three_packages_are_installed(installed: Path):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"leworld", "actors", "cluster"}
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))


def test_everything_of_the_repository_is_installed(installed: Path):
    for package in ("leworld", "actors", "cluster"):
        here = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        here = {path for path in here if "__pycache__" not in path.parts}
        assert here <= {path.relative_to(installed) for path in (installed / package).rglob("*")}


def test_presets_and_examples_are_read_from_what_is_installed(installed: Path, tmp_path: Path):
    described = leworld(installed, tmp_path, "describe", "--config", "pendulum", "--json")
    assert described.returncode == 0, described.stderr
    presets = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert {path.name for path in (installed / "cluster" / "presets").glob("*.yaml")} == presets
    for path in (ROOT / "cluster" / "machines" / "templates").iterdir():
        example = leworld(installed, tmp_path, "cluster", "example", path.stem)
        assert example.stdout == path.read_text(), example.stderr


def test_a_memory_is_written_and_read_by_what_is_installed(installed: Path, tmp_path: Path):
    assert leworld(installed, tmp_path, "memory", "create", "mem", "--bits", 16).returncode == 0
    assert leworld(installed, tmp_path, "memory", "write", "mem", 0, 7, 8).returncode == 0
    assert leworld(installed, tmp_path, "memory", "read", "mem", 0, 2).stdout.split() == [
        "0x0000", "00000007", "00000008",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["actors", "cluster"])
@pytest.mark.parametrize("is_folder", [True, False], ids=["folder", "file"])
def test_another_package_of_the_same_name_is_named(installed: Path, tmp_path: Path, name: str, is_folder: bool):
    decoy = tmp_path / name / "__init__.py" if is_folder else tmp_path / f"{name}.py"
    decoy.parent.mkdir(exist_ok=True)
    decoy.touch()
    ended = leworld(installed, tmp_path, "worlds", first=tmp_path)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert str(decoy.parent if is_folder else decoy) in line
    assert "fresh virtual environment" in line


def test_a_folder_that_is_not_a_package_is_not_in_the_way(installed: Path, tmp_path: Path):
    (tmp_path / "cluster").mkdir()
    assert leworld(installed, tmp_path, "worlds", first=tmp_path).returncode == 0
