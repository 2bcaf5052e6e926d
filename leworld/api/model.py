"""Model: a system ready to predict, with its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from leworld.api.folder import save_folder
from leworld.api.memory import ModelMemory
from leworld.api.parts import ModelParts
from leworld.api.session import Session
from leworld.api.units import UserUnits
from leworld.memory import WordStore
from leworld.models.system import System


class Model:
    """A trained system, made by ``leworld.load``.

    Attributes:
        memory: the words that it reads; a write takes effect with the next prediction.
        slms: numbers of the SLMs, in the order of a mask's columns.
        system: the BLM, the SLMs and the memory, for use with torch tensors.
        units: sizes and units of the world.
    """

    def __init__(self, parts: ModelParts, device: str = "cpu") -> None:
        self._parts = parts
        store = WordStore(parts.spec.address_bits)
        store.restore(parts.memory)
        self.system: System = parts.build(store, device)
        self.units = UserUnits(parts.spec, parts.format)
        self.memory = ModelMemory(store, self.units)
        self.slms = list(parts.slm_ids)

    def session(self, characteristics: ArrayLike, *, watch_health: bool = False) -> Session:
        """Begin one episode, or several at once.

        Args:
            characteristics: (C,) of one body; (B, C) for B episodes side by side.
            watch_health: exclude SLMs that fail the health check, until their reads are believed again. It expects
                that each body's block in memory is full.

        Raises:
            DataError: the characteristics do not fit the world.
        """
        return Session(self.system, self.units, self.memory, characteristics, watch_health)

    def save(self, folder: str | Path) -> Path:
        """Write the model with its present memory to a new folder that ``leworld.load`` reads.

        Raises:
            DataError: the folder is not empty.
        """
        return save_folder(self._parts.with_memory(self.memory.snapshot()), Path(folder))

    def describe(self) -> dict[str, Any]:
        """Sizes of the world and the model, as plain values."""
        units, records = self.units, self.units.format
        return {
            "world": units.spec.name,
            "state": units.state_dim,
            "action": units.action_dim,
            "characteristics": units.char_dim,
            "slms": self.slms,
            "records_of_a_body": None if records is None else records.num_records,
            "address_bits": units.spec.address_bits,
            "trained_to": dict(self._parts.trained_to),
        }

    def __repr__(self) -> str:
        units = self.units
        return (
            f"Model(world {units.spec.name}: state {units.state_dim}, action {units.action_dim}, "
            f"characteristics {units.char_dim}; {len(self.slms)} SLMs)"
        )
