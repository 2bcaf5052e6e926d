"""The documentation names what exists: links, files, modules, presets."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.readme_picture import FIGURES, LABELS, add_values, draw

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    [
        *REPOSITORY.glob("docs/*.md"),
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    ]
)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
PATH = re.compile(r"`((?:leworld|actors|cluster|configs|benchmarks|tests)/[\w./-]+\.(?:py|yaml|json|md))`")
MODULE = re.compile(r"^from ((?:leworld|actors|cluster)[\w.]*) import (\w[\w, ]*)", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that links give the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"
    for path in PATH.findall(text):
        assert (REPOSITORY / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_modules_of_examples_exist(page):
    for name, _ in MODULE.findall(page.read_text(encoding="utf-8")):
        module = REPOSITORY / name.replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__init__.py").is_file(), f"{page.name}: {name}"


def test_every_preset_is_in_the_readme():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for preset in (REPOSITORY / "configs").glob("*.yaml"):
        assert f"`{preset.stem}`" in text, preset.stem


def test_pages_are_listed_in_the_readme():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for page in REPOSITORY.glob("docs/*.md"):
        assert f"docs/{page.name}" in text, page.name


def test_the_picture_of_the_readme_is_drawn_from_its_figures(tmp_path):
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert set(figures["curves"]) == set(LABELS)
    assert all(len(curve["intervals"]) == len(figures["records"]) for curve in figures["curves"].values())
    draw(figures, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_intervals_of_the_picture_need_three_seeds():
    figures: dict = {"records": [0, 33], "curves": {}}
    for seed, error in ((0, 1.0), (3, 2.0), (1, 9.0)):
        add_values(figures, seed, {"oracle": [error, 0.5]})
        curve = figures["curves"]["oracle"]
        first, last = curve["intervals"]
        assert last == {"mean": 0.5, "low": 0.5, "high": 0.5}
        assert first["low"] < first["mean"] < first["high"] if seed == 1 else first["low"] == first["mean"]
    assert (curve["seeds"], first["mean"]) == ([0, 1, 3], 4.0)
    assert first["low"] > 0
