"""The configuration of a run: one tree of frozen dataclasses, each checked by its owner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from cluster.run.devices import Wish
from leworld.errors import ConfigError
from leworld.evaluation.gate import EvaluationConfig
from leworld.models.system import ModelConfig
from leworld.training.phase_runner import PhasesConfig
from leworld.worlds.base import WorldSpec
from leworld.worlds.registry import WORLDS


@dataclass(frozen=True)
class WorldSettings:
    """The world's name and the settings that differ from its defaults."""

    name: str = "physics"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterConfig:
    """Where a run happens.

    Attributes:
        mode: ``ray`` runs the parts as actors; ``inline`` runs all of them in one process, without Ray.
        address: host:port of a Ray cluster to join, or ``auto`` for this machine's; none starts one for the run. The
            learner may run on any machine of a cluster, so all of them must see ``output.dir``.
        shards: memory shards.
        copies: of each shard, on different machines where there are several. A shard that dies with its machine is lost
            where it has no other copy; the run goes on from its last checkpoint then.
        slm_actors: processes that share the SLMs.
        learners: processes that share each step of the BLM; fewer where there are not CPUs for all. Their number
            changes the order of sums, and so the last bits.
        timeout_s: of every call to an actor.
        threads: CPU threads of each learner. More than 1 changes the order of sums, and so the last bits.
        device: of the learner and the evaluation: ``auto`` takes a GPU where there is one, ``cuda`` insists on one for
            the learner. A GPU gives the same numbers to rounding, not to the bit. SLMs and memory stay on the CPU.
        max_failures: times that a run goes on from its last checkpoint by itself, after a lost learner or another part
            that died.
    """

    mode: Literal["ray", "inline"] = "ray"
    address: str | None = None
    shards: int = 2
    copies: int = 1
    slm_actors: int = 3
    learners: int = 1
    timeout_s: float = 60.0
    threads: int = 1
    device: Wish = "auto"
    max_failures: int = 3

    def __post_init__(self) -> None:
        _at_least("cluster", self, 1, "shards", "copies", "slm_actors", "learners", "threads")
        if self.learners > 1 and self.mode == "inline":
            raise ConfigError(
                f"cluster.learners {self.learners} with cluster.mode inline, which is one process: use ray"
            )
        _at_least("cluster", self, 0, "max_failures")
        if not self.timeout_s > 0:
            raise ConfigError(f"cluster.timeout_s {self.timeout_s} is not above 0: give seconds, such as 60")


@dataclass(frozen=True)
class OutputConfig:
    """What a run leaves behind.

    Attributes:
        dir: each run makes a directory of its own in it.
        checkpoint_every: steps between checkpoints; one is kept at the end of every phase too.
    """

    dir: str = "runs"
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        _at_least("output", self, 1, "checkpoint_every")


@dataclass(frozen=True)
class RunConfig:
    """All that a run follows from: the same config and seed give the same bits."""

    name: str = "run"
    seed: int = 0
    world: WorldSettings = field(default_factory=WorldSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    phases: PhasesConfig = field(default_factory=PhasesConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise ConfigError(f"name {self.name!r} cannot name a directory: use letters, digits, '-' and '_'")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed {self.seed} is outside [0, 2**63): give one in that range")
        if self.world.name not in WORLDS:
            near = get_close_matches(self.world.name, WORLDS, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"world.name {self.world.name!r} is no world; nearest known: {near}; see 'leworld worlds'"
            )


def parse_config(tree: Mapping[str, Any]) -> RunConfig:
    """Check a tree of plain values and build the config.

    Raises:
        ConfigError: a key is unknown (its nearest neighbour is named), or a value is of the wrong type or out of range.
    """
    check_keys(tree)
    try:
        # Strict: no text counts as a number. As JSON, for only there may a mapping stand for a dataclass.
        return TypeAdapter(RunConfig).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_first_line(error)) from None


def check_keys(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first key that no part of the config has."""
    world = tree.get("world")
    name = world.get("name", WorldSettings.name) if isinstance(world, Mapping) else WorldSettings.name
    if not isinstance(name, str) or name not in WORLDS:
        # An unknown world has no known settings; a later check reports its name.
        tree, name = {**tree, "world": {"name": name}}, ""
    known = list(known_keys(RunConfig, name))
    for key in _keys(tree):
        if key not in known:
            raise ConfigError(f"config: unknown key {key}; nearest known: {nearest_key(key, known)}")


def known_keys(owner: type, world_name: str, prefix: str = "") -> Iterator[str]:
    """Every key of a config, with the settings of its world."""
    hints = get_type_hints(owner)
    for part in fields(owner):
        key = prefix + part.name
        yield key
        if is_dataclass(hints[part.name]):
            yield from known_keys(hints[part.name], world_name, f"{key}.")
        elif key == "world.settings" and world_name in WORLDS:
            yield from (f"{key}.{setting.name}" for setting in fields(WORLDS[world_name][0]))


def nearest_key(key: str, known: list[str]) -> str:
    """The nearest key of the same section, or else of all."""
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    close = get_close_matches(key, siblings, n=1, cutoff=0.7) if section else get_close_matches(key, siblings, n=1)
    leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
    leaf = get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.7)
    if not close and leaf:
        return leaves[leaf[0]]
    return (close or get_close_matches(key, known, n=1, cutoff=0.0))[0]


def check_world(config: RunConfig, spec: WorldSpec) -> None:
    """Raise ConfigError unless the world and the model fit."""
    if spec.num_tables != config.model.num_slms:
        raise ConfigError(
            f"world {spec.name} has {spec.num_tables} tables for {config.model.num_slms} SLMs: each SLM serves one; "
            "set model.num_slms and world.settings.num_tables alike"
        )


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, ConfigError):
        return str(own)
    where = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "dataclass_type":
        return f"config: {where} is {first['input']!r}, but a mapping of settings is needed"
    return f"config: {where} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _at_least(owner: str, config: object, minimum: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < minimum:
            raise ConfigError(f"{owner}.{name} {value} is below {minimum}: give {minimum} or more")
