"""Ray's own check of the config of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any


def config_complaint(config: Mapping[str, Any]) -> str | None:
    """Return the line that 'ray up' would refuse a config with, or None."""
    # There is no public way to the check.
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        validate_config(prepare_config(dict(config)))
    except Exception as error:
        where = ".".join(map(str, getattr(error, "absolute_path", ())))
        line = " ".join((getattr(error, "message", "") or str(error) or type(error).__name__).split())
        return f"{where}: {line}" if where else line
    return None
