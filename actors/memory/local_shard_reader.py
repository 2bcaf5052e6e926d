"""Shards that lie on this machine, read where they are: their files are mapped, and nobody is asked.

A leader's lease says until when its files may be read, and the map's version in them whether what was read is there
still; see ``leworld.store.mapped_memory``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.processes import machine_id
from leworld.errors import LeWorldError, StoreError
from leworld.memory.partition import Fragments
from leworld.store.mapped_memory import MappedMemory

LOOK_S = 1.0
"""After that long a shard that could not be mapped is looked for again."""


class LocalShardReader:
    """Of one client."""

    def __init__(self, whereabouts: Callable[[int], dict[str, Any]]) -> None:
        """Ask for shards as they are needed.

        Args:
            whereabouts: the ``root`` of a shard's leader, and the ``machine`` that it is on.
        """
        self._whereabouts = whereabouts
        self._readers: dict[int, MappedMemory] = {}
        self._looked: dict[int, float] = {}

    def read(self, part: Fragments, map_version: int) -> NDArray[np.uint32] | None:
        """(W,) words of fragments of one shard; None where it has to be asked.

        Args:
            part: not empty.
            map_version: by which the shard has them.
        """
        shard = int(part.shard[0])
        reader = self._readers.get(shard) or self._look_for(shard)
        if reader is None:
            return None
        try:
            found = reader.read(part.start, part.length)
        except StoreError:
            # It does not lead any more, or a page is damaged, which it can mend.
            del self._readers[shard]
            return None
        return found.words if reader.state.map_version == map_version else None

    def forget(self) -> None:
        """Let go of all files."""
        self._readers.clear()

    def _look_for(self, shard: int) -> MappedMemory | None:
        if time.monotonic() - self._looked.get(shard, -LOOK_S) < LOOK_S:
            return None
        self._looked[shard] = time.monotonic()
        with suppress(LeWorldError, OSError):
            found = self._whereabouts(shard)
            if found["machine"] == machine_id():
                self._readers[shard] = MappedMemory(Path(found["root"]))
        return self._readers.get(shard)
