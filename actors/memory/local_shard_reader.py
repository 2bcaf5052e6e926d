"""Reads shards on this machine from their mapped files, without a call.

The files may be read while the leader's lease lasts. The map version in them says whether the words are
still there; see ``leworld.store.mapped_memory``.
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
    """The local reads of one client."""

    def __init__(self, whereabouts: Callable[[int], dict[str, Any]]) -> None:
        """Prepare; files are mapped when they are first read.

        Args:
            whereabouts: gives the ``root`` and the ``machine`` of a shard's leader.
        """
        self._whereabouts = whereabouts
        self._readers: dict[int, MappedMemory] = {}
        self._looked: dict[int, float] = {}

    def read(self, part: Fragments, map_version: int) -> NDArray[np.uint32] | None:
        """Read (W,) words of fragments of one shard; None if the shard must be called.

        Args:
            part: not empty.
            map_version: of the map that assigns them to the shard.
        """
        shard = int(part.shard[0])
        reader = self._readers.get(shard) or self._look_for(shard)
        if reader is None:
            return None
        try:
            found = reader.read(part.start, part.length)
        except StoreError:
            # It no longer leads, or a page is damaged, which a call repairs.
            del self._readers[shard]
            return None
        return found.words if reader.state.map_version == map_version else None

    def forget(self) -> None:
        """Close all files."""
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
