"""The work of the commands: functions from arguments to plain results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.json_files import to_json, write_text
from cluster.memory import numbers
from cluster.memory.directory_target import local, make_empty, make_whole
from cluster.memory.forks import tell_of_forks
from cluster.memory.opening import is_directory, reading, writing
from cluster.memory.target import MemoryTarget, Outcome, page_cuts
from leworld.errors import ConfigError, RangeError, StoreError
from leworld.memory import Words, load_snapshot, save_snapshot
from leworld.store.layout import Layout, read_identity
from leworld.store.operations import erasure_from_map
from leworld.store.search import CHUNK_WORDS, find

T = TypeVar("T")
JSON_WORDS = 1 << 20


def create(directory: Path, address_bits: int) -> Outcome:
    """Make an empty memory."""
    if Layout(directory).identity.exists():
        raise StoreError(f"{directory}: holds a memory already; name another directory")
    make_empty(directory, address_bits)
    identity = read_identity(directory)
    return {"path": str(directory), "id": identity.id, "address_bits": address_bits, "num_words": 1 << address_bits}


def write(target: str, address: str, texts: Sequence[str], file: str | None, writer: str | None, token: str) -> Outcome:
    """Write words as one write, cut into blocks of at most 256."""
    if not texts and file is None:
        raise ConfigError("no words to write: give them after the address, or with --file FILE")
    if texts and file is not None:
        raise ConfigError(f"{len(texts)} words and --file {file}: give one of the two")
    words = numbers.words(texts) if file is None else numbers.words_of_file(file)
    with writing(target, token) as memory:
        first = numbers.address(address, memory.num_words)
        numbers.span(first, len(words), memory.num_words)
        edges = page_cuts(0, len(words))
        receipt = memory.write(first + edges[:-1], Words(words, edges), writer)
        start, length = (first + edges[:-1]).tolist(), np.diff(edges).tolist()
        where = {"address": first, "num_words": len(words), "start": start, "length": length}
        return {**receipt, **where, "address_bits": memory.address_bits}


@dataclass(frozen=True)
class Stretch:
    """Words of a memory in a row, some at a time: ``length`` of them from ``first`` on."""

    first: int
    length: int
    address_bits: int
    chunks: Iterator[NDArray[np.uint32]]


def read(
    target: str,
    address: str,
    length: str,
    version: str | None,
    who: str | None,
    token: str,
    show: Callable[[Stretch], T],
) -> T:
    """Read words and return what ``show`` makes of them."""
    with reading(target, token, who, version) as memory:
        first, count = numbers.address(address, memory.num_words), numbers.number(length, "length")
        numbers.span(first, count, memory.num_words)
        parts = ((first + done, min(CHUNK_WORDS, count - done)) for done in range(0, count, CHUNK_WORDS))
        return show(Stretch(first, count, memory.address_bits, (memory.read(*part) for part in parts)))


def as_list(stretch: Stretch) -> Outcome:
    """Words as plain values.

    Raises:
        RangeError: they are too many for that.
    """
    if stretch.length > JSON_WORDS:
        raise RangeError(f"length {stretch.length}: as JSON at most {JSON_WORDS}; take --format raw, or read in parts")
    words = [word for chunk in stretch.chunks for word in chunk.tolist()]
    return {"address": stretch.first, "address_bits": stretch.address_bits, "words": words}


def find_words(
    target: str, texts: Sequence[str], mask: str, limit: int, who: str | None, version: str | None, token: str
) -> Outcome:
    """Where words occur."""
    pattern, bits = numbers.words(texts), numbers.word(mask, "mask")
    with reading(target, token, who, version) as memory:
        found = find(memory.read, memory.written(), memory.num_words, pattern, bits, limit + 1)
        words = [memory.read(address, len(pattern)).tolist() for address in found[:limit]]
        return {
            "pattern": pattern.tolist(), "mask": bits, "addresses": found[:limit], "words": words,
            "more": len(found) > limit, "address_bits": memory.address_bits,
        }  # fmt: skip


def diff(target: str, before: str, after: str, limit: int, who: str | None, token: str) -> Outcome:
    """The words that differ between two versions."""
    with reading(target, token, who) as memory:
        found = memory.difference(before, after)
        rows = zip(*(part[:limit].tolist() for part in (found.address, found.before, found.after)), strict=True)
        return {
            "before": before, "after": after, "num_words": len(found.address), "address_bits": memory.address_bits,
            "words": [dict(zip(("address", "before", "after"), row, strict=True)) for row in rows],
        }  # fmt: skip


def log(target: str, limit: int, address: str | None, token: str) -> Outcome:
    """The newest records."""
    with reading(target, token) as memory:
        where = None if address is None else numbers.address(address, memory.num_words)
        records = memory.log(limit + 1, where)
        more = len(records) > limit
        return {"records": records[:limit], "more": more, "address": where, "address_bits": memory.address_bits}


def why(target: str, address: str, who: str | None, token: str) -> Outcome:
    """The record that set a word last."""
    with reading(target, token, who) as memory:
        where = numbers.address(address, memory.num_words)
        (word,) = memory.read(where, 1).tolist()
        records = memory.log(1, where)
        record = records[0] if records else None
        link = None if records else memory.link()
        origin = {} if link is None else {"fork_of": link.parent}
        return {"address": where, "word": word, "record": record, "address_bits": memory.address_bits, **origin}


def stat(target: str, token: str) -> Outcome:
    """What a memory is and what it takes."""
    with reading(target, token) as memory:
        return {"target": target, "num_words": memory.num_words, **memory.stat()}


def versions(target: str, token: str) -> Outcome:
    """The versions that are kept."""
    with reading(target, token) as memory:
        return {"versions": memory.versions()}


def verify(target: str, erasure: Path | None, token: str) -> Outcome:
    """Whether all is as it was written, or erased as a receipt says."""
    content = None if erasure is None else _receipt(erasure)
    with reading(target, token) as memory:
        if content is not None:
            return {"erased": memory.is_erased(content), "write": content["erased"]}
        return {**memory.verify(), "address_bits": memory.address_bits}


def is_sound(outcome: Outcome) -> bool:
    """Whether ``verify`` found no error."""
    return outcome["erased"] if "erased" in outcome else not outcome["damaged"] and outcome["journal"] is None


def change(target: str, token: str, action: Callable[[MemoryTarget], Outcome]) -> Outcome:
    """Open a memory for writing and change it."""
    with writing(target, token) as memory:
        return action(memory)


def erase(target: str, sequence: str, receipt: Path | None, token: str) -> Outcome:
    """Erase the words of a write; return the receipt, and write it to a file if one is named."""

    number = numbers.number(sequence, "write")
    if number < 1:
        raise RangeError(f"write {sequence}: writes are counted from 1; leworld memory log lists them")
    if receipt is not None:
        check_writable(receipt)
    outcome = change(target, token, lambda memory: memory.erase(number))
    if receipt is not None:
        _keep_receipt(receipt, outcome)
    tell_of_forks(target)
    return outcome


def grant(target: str, first: str, stop: str, owner: str | None, readers: str, take_back: bool, token: str) -> Outcome:
    """Grant addresses to an owner, or take the grant back."""
    if take_back and owner is not None:
        raise ConfigError(f"owner {owner!r} and --take-back: give one of the two")
    if not take_back and not owner:
        raise ConfigError("no owner to give the addresses to: name one, or take them back with --take-back")
    with writing(target, token) as memory:
        begin = numbers.address(first, memory.num_words, "first address")
        end = numbers.number(stop, "stop address")
        if not begin < end <= memory.num_words:
            raise RangeError(
                f"addresses {first} to {stop}: the stop address is above the first, and up to {memory.num_words}"
            )
        given = {"take_back": True} if take_back else {"owner": owner, "readers": readers}
        return {**memory.grant(first=begin, stop=end, **given), "address_bits": memory.address_bits}


def export_snapshot(target: str, file: Path, version: str | None) -> Outcome:
    """Write the whole content of a memory into one file, also words that are granted to someone."""
    check_writable(file)
    if "://" in target:
        raise StoreError(f"{target}: is an address; this command needs a directory")
    with reading(target, "", None, version) as memory:
        snapshot = memory.snapshot()
    save_snapshot(snapshot, file)
    return {
        "file": str(file), "pages": len(snapshot.pages), "bytes": file.stat().st_size,
        "sequence": snapshot.sequence, "version": version,
    }  # fmt: skip


def import_snapshot(target: str, file: Path) -> Outcome:
    """Replace the content of a memory by that of a file. A directory that does not exist is made."""
    snapshot, root = load_snapshot(file), Path(target)
    is_new = is_directory(target) and not root.exists()
    if is_new:
        root.absolute().parent.mkdir(parents=True, exist_ok=True)
        make_whole(root, snapshot)
    else:
        target = str(local(target)) if is_directory(target) else target
        with writing(target, "") as memory:
            _check_fits(memory, snapshot.address_bits, target, file)
            memory.restore(snapshot)
    return {"path": target, "file": str(file), "pages": len(snapshot.pages), "made": is_new}


def check_writable(file: Path) -> None:
    """Raise StoreError where a file cannot be written; before there is anything to write."""
    parent = file.absolute().parent
    if file.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StoreError(f"{file}: cannot be written; name a file in a directory that exists and is yours")


def _check_fits(memory: MemoryTarget, address_bits: int, target: str, file: Path) -> None:
    if memory.address_bits != address_bits:
        raise StoreError(
            f"{file}: is of a memory of {address_bits} address bits, and {target} has {memory.address_bits};"
            " name a directory that does not exist, and one that fits is made"
        )


def _receipt(file: Path) -> Outcome:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror}); give what erase put out") from None
    except ValueError:
        raise ConfigError(f"{file}: is no receipt of an erasure; give what erase put out") from None
    erasure_from_map(content)
    return content


def _keep_receipt(file: Path, receipt: Outcome) -> None:
    text = to_json(receipt)
    try:
        write_text(file, text + "\n")
    except OSError as error:
        raise StoreError(f"{file}: not written ({error.strerror}), but erased; the receipt is {text}") from None
