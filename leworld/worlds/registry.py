"""The worlds by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from leworld.errors import ConfigError
from leworld.worlds.arrays import ArraysConfig, ArraysWorld
from leworld.worlds.base import World
from leworld.worlds.config_checks import listed, nearest
from leworld.worlds.physics import PhysicsConfig, PhysicsWorld
from leworld.worlds.pointers import PointersConfig, PointersWorld
from leworld.worlds.rules import RulesConfig, RulesWorld
from leworld.worlds.seed import SeedConfig, SeedWorld

WORLDS: dict[str, tuple[type[Any], type[Any], str]] = {
    "seed": (SeedConfig, SeedWorld, "the generator this system began with, to reproduce its figures"),
    "rules": (RulesConfig, RulesWorld, "1, 2 or 3 memory regions matter, each found by a hash of the characteristics"),
    "pointers": (PointersConfig, PointersWorld, "the words read at one step hold the address the next step needs"),
    "physics": (PhysicsConfig, PhysicsWorld, "simulated bodies, from cartpole to halfcheetah, whose physics is hidden"),
    "arrays": (ArraysConfig, ArraysWorld, "your own trajectories, from an .npz file"),
}
"""Name to config class, world class and a line that describes it."""

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "str": (str,),
}


def build_world(name: str, settings: Mapping[str, Any], seed: int) -> World:
    """Build a world.

    Args:
        name: a key of ``WORLDS``.
        settings: fields of its config; the others keep their defaults.
        seed: 0 or more; of the content, the placement and the bodies.

    Raises:
        ConfigError: the world or a setting is not known, or a value is of the wrong type or out of range.
        DataError: the world's file cannot be used.
    """
    if name not in WORLDS:
        raise ConfigError(f"world {name!r} is not known{nearest(name, tuple(WORLDS))}: use {listed(tuple(WORLDS))}.")
    if seed < 0:
        raise ConfigError(f"{name}: seed is {seed}, below its least value 0: give 0 or more.")
    config_class, world_class, _ = WORLDS[name]
    known = {field.name: field for field in fields(config_class)}
    for setting, value in settings.items():
        _check_setting(name, setting, value, known)
    return world_class(config_class(**settings), seed)


def _check_setting(world: str, setting: str, value: Any, known: dict[str, Field[Any]]) -> None:
    if setting not in known:
        hint = nearest(setting, tuple(known))
        raise ConfigError(f"{world}: setting {setting!r} is not known{hint}: use {listed(tuple(known))}.")
    # Annotations are text in modules that postpone them, as all of these do.
    wanted = str(known[setting].type)
    if not isinstance(value, _TYPES[wanted]) or isinstance(value, bool):
        default = known[setting].default
        example = "" if default in (MISSING, "") else f", such as {default!r}"
        raise ConfigError(f"{world}: {setting} is {value!r}, not of type {wanted}: give one{example}.")
