"""Configuration files: presets, the base they build on, and changes from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from cluster.config.renamed_keys import with_new_keys
from cluster.config.run_config import RunConfig, parse_config
from leworld.errors import ConfigError

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Plain values only; 1e-3 is a number, and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} comes twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1.0e-3 as a number but not 1e-3, which is what users write.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def preset_names() -> list[str]:
    """The presets that come with LeWorld."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def preset_folder() -> Path:
    """Where the presets lie: ``cluster/presets`` in an installed copy, ``configs`` in the repository."""
    package = Path(__file__).parents[1]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "configs"


def load_config(name_or_path: str, changes: Iterable[str] = ()) -> RunConfig:
    """Build a config from a preset or a file, changed by ``a.b=c``.

    Args:
        name_or_path: a preset's name, or the path of a YAML file.
        changes: each ``a.b=c`` with a value in YAML.

    Raises:
        ConfigError: a file cannot be read, or something in it or in a change is wrong.
    """
    tree = load_tree(name_or_path)
    tree.setdefault("name", Path(name_or_path).stem)
    return parse_config(merge(tree, parse_changes(changes)))


def change_config(config: RunConfig, changes: Iterable[str]) -> RunConfig:
    """Return the same config with some values changed."""
    return parse_config(merge(asdict(config), parse_changes(changes)))


def load_tree(name_or_path: str, above: tuple[str, ...] = ()) -> Tree:
    """Read a preset or a file on top of its ``base``, if it names one."""
    if name_or_path in above:
        raise ConfigError(f"config {' -> '.join((*above, name_or_path))}: bases go round in a circle; remove one")
    tree = parse_yaml(*_read(name_or_path))
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"config {name_or_path}: base is {base!r}, but the name of a preset or file is needed")
    lower = load_tree(_beside(base, name_or_path), (*above, name_or_path))
    lower.pop("name", None)
    return merge(lower, tree)


def dump_config(config: RunConfig) -> str:
    """The whole config as YAML that ``load_config`` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def parse_changes(changes: Iterable[str]) -> Tree:
    """``a.b=c`` to a tree.

    Raises:
        ConfigError: a change is not of that form.
    """
    tree: Tree = {}
    for change in changes:
        key, equals, value = change.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(f"--set {change}: not of the form key=value, such as phases.joint.steps=100")
        change_tree: Any = _value(change, value)
        for part in reversed(parts):
            change_tree = {part: change_tree}
        tree = merge(tree, with_new_keys(change_tree))
    return tree


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tree:
    """Lay one tree over another; settings of another world do not shine through."""
    merged: Tree = dict(lower)
    if "settings" in lower and upper.get("name", lower.get("name")) != lower.get("name"):
        merged.pop("settings")
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_yaml(text: str, origin: str) -> Tree:
    """Read a mapping from YAML.

    Raises:
        ConfigError: the text is not a mapping.
    """
    try:
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"config {origin}: {_yaml_problem(error)}; mend the file") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config {origin}: holds a {type(tree).__name__}, but a mapping of settings is needed")
    return with_new_keys({str(key): value for key, value in tree.items()})


def _value(change: str, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {change}: {_yaml_problem(error)}; quote the value") from None


def _read(name_or_path: str) -> tuple[str, str]:
    """Text and origin."""
    if name_or_path in preset_names():
        return (preset_folder() / f"{name_or_path}.yaml").read_text(encoding="utf-8"), name_or_path
    try:
        return Path(name_or_path).read_text(encoding="utf-8"), name_or_path
    except FileNotFoundError:
        near = get_close_matches(name_or_path, preset_names(), n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"config {name_or_path}: no such preset or file; nearest preset: {near} (of {', '.join(preset_names())})"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {name_or_path}: cannot be read ({error}); give a preset or a YAML file") from None


def _beside(base: str, path: str) -> str:
    """Resolve a base that is not a preset beside the file that names it."""
    return base if base in preset_names() else str(Path(path).parent / base)


def _yaml_problem(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f" in line {mark.line + 1}" if mark is not None else ""
    return f"{problem or str(error).splitlines()[0]}{where}"
