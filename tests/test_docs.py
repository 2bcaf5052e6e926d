"""The documentation names what exists: links, files, modules, presets."""

import re
from pathlib import Path

import pytest

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
