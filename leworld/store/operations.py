"""What can be done with a memory beside reading and writing, as functions from plain arguments to plain results.

Command line and server share them. Arguments come from outside: each is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.errors import ConfigError, RightsError, StoreError
from leworld.store.access_control import Grant, Rights, load_rights, save_rights
from leworld.store.durable_store import DurableStore
from leworld.store.erasure import Erasure
from leworld.store.journal.record import Record

Arguments = Mapping[str, Any]
Result = tuple[dict[str, Any], NDArray[np.uint32]]
ADMIN = "admin"
_NOTHING = np.zeros(0, np.uint32)
_LARGEST_LOG = 10_000


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    who: str

    def must_be_admin(self) -> None:
        """Raise RightsError unless it is the one who keeps the memory."""
        if self.who != ADMIN:
            raise RightsError(f"{self.who or 'nobody'} may not do this: only {ADMIN} may")

    def must_read(self, store: DurableStore, address: int | None) -> None:
        """Raise RightsError unless it may read an address, or is the one who keeps the memory."""
        if self.who == ADMIN:
            return
        if address is None:
            self.must_be_admin()
        else:
            place, one = np.array([address]), np.ones(1, np.int64)
            if not load_rights(store.layout, store.num_words).may_read(self.who, place, one).all():
                raise RightsError(f"address {address} is not {self.who or 'nobody'}'s to ask about: ask its owner")


def stat(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """Sizes, counts, and what the memory is."""
    return store.stat(), _NOTHING


def pages(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """The pages that hold anything, ascending, as words."""
    caller.must_be_admin()
    return {}, store.written_pages().astype(np.uint32)


def create_version(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """Keep a version ``name``; with ``of``, another one under this name."""
    caller.must_be_admin()
    return vars(store.create_version(text(arguments, "name"), text(arguments, "of", "now"))), _NOTHING


def drop_version(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """Keep version ``name`` no longer."""
    caller.must_be_admin()
    store.drop_version(text(arguments, "name"))
    return {}, _NOTHING


def versions(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """The versions that are kept."""
    return {"versions": [vars(version) for version in store.versions]}, _NOTHING


def rollback_to(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """Make the content that of version ``name``."""
    caller.must_be_admin()
    store.rollback_to(text(arguments, "name"))
    return {"sequence": store.sequence}, _NOTHING


def diff(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """The words that differ between ``before`` and ``after``: addresses, then words of before, then of after."""
    caller.must_be_admin()
    found = store.versions.diff(text(arguments, "before"), text(arguments, "after", "now"))
    words = np.concatenate([found.address.astype(np.uint32), found.before, found.after])
    return {"num_words": len(found.address)}, words


def log(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """The last ``limit`` records, those that touched ``address`` where one is given: for whoever may read that."""
    address = number(arguments, "address", 0, store.num_words - 1) if "address" in arguments else None
    caller.must_read(store, address)
    records = store.log(number(arguments, "limit", 0, _LARGEST_LOG, 20), address=address)
    return {"records": [describe(record) for record in records]}, _NOTHING


def why(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """The record that set the word at ``address`` last, for whoever may read it."""
    address = number(arguments, "address", 0, store.num_words - 1)
    caller.must_read(store, address)
    record = store.why(address)
    return {"record": None if record is None else describe(record)}, _NOTHING


def erase(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """Take out what write ``sequence`` wrote; the receipt."""
    caller.must_be_admin()
    return erasure_to_map(store.eraser.erase(number(arguments, "sequence", 0, 1 << 62))), _NOTHING


def verify(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """The pages that are not what was written; with ``erasure``, whether it is done."""
    if "erasure" in arguments:
        return {"erased": store.eraser.is_erased(erasure_from_map(arguments["erasure"]))}, _NOTHING
    caller.must_be_admin()
    return {"damaged": store.verify().tolist()}, _NOTHING


def grant(store: DurableStore, caller: Caller, arguments: Arguments) -> Result:
    """Give ``[first, stop)`` to ``owner``, and to ``readers`` to read; with ``take_back``, to everyone again."""
    caller.must_be_admin()
    first, stop = (number(arguments, name, 0, store.num_words) for name in ("first", "stop"))
    known = load_rights(store.layout, store.num_words).grants
    rest = [g for g in known if (g.first, g.stop) != (first, stop)]
    if arguments.get("take_back") and len(rest) == len(known):
        names = ", ".join(f"[{g.first}, {g.stop})" for g in known) or "none"
        raise StoreError(f"[{first}, {stop}) is not granted, so that it cannot be taken back; those that are: {names}")
    if not arguments.get("take_back"):
        readers = tuple(part for part in text(arguments, "readers", "").split(",") if part)
        rest.append(Grant(first, stop, text(arguments, "owner"), readers))
    rights = Rights(rest, store.num_words)
    save_rights(store.layout, rights)
    return {"grants": [vars(g) for g in rights.grants]}, _NOTHING


OPERATIONS: dict[str, Callable[[DurableStore, Caller, Arguments], Result]] = {
    # Clients of other programs know these three by the names of docs/memory.md.
    "keep": create_version,
    "drop": drop_version,
    "go_back": rollback_to,
    **{function.__name__: function for function in (stat, pages, versions, diff, log, why, erase, verify, grant)},
}


def describe(record: Record) -> dict[str, Any]:
    """A record without its words, as plain values; at most 64 of its ranges."""
    return {
        "sequence": record.sequence,
        "time_ns": record.time_ns,
        "kind": record.kind,
        "writer": record.writer,
        "note": record.note,
        "epoch": record.epoch,
        "crc32": record.crc32,
        "num_ranges": len(record.start),
        "num_words": int(record.length.sum()),
        "start": record.start[:64].tolist(),
        "length": record.length[:64].tolist(),
    }


def erasure_to_map(erasure: Erasure) -> dict[str, Any]:
    """An erasure's receipt as plain values."""
    return {**vars(erasure), "start": erasure.start.tolist(), "length": erasure.length.tolist()}


def erasure_from_map(content: Any) -> Erasure:
    """Inverse of ``erasure_to_map``.

    Raises:
        ConfigError: it is none.
    """
    try:
        start, length = (np.array(content[name], np.int64).reshape(-1) for name in ("start", "length"))
        numbers = {name: int(content[name]) for name in ("erased", "sequence", "crc32")}
        return Erasure(memory=str(content["memory"]), start=start, length=length, **numbers)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ConfigError("this is no receipt of an erasure: give what erase put out") from None


def text(arguments: Arguments, name: str, default: str | None = None) -> str:
    """An argument that has to be a text; ConfigError else."""
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise ConfigError(f"{name} {value!r}: a text is needed")
    return value


def number(arguments: Arguments, name: str, low: int, high: int, default: int | None = None) -> int:
    """An argument that has to be a whole number in a range; ConfigError else."""
    value = arguments.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} {value!r}: a whole number in [{low}, {high}] is needed")
    return value
