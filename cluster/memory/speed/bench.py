"""``leworld memory bench``: how fast memory is on this machine, beside what the machine itself can do."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cluster.memory import numbers
from cluster.memory.directory_target import local
from cluster.memory.opening import is_address, reading
from cluster.memory.remote_target import RemoteTarget
from cluster.memory.speed.child_process import Child, turn_of_children
from cluster.memory.speed.turns import Sample, Turn, interleave, timed_turn, turn_of
from cluster.memory.speed.workloads import BLOCKS, Blocks, Plan, fill, floor, gathers, keeps, reads, writes
from cluster.messages import say
from leworld.errors import ConfigError, RightsError, StoreError
from leworld.memory import PAGE_WORDS, Words
from leworld.memory.ranges import check_address_bits
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.journal.journal import POLICIES
from leworld.store.layout import Layout
from leworld.store.mapped_memory import MappedMemory

Outcome = dict[str, Any]
READERS = 2
WIRE_RANGES = 256
MAX_BATCH = 1 << 20
FILL_WORDS = 1 << 26
"""What is written of a wider memory: 256 MiB."""
JOURNAL_BYTES = 192 << 20
"""What journals take at most beside, each."""


@dataclass(frozen=True)
class Options:
    """What was typed.

    Attributes:
        target: a directory or an address; None makes a memory that is deleted afterwards.
        bits: of an address of that memory.
        seconds: that each row is measured.
        range_words: words of a range or a block.
        batch: ranges read at a time.
        policies: under which writes are measured.
        directory: in which the memory that is deleted afterwards lies; None is the system's for such things.
        write: the address from which on a served memory may be overwritten.
        token: for a server.
    """

    target: str | None = None
    bits: int = 16
    seconds: float = 3.0
    range_words: int = PAGE_WORDS
    batch: int = 8192
    policies: Sequence[str] = POLICIES
    directory: Path | None = None
    write: str | None = None
    token: str = ""

    def check(self) -> None:
        """Raise ConfigError where something is out of range or does not go together."""
        check_address_bits(self.bits)
        if not self.seconds > 0:
            raise ConfigError(f"seconds {self.seconds:g}: give more than 0")
        if not 1 <= self.range_words <= PAGE_WORDS:
            raise ConfigError(f"range words {self.range_words}: a range has 1 to {PAGE_WORDS} words; give one of those")
        if not 1 <= self.batch <= MAX_BATCH:
            raise ConfigError(f"batch {self.batch}: give 1 to {MAX_BATCH} ranges")
        if self.write is not None and (self.target is None or "://" not in self.target):
            raise ConfigError(
                f"--write {self.write}: overwrites words of a served memory only; give its address as TARGET, or none"
                " to have a memory made, written and deleted"
            )


@dataclass(frozen=True)
class SpeedRow:
    """A line of the table.

    Attributes:
        name: of it.
        turn: what is measured.
        unit: of what is counted; empty where only the time is of interest.
        unit_bytes: of one of them.
        beside: name of the row that it is compared with.
    """

    name: str
    turn: Turn
    unit: str
    unit_bytes: int = 0
    beside: str = ""


@dataclass
class Bench:
    """Rows, and what is true of all of them."""

    options: Options
    directory: Path
    stack: ExitStack
    rows: list[SpeedRow] = field(default_factory=list)
    facts: Outcome = field(default_factory=dict)

    @property
    def range_bytes(self) -> int:
        """Of a range, and of a block."""
        return 4 * self.options.range_words

    def add(self, name: str, turn: Turn, unit: str, beside: str = "") -> None:
        """One more row."""
        self.rows.append(SpeedRow(name, turn, unit, self.range_bytes if unit else 0, beside))

    def child(self, what: str, *arguments: object) -> Child:
        """A process that ends with the benchmark."""
        return self.stack.enter_context(closing(Child(what, *arguments)))


NUMPY = "numpy, the same ranges"
ALONE, TEAM, WIRE = "read, this process", f"read, {READERS} processes", "read, over the wire"
FLOORS = {
    (1, True): "bare disk, write and sync all at once",
    (BLOCKS, True): "bare disk, write and sync each",
    (1, False): "bare file, write only",
}


def bench(options: Options) -> Outcome:
    """Measure, and leave nothing behind.

    Raises:
        ConfigError: an option is out of range.
        StoreError: there is no such memory, or no room.
    """
    options.check()
    with _scratch(options) as directory, ExitStack() as stack:
        bench = Bench(options, directory, stack)
        if options.target is None:
            _add_made(bench)
        elif is_address(options.target):
            _add_served(bench, options.target)
        else:
            _add_directory(bench, local(options.target))
        found = interleave({row.name: row.turn for row in bench.rows}, options.seconds, say)
        return {**_facts(bench), "rows": [_as_map(row, found) for row in bench.rows]}


@contextmanager
def _scratch(options: Options) -> Iterator[Path]:
    """Make a directory that is deleted afterwards."""
    if options.directory is not None and not options.directory.is_dir():
        raise StoreError(f"{options.directory}: no such directory; name one on the disk to be measured")
    with tempfile.TemporaryDirectory(prefix="leworld-bench-", dir=options.directory) as name:
        yield Path(name)


def _add_made(bench: Bench) -> None:
    """All rows, of memories that are made for them."""
    options = bench.options
    num_words = min(1 << options.bits, FILL_WORDS)
    _check_room(bench.directory, options, num_words)
    say(f"filling two memories with {numbers.size(4 * num_words)} each")
    read, served = bench.directory / "read", bench.directory / "served"
    for root in (read, served):
        with DurableStore.create(root, options.bits, StoreConfig(policy="os")) as store:
            fill(store, num_words)
    bench.facts |= {"memory": str(bench.directory.parent), "num_words": num_words, "disk": file_system(bench.directory)}
    _add_reads(bench, read, Plan(num_words, options.range_words, options.batch))
    child = bench.child("serve a memory", served, options.policies[0])
    wire = Plan(num_words, options.range_words, WIRE_RANGES)
    _add_wire_reads(bench, bench.stack.enter_context(closing(RemoteTarget(child.answer(), ""))), wire, ALONE)
    _add_writes(bench, num_words)
    _add_start(bench, read, wire, writable=True)


def _add_directory(bench: Bench, root: Path) -> None:
    """Add reads of a user's memory, which stays unchanged."""
    options = bench.options
    with reading(str(root), options.token) as memory:
        num_words, pages = memory.num_words, memory.written()
    if not len(pages):
        raise StoreError(f"{root}: holds nothing to be read; leave out TARGET to have a memory made")
    np.save(bench.directory / "pages.npy", pages)
    plan = Plan(num_words, options.range_words, options.batch, str(bench.directory / "pages.npy"))
    bench.facts |= {"memory": str(root), "num_words": len(pages) * PAGE_WORDS, "disk": file_system(root)}
    _add_reads(bench, root, plan)
    _add_start(bench, root, plan, writable=False)


def _add_served(bench: Bench, address: str) -> None:
    """Reads of a served memory, and writes where the user says where."""
    options = bench.options
    memory = bench.stack.enter_context(closing(RemoteTarget(address, options.token)))
    plan = Plan(memory.num_words, options.range_words, WIRE_RANGES)
    try:
        pages = memory.written()
    except RightsError:
        # Only admin is told; what was never written takes no room to read, if it is not too much.
        plan = Plan(min(memory.num_words, FILL_WORDS), options.range_words, WIRE_RANGES)
    else:
        if len(pages):
            np.save(bench.directory / "pages.npy", pages)
            plan = Plan(memory.num_words, options.range_words, WIRE_RANGES, str(bench.directory / "pages.npy"))
    bench.facts |= {"memory": address, "num_words": memory.num_words, "disk": None}
    _add_wire_reads(bench, memory, plan, "")
    if options.write is not None:
        _add_wire_writes(bench, memory, options.write)


def _add_reads(bench: Bench, root: Path, plan: Plan) -> None:
    """Reads in this process, beside bare numpy, and in others."""
    bench.add(ALONE, turn_of(reads(MappedMemory(root), plan, warm=True)), "ranges/s", NUMPY)
    bench.add(NUMPY, turn_of(gathers(Layout(root).words, plan)), "ranges/s")
    plans = [Plan(**{**vars(plan), "seed": 1 + number}).text() for number in range(READERS)]
    group = [bench.child("read a memory", root, text) for text in plans]
    for child in group:
        child.answer()
    bench.add(TEAM, turn_of_children(group), "ranges/s", ALONE)


def _add_wire_reads(bench: Bench, memory: RemoteTarget, plan: Plan, beside: str) -> None:
    bench.add(WIRE, turn_of(reads(memory.client, plan)), "ranges/s", beside)


def _add_wire_writes(bench: Bench, memory: RemoteTarget, address: str) -> None:
    """Writes over the wire into the stretch that the user gave away."""
    first, length = numbers.address(address, memory.num_words), bench.options.range_words
    numbers.span(first, BLOCKS * length, memory.num_words)
    blocks = Blocks.within(first, BLOCKS * length, length)
    start, offsets = blocks.starts[0], np.arange(BLOCKS + 1) * length

    def write() -> int:
        memory.client.write_ragged(start, Words(blocks.words.reshape(-1), offsets))
        return BLOCKS

    def write_each() -> int:
        for at, words in zip(start, blocks.words, strict=True):
            memory.client.write_ragged([at], Words(words, np.array([0, length])))
        return BLOCKS

    bench.add(f"write over the wire, 1 write of {BLOCKS} blocks", turn_of(write), "blocks/s")
    bench.add(f"write over the wire, {BLOCKS} writes, one after another", turn_of(write_each), "blocks/s")


def _add_writes(bench: Bench, num_words: int) -> None:
    """Acknowledged writes under each policy, the bare disk, and keeping a version."""
    options = bench.options
    blocks = Blocks.within(0, num_words, options.range_words)
    floors: dict[tuple[int, bool], None] = {}
    for policy in options.policies:
        store = DurableStore.create(bench.directory / policy, options.bits, StoreConfig(policy=policy))
        # What is left of it is deleted, whatever state Ctrl-C left it in.
        bench.stack.callback(store.abandon)
        synced, parts = policy != "os", BLOCKS if policy == "always" else 1
        floors |= dict.fromkeys([(1, synced), (parts, synced)])
        whole = turn_of(writes(store, blocks.together(), one_by_one=False))
        each = turn_of(writes(store, blocks.apart(), one_by_one=parts > 1))
        how = "one after another" if parts > 1 else "together"
        bench.add(f"write {policy}, 1 write of {BLOCKS} blocks", whole, "blocks/s", FLOORS[1, synced])
        bench.add(f"write {policy}, {BLOCKS} writes {how}", each, "blocks/s", FLOORS[parts, synced])
        if policy == ("group" if "group" in options.policies else options.policies[-1]):
            bench.add("keep a version", keeps(store, blocks), "")
    for parts, synced in floors:
        file = os.open(bench.directory / f"bare-{parts}-{synced}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        bench.stack.callback(os.close, file)
        bare = floor(file, bench.range_bytes, parts=parts, synced=synced)
        bench.add(FLOORS[parts, synced], turn_of(bare), "blocks/s")


def _add_start(bench: Bench, root: Path, plan: Plan, *, writable: bool) -> None:
    """From opening to the first read, each time in a process of its own."""

    def start() -> float:
        with closing(Child("open a memory", root, plan.text(), "yes" if writable else "no")) as child:
            return float(child.answer())

    once = timed_turn(start)
    bench.add(f"start, open to {'write' if writable else 'read'} and first read", lambda _: once(0.0), "")


def _check_room(directory: Path, options: Options, num_words: int) -> None:
    """Raise StoreError where the disk has no room for all that is written."""
    stores = 2 + len(options.policies)
    sums = (1 << options.bits) // PAGE_WORDS * 5
    needed = stores * (4 * num_words + sums + JOURNAL_BYTES)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StoreError(
            f"{directory.parent}: has {numbers.size(free)} free, {numbers.size(needed)} may be needed:"
            " name another directory with --dir, or fewer --bits"
        )


def file_system(path: Path) -> str:
    """The kind of the file system on which something lies."""
    where, found = path.resolve(), [("", "unknown")]
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, kind, *_ = line.split(" ")
        if where.is_relative_to(mount):
            found.append((mount, kind))
    return max(found, key=lambda each: len(each[0]))[1]


def _facts(bench: Bench) -> Outcome:
    options = bench.options
    machine = {
        "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
        "numpy": np.__version__,
    }  # fmt: skip
    settings = {
        "bits": options.bits, "seconds": options.seconds, "range_words": options.range_words, "batch": options.batch,
        "policies": list(options.policies), "readers": READERS, "wire_ranges": WIRE_RANGES, "blocks": BLOCKS,
    }  # fmt: skip
    return {"target": options.target, "machine": machine, "settings": settings, **bench.facts}


def _as_map(row: SpeedRow, found: dict[str, Sample]) -> Outcome:
    sample = found[row.name]
    ratios = sample.against(found[row.beside]) if row.beside else None
    return {
        "name": row.name, "unit": row.unit or None,
        "rate": sample.rate if row.unit else None, "rates": sample.rates if row.unit else None,
        "bytes_per_s": sample.rate * row.unit_bytes if row.unit else None,
        "p50_s": sample.at(50), "p99_s": sample.at(99), "batches": len(sample.times),
        "beside": row.beside or None, "ratio": None if ratios is None else float(np.median(ratios)),
        "ratio_quartiles": None if ratios is None else np.percentile(ratios, [25, 75]).tolist(),
    }  # fmt: skip
