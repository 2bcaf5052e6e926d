"""Checks for the settings of all phases."""

from __future__ import annotations

import math

from leworld.errors import ConfigError


def check_fractions(owner: str, config: object, *names: str) -> None:
    """Raise ConfigError unless each field is in [0, 1]."""
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{owner}.{name} {value} is outside [0, 1]: it is a part of a whole")


def check_positive(owner: str, config: object, *names: str) -> None:
    """Raise ConfigError unless each field is finite and above 0."""
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{owner}.{name} {value} is not above 0 and finite: set a positive number")


def check_not_negative(owner: str, config: object, *names: str) -> None:
    """Raise ConfigError unless each field is finite and 0 or more."""
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigError(f"{owner}.{name} {value} is not 0 or more and finite: set 0 to leave it out")
