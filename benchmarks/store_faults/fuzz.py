"""Bytes that nobody wrote: records and files, random or changed, some of them with right checksums."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from leworld.errors import LeWorldError
from leworld.store.durable_store import DurableStore
from leworld.store.journal.record import MAGIC, PREFIX_BYTES, Record, decode_at, encode
from leworld.store.journal.segment import segment_paths
from leworld.store.layout import write_map

from .counts import Counts
from .flips import SMALL, Memories, prepare
from .model import Model
from .processes import outcome
from .stores import content, copy_of

DECODES_A_PROCESS = 20_000
OPENS_A_PROCESS = 200
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2**31, 2**32, 2**63, -(2**63), 2**64 - 1, True, None, 0.5, "", "a", "write", "erase", "restore",
    b"", b"\0", bytes(4), bytes(6), b"\xff" * 8, [], [1], {}, {"a": 1},
)  # fmt: skip
MAPS = {
    "identity": {"version": 1, "address_bits": 16, "id": "x", "created_ns": 1},
    "checkpoint": {"sequence": 5},
    "versions": {"versions": [["a", 5, 1], ["b", 7, 2]]},
}


def fuzz(directory: Path, decodes: int, opens: int, seed: int) -> list[Counts]:
    """Decode so many records and open so many memories, in processes that must not die."""
    memories = prepare(directory, seed)
    decoded = _in_batches("fuzzed record", decode_many, decodes, DECODES_A_PROCESS, seed, None)
    opened = _in_batches("fuzzed file, memory opened", open_many, opens, OPENS_A_PROCESS, seed, (directory, memories))
    return [decoded, opened]


def _in_batches(name: str, target: Callable[..., Counts], count: int, batch: int, seed: int, given: Any) -> Counts:
    counts = Counts(name)
    for first in range(0, count, batch):
        number = min(batch, count - first)
        found, line = outcome(target, name, number, seed + first, given, seconds=60 + number)
        if found is None:
            found = Counts(name, injected=number, died=1, lines=[f"seed {seed + first}: {line}"])
        counts.add(found)
    return counts


def decode_many(name: str, count: int, seed: int, _: None) -> Counts:
    """Decode records that were changed; what is decoded and not refused must be encoded as it was."""
    random, counts, good = np.random.default_rng(seed), Counts(name, injected=count), (some_record(), several())
    for number in range(count):
        data = changed(good[number % 2], random) if random.random() < 0.5 else crafted(random)
        try:
            found = decode_at(data, 0)
        except LeWorldError as error:
            counts.refused += "\n" not in str(error)
        except Exception as error:
            counts.died += 1
            counts.tell(f"{type(error).__name__}: {error}: {data[:80].hex()}")
        else:
            same = found is None or decode_at(b"".join(encode(found[0])), 0) is not None
            counts.right += same
            counts.lost += not same
    return counts


def some_record() -> bytes:
    """Of a write that changed two pages."""
    before = np.arange(512, dtype=np.uint32).reshape(2, 256)
    start, length = np.array([5, 300]), np.array([2, 1])
    words = np.array([1, 2, 3], np.uint32)
    return b"".join(encode(Record(7, 8, start, length, words, np.array([0, 1]), before, 99, 3, 7, "write", "ann", "x")))


def several() -> bytes:
    """Of two writes that came together."""
    found = decode_at(some_record(), 0)
    assert found is not None
    writes = ((1, 99, "ann", "x"), (1, 98, "", ""))
    return b"".join(encode(replace(found[0], kind="writes", writes=writes)))


def changed(good: bytes, random: np.random.Generator) -> bytes:
    """Bytes with bits flipped, a stretch zeroed, cut out, doubled or made random, or an end cut off or put on."""
    data = bytearray(good)
    for _ in range(int(random.integers(1, 4))):
        first = int(random.integers(0, len(data) + 1))
        last = min(len(data), first + int(random.integers(1, 64)))
        action = int(random.integers(0, 7))
        if action == 0 and first < len(data):
            data[first] ^= 1 << int(random.integers(0, 8))
        elif action == 1:
            data[first:last] = bytes(last - first)
        elif action == 2:
            del data[first:last]
        elif action == 3:
            data[first:first] = data[first:last]
        elif action == 4:
            data[first:last] = random.bytes(last - first)
        elif action == 5:
            del data[first:]
        else:
            data += random.bytes(int(random.integers(1, 64)))
    return bytes(data)


def crafted(random: np.random.Generator) -> bytes:
    """A record with a right checksum of a header and a body that make no sense."""
    header = msgpack.unpackb(some_record()[PREFIX_BYTES:-2060])
    for name in header:
        if random.random() < 0.3:
            header[name] = VALUES[int(random.integers(0, len(VALUES)))]
    if random.random() < 0.1:
        header.pop(next(iter(header)))
    raw = msgpack.packb(header)
    if random.random() < 0.2:
        raw = changed(raw, random)
    body = bytes(4 * int(random.integers(0, 600)) + (0 if random.random() < 0.9 else 1))
    frame = struct.pack("<4sIQ", MAGIC, len(raw), len(body))
    return frame + struct.pack("<I", zlib.crc32(body, zlib.crc32(raw, zlib.crc32(frame)))) + raw + body


def open_many(name: str, count: int, seed: int, given: tuple[Path, Memories]) -> Counts:
    """Open memories of which one file was changed; what can be read must be right, unless checksums were made right."""
    (directory, memories), random, counts = given, np.random.default_rng(seed), Counts(name, injected=count)
    for number in range(count):
        crashed = bool(random.integers(0, 2))
        root = copy_of(memories.crashed if crashed else memories.closed, directory / "fuzzed")
        model = memories.crashed_model if crashed else memories.closed_model
        what = _spoil(root, random)
        _open(root, model, counts, f"seed {seed}, number {number}, {what}", wholly="crafted" not in what)
    return counts


def _spoil(root: Path, random: np.random.Generator) -> str:
    """Change one file; which, and how."""
    name = [*SMALL, "journal", "journal"][int(random.integers(0, len(SMALL) + 2))]
    paths = segment_paths(root / "journal")
    path = paths[int(random.integers(0, len(paths)))] if name == "journal" else root / name
    if random.random() < 0.6:
        path.write_bytes(changed(path.read_bytes(), random))
        return f"{path.name} changed"
    if name in MAPS:
        known = dict(MAPS[name])
        key = list(known)[int(random.integers(0, len(known)))]
        value = VALUES[int(random.integers(0, len(VALUES)))]
        write_map(path, known | {key: [["a", value, value]] if random.random() < 0.3 else value})
    else:
        sequence = int(path.stem) if name == "journal" else 1
        data = _numbered(crafted(random), sequence)
        path.write_bytes(data + path.read_bytes() if random.random() < 0.5 else path.read_bytes() + data)
    return f"{path.name} crafted"


def _numbered(data: bytes, sequence: int) -> bytes:
    """A record with the number that is due, if it can have one."""
    try:
        found = decode_at(data, 0)
    except LeWorldError:
        return data
    return data if found is None else b"".join(encode(replace(found[0], sequence=sequence)))


def _open(root: Path, model: Model, counts: Counts, what: str, *, wholly: bool) -> None:
    try:
        with DurableStore(root) as store:
            words = content(store)
            store.log(1000)
            for version in store.versions:
                found = store.versions.diff(version.name)
                right = model.kept.get(version.name)
                if wholly and right is not None and not np.array_equal(found.before, right[found.address]):
                    counts.lost += 1
                    counts.tell(f"{what}: version {version.name}")
    except LeWorldError as error:
        counts.refused += "\n" not in str(error)
        return
    except Exception as error:
        counts.died += 1
        counts.tell(f"{what}: {type(error).__name__}: {error}")
        return
    wrong = int((words != model.words).sum()) if wholly else 0
    counts.right += not wrong
    counts.lost += wrong
    if wrong:
        counts.tell(f"{what}: {wrong} words wrong")
