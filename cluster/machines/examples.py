"""Files to begin with, as they come with the package."""

from __future__ import annotations

from importlib import resources

from leworld.errors import ConfigError

EXAMPLES = ("local", "aws", "gcp", "raycluster", "rayjob")
"""The first three are for ``ray up``, the others for ``kubectl apply``."""


def example_text(name: str) -> str:
    """A cluster file as it comes with the package.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"example {name}: there is none; give one of {', '.join(EXAMPLES)}")
    return (resources.files("cluster.machines") / "templates" / f"{name}.yaml").read_text(encoding="utf-8")
