"""CRC-32 as zlib has it, by ``isal`` where that is installed: the same numbers, up to ten times as fast.

Source: carry-less multiplication, https://github.com/intel/isa-l
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable


def _fastest() -> Callable[..., int]:
    try:
        return importlib.import_module("isal.isal_zlib").crc32
    except ImportError:
        return zlib.crc32


crc32 = _fastest()
