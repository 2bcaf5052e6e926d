"""LeWorld: a world model that looks things up in a memory of bits.

>>> model = leworld.load("runs/latest")

See docs/python.md. Names are loaded when they are first used, so that the import itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leworld.api.loading import load as load
    from leworld.api.memory import ModelMemory as ModelMemory
    from leworld.api.model import Model as Model
    from leworld.api.results import PredictedPath as PredictedPath
    from leworld.api.results import PredictedStep as PredictedStep
    from leworld.api.results import Read as Read
    from leworld.api.results import WriteReceipt as WriteReceipt
    from leworld.api.session import Session as Session
    from leworld.errors import CheckpointError as CheckpointError
    from leworld.errors import ConfigError as ConfigError
    from leworld.errors import DataError as DataError
    from leworld.errors import LeWorldError as LeWorldError
    from leworld.errors import RangeError as RangeError

_HOMES = {
    "leworld.api.loading": ("load",),
    "leworld.api.memory": ("ModelMemory",),
    "leworld.api.model": ("Model",),
    "leworld.api.results": ("PredictedPath", "PredictedStep", "Read", "WriteReceipt"),
    "leworld.api.session": ("Session",),
    "leworld.errors": ("CheckpointError", "ConfigError", "DataError", "LeWorldError", "RangeError"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'leworld' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
