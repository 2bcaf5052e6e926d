"""Files to begin with, as they come with the package."""

from __future__ import annotations

from importlib import resources

from leworld.errors import ConfigError

FOLDERS = {"local": "ray", "aws": "ray", "gcp": "ray", "raycluster": "kuberay", "rayjob": "kuberay"}
"""By name: those of ``ray up``, and those of ``kubectl apply``."""


def example_text(name: str) -> str:
    """A cluster file as it comes with the package.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in FOLDERS:
        raise ConfigError(f"example {name}: there is none; give one of {', '.join(FOLDERS)}")
    return (resources.files("cluster") / FOLDERS[name] / f"{name}.yaml").read_text(encoding="utf-8")
