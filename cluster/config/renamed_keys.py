"""Keys of a config that have a new name. Files and runs that use the old one still load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.messages import say_renamed
from leworld.errors import ConfigError

RENAMED = {"model.asked": "model.shortlist_size"}
"""Old key to new key. Both are in the same section."""


def with_new_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of settings with the new name of every key.

    Raises:
        ConfigError: a key is there with its old and its new name.
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        old = f"{prefix}{name}"
        new = RENAMED.get(old, old)
        # Configs that a run keeps have every key; one without a value says nothing of what the user set.
        if new != old and value is not None:
            say_renamed(old, new)
        key = new.removeprefix(prefix)
        if key in found or (new != old and key in tree):
            raise ConfigError(f"config: {new} is set twice, once by its old name {old}: remove {old}")
        found[key] = with_new_keys(value, f"{old}.") if isinstance(value, Mapping) else value
    return found


def with_old_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inverse of ``with_new_keys``: for digests that were made before a key got its new name."""
    old_of = {new: old for old, new in RENAMED.items()}
    return {
        old_of.get(key, key).removeprefix(prefix): with_old_keys(value, f"{key}.")
        if isinstance(value, Mapping)
        else value
        for key, value in ((f"{prefix}{name}", value) for name, value in tree.items())
    }
