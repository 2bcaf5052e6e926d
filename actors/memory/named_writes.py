"""Named writes: a write that a client sends again under the same name is applied once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from leworld.store.durable_store import DurableStore

MAX_NAMES = 1 << 14
"""Named writes that are remembered: one may come again only before so many others."""
Made = tuple[int, int]
"""Sequence and checksum of a write."""


class NamedWrites:
    """The latest named writes of a store."""

    def __init__(self, store: Callable[[], DurableStore]) -> None:
        """Use the writes of the current store."""
        self._store = store
        self._known: dict[str, Made] | None = None

    def known(self) -> dict[str, Made]:
        """Return the writes by name, at first those of the journal."""
        if self._known is None:
            records = reversed(self._store().log(MAX_NAMES))
            self._known = {r.note: (r.sequence, r.crc32) for r in records if r.kind == "write" and r.note}
        return self._known

    def not_made(self, names: Sequence[str]) -> list[int]:
        """Return which writes to apply: those without a name, and the first of each new name."""
        found, seen = [], set(self.known() if any(names) else ())
        for i, name in enumerate(names):
            if not name or name not in seen:
                found.append(i)
                seen.add(name)
        return found

    def remember(self, made: Mapping[str, Made]) -> None:
        """Add applied writes."""
        named = {name: write for name, write in made.items() if name}
        if named:
            known = self.known()
            known.update(named)
            for name in list(known)[: max(0, len(known) - MAX_NAMES)]:
                del known[name]

    def forget(self) -> None:
        """Read the journal again, because other processes have written."""
        self._known = None
