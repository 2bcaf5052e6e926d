"""CRC-32 as zlib has it, by ``isal`` where that is installed: the same numbers, ten times as fast.

Source: carry-less multiplication, https://github.com/intel/isa-l
"""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32  # pyright: ignore[reportMissingImports]
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
