"""What ``leworld memory`` prints for people."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.cli.tables import print_table
from cluster.json_files import to_json
from cluster.memory.commands import Stretch
from cluster.memory.numbers import plural, size

Outcome = dict[str, Any]
ROW_WORDS = 8
_NOTES = {
    "restore": "to {}",
    "restored": "to {}",
    "back": "as after write {}",
    "erase": "of write {}",
    "erased": "write {}",
}


def created(outcome: Outcome) -> None:
    """What was made."""
    bits, words = outcome["address_bits"], outcome["num_words"]
    print(f"{outcome['path']}: an empty memory of {words:,} words (2^{bits}), id {outcome['id']}")


def receipt(outcome: Outcome) -> None:
    """A write's receipt in one line."""
    blocks = "" if len(outcome["start"]) == 1 else f" in {len(outcome['start']):,} blocks"
    where = span(outcome["address"], outcome["num_words"], outcome["address_bits"])
    count = plural(outcome["num_words"], "word")
    print(f"write {outcome['sequence']}: {count} at {where}{blocks}, crc32 {outcome['crc32']:08x}")


def dump(stretch: Stretch, kind: str) -> None:
    """Lines of an address and words; lines alike are one, and a star."""
    per_row = 1 if kind == "bits" else ROW_WORDS
    address, previous, starred = stretch.first, None, False
    for chunk in stretch.chunks:
        whole = len(chunk) // per_row * per_row
        rows, due = chunk[:whole].reshape(-1, per_row), 0
        for row in [*np.flatnonzero(~_alike(rows, previous)).tolist(), len(rows)]:
            if row > due and not starred:
                print("*")
            starred = starred or row > due
            if row < len(rows):
                print(_line(address + row * per_row, rows[row], kind, stretch.address_bits))
                starred = False
            due = row + 1
        if whole < len(chunk):
            print(_line(address + whole, chunk[whole:], kind, stretch.address_bits))
            starred = False
        previous, address = rows[-1] if len(rows) else None, address + len(chunk)
    if starred:
        print(_place(address - 1, kind, stretch.address_bits))


def raw(stretch: Stretch) -> None:
    """Little-endian bytes."""
    for chunk in stretch.chunks:
        sys.stdout.buffer.write(chunk.astype("<u4", copy=False).tobytes())
    sys.stdout.buffer.flush()


def found(outcome: Outcome) -> None:
    """A line an address."""
    bits = outcome["address_bits"]
    for address, words in zip(outcome["addresses"], outcome["words"], strict=True):
        print(f"{place(address, bits)}  {' '.join(f'{word:08x}' for word in words)}")
    if outcome["more"]:
        print(f"and more: raise --limit above {len(outcome['addresses'])}")
    elif not outcome["addresses"]:
        print("nowhere")


def differences(outcome: Outcome) -> None:
    """A line a word."""
    bits, shown = outcome["address_bits"], len(outcome["words"])
    for row in outcome["words"]:
        print(f"{place(row['address'], bits)}  {row['before']:08x}  {row['after']:08x}")
    total = plural(outcome["num_words"], "word") if outcome["num_words"] else "no word"
    differ = "differs" if outcome["num_words"] <= 1 else "differ"
    rest = f"; {shown:,} are shown, raise --limit" if shown < outcome["num_words"] else ""
    print(f"{total} {differ} between {outcome['before']} and {outcome['after']}{rest}")


def records(outcome: Outcome) -> None:
    """A line a record, newest first."""
    rows = [_record_row(record, outcome["address_bits"]) for record in outcome["records"]]
    if not rows:
        print("nothing was written yet" if outcome["address"] is None else "never written")
        return
    print_table(rows, ("write", "when", "who", "what", "words", "where"), right=(0, 4))
    if outcome["more"]:
        print(f"and older ones: raise --limit above {len(outcome['records'])}")


def reason(outcome: Outcome) -> None:
    """Which write set a word."""
    record, bits = outcome["record"], outcome["address_bits"]
    print(f"word at {place(outcome['address'], bits)}: {outcome['word']:08x} ({outcome['word']})")
    if record is None:
        parent = outcome.get("fork_of")
        print(
            "never written" if parent is None else f"not written here; this is a fork of {parent}, which may know more"
        )
        return
    print_table(
        [
            ("set by", f"write {record['sequence']}" + ("" if _what(record) == "write" else f", {_what(record)}")),
            ("when", moment(record["time_ns"])),
            ("who", record["writer"] or "-"),
            ("words", f"{record['num_words']:,}, crc32 {record['crc32']:08x}"),
            ("where", _ranges(record, bits, 8)),
        ]
    )


def status(outcome: Outcome) -> None:
    """What a memory is and what it takes."""
    if "shards" in outcome:
        cluster_status(outcome)
        return
    count, bits = outcome["pages_written"], outcome["address_bits"]
    rows = [
        ("memory", f"{outcome.get('path', outcome['target'])}, id {outcome['id']}"),
        ("words", f"{outcome['num_words']:,} (2^{bits}); pages that hold anything: {count:,} ({size(count * 1024)})"),
        ("last write", _last_write(outcome)),
        ("on disk", _on_disk(outcome)),
        ("versions", ", ".join(outcome["versions"]) or "none"),
    ]
    if "fork" in outcome:
        rows.append(("fork", _fork(outcome["fork"])))
    if outcome.get("forks"):
        rows.append(("forks", ", ".join(outcome["forks"])))
    if "grants" in outcome:
        rows.append(("granted", plural(len(outcome["grants"]), "stretch").replace("stretchs", "stretches")))
        pid = outcome["writer_pid"]
        rows.append(("open for writing", "no" if pid is None else f"in process {pid}{_served(outcome)}"))
    if "address" in outcome:
        rows.append(("served", f"at {outcome['address']}, for {duration(outcome['uptime_s'])}, {outcome['state']}"))
        asked = " and ".join(
            (plural(outcome["reads"], "range") + " read", plural(outcome["writes"], "range") + " written")
        )
        rows.append(("since then", f"{asked}, {plural(outcome['refused'], 'request')} refused"))
    print_table(rows)


def cluster_status(outcome: Outcome) -> None:
    """Print a line for each shard: its leader and its replicas."""
    bits, shards = outcome["address_bits"], outcome["shards"]
    print(f"memory {outcome['name']}: {1 << bits:,} words (2^{bits}) in {plural(len(shards), 'shard')}")
    if outcome["map"]["target"] != outcome["map"]["shards"]:
        count = len(outcome["map"]["target"])
        print(
            f"words are moving to {plural(count, 'shard')}; the end: leworld memory reshard {outcome['name']} {count}"
        )
    rows = [_shard_row(outcome, shard, found) for shard, found in shards.items()]
    print_table(rows, ("shard", "leads", "epoch", "in sync", "writes", "holds", "on disk", "address"), right=(0, 2, 4))


def moved(outcome: Outcome) -> None:
    """Print what a resharding did."""
    print(
        f"memory {outcome['name']}: {plural(outcome['shards'], 'shard')} now;"
        f" {outcome['pages']:,} of {outcome['written_pages']:,} pages moved"
    )


def forked(outcome: Outcome) -> None:
    """A memory that was made from another one."""
    print(f"{outcome['path']}: a fork of {outcome['target']} as it {outcome['when']}, id {outcome['id']}")


def whole(outcome: Outcome) -> None:
    """A fork that holds everything."""
    kept = f"; {outcome['parent']} keeps version {outcome['version']} until it is closed, or opened again"
    print(f"{outcome['path']}: holds everything itself{'' if outcome['let_go'] else kept}")


def version_list(outcome: Outcome) -> None:
    """A line a version."""
    if not outcome["versions"]:
        print("no version is kept")
        return
    rows = [(version["name"], str(version["sequence"]), moment(version["time_ns"])) for version in outcome["versions"]]
    print_table(rows, ("version", "after write", "kept"), right=(1,))


def created_version(outcome: Outcome) -> None:
    """Print a new version."""
    print(
        f"version {outcome['name']}: the content after write {outcome['sequence']}, kept {moment(outcome['time_ns'])}"
    )


def checked(outcome: Outcome) -> None:
    """What ``verify`` found."""
    if "erased" in outcome:
        print(f"write {outcome['write']}: " + ("nothing of it is left" if outcome["erased"] else "is NOT erased"))
        return
    for page in outcome["damaged"]:
        print(f"page {page} at {span(page * 256, 256, outcome['address_bits'])}: not what was written")
    if outcome["journal"]:
        print(outcome["journal"])
    count = outcome["checked"]
    what = "" if count is None else f": {plural(count['pages'], 'page')}, {plural(count['records'], 'record')}"
    damage = (
        plural(len(outcome["damaged"]), "page") + " damaged" + ("" if not outcome["journal"] else ", and the journal")
    )
    print(f"all is as it was written{what}" if not outcome["damaged"] and not outcome["journal"] else damage)


def grants(outcome: Outcome) -> None:
    """Whose addresses are whose."""
    if not outcome["grants"]:
        print("nothing is granted: everyone may read and write everything")
        return
    bits = outcome["address_bits"]
    rows = [
        (span(grant["first"], grant["stop"] - grant["first"], bits), grant["owner"], ", ".join(grant["readers"]) or "-")
        for grant in outcome["grants"]
    ]
    print_table(rows, ("addresses", "owner", "readers"))


def exported(outcome: Outcome) -> None:
    """What was put into a file."""
    what = f"version {outcome['version']}" if outcome["version"] else f"the content after write {outcome['sequence']}"
    print(f"{outcome['file']}: {what}, {plural(outcome['pages'], 'page')}, {size(outcome['bytes'])}")


def imported(outcome: Outcome) -> None:
    """What was taken from a file."""
    made = "a memory made from" if outcome["made"] else "now holds"
    print(f"{outcome['path']}: {made} {outcome['file']}, {plural(outcome['pages'], 'page')}")


def place(address: int, address_bits: int) -> str:
    """An address, all of one width."""
    return f"0x{address:0{address_bits // 4}x}"


def span(first: int, length: int, address_bits: int) -> str:
    """``0x0010..0x001f``, both included."""
    last = first + length - 1
    return place(first, address_bits) + (f"..{place(last, address_bits)}" if length > 1 else "")


def moment(time_ns: int) -> str:
    """Local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000))


def duration(seconds: float) -> str:
    """``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _alike(rows: NDArray[np.uint32], previous: NDArray[np.uint32] | None) -> NDArray[np.bool_]:
    """Which rows are the same as the one before."""
    same = np.zeros(len(rows), np.bool_)
    same[1:] = (rows[1:] == rows[:-1]).all(1)
    if len(rows) and previous is not None:
        same[0] = (rows[0] == previous).all()
    return same


def _line(address: int, words: NDArray[np.uint32], kind: str, address_bits: int) -> str:
    texts = [_FORMATS[kind](word) for word in words.tolist()]
    return f"{_place(address, kind, address_bits)}  {' '.join(texts)}"


_FORMATS = {
    "hex": lambda word: f"{word:08x}",
    "dec": lambda word: f"{word:10d}",
    "bits": lambda word: " ".join(f"{word >> shift & 255:08b}" for shift in (24, 16, 8, 0)),
}


def _place(address: int, kind: str, address_bits: int) -> str:
    width = len(str((1 << address_bits) - 1))
    return f"{address:{width}d}" if kind == "dec" else place(address, address_bits)


def _record_row(record: Outcome, bits: int) -> tuple[str, ...]:
    words, where = (f"{record['num_words']:,}", _ranges(record, bits, 2)) if record["num_ranges"] else ("", "")
    return str(record["sequence"]), moment(record["time_ns"]), record["writer"] or "-", _what(record), words, where


def _what(record: Outcome) -> str:
    kind, note = record["kind"], record["note"]
    if kind == "write":
        # A name that a client gave its write, so that it is made once, says nothing to people.
        return "write" + (f" ({note})" if note and not re.fullmatch(r"[0-9a-f]{12}:\d+", note) else "")
    return f"{kind} {_NOTES.get(kind, '{}').format(note)}"


def _ranges(record: Outcome, bits: int, limit: int) -> str:
    """The first few stretches of a record; ranges that follow on each other are one."""
    stretches = list(_joined(record["start"], record["length"]))
    texts = [span(first, length, bits) for first, length in stretches[:limit]]
    is_cut = record["num_ranges"] > len(record["start"]) or len(stretches) > limit
    return ", ".join(texts) + (", ..." if is_cut else "")


def _joined(start: Sequence[int], length: Sequence[int]) -> Iterator[tuple[int, int]]:
    first, end = -1, -1
    for begin, count in zip(start, length, strict=True):
        if begin != end:
            if first >= 0:
                yield first, end - first
            first = begin
        end = begin + count
    if first >= 0:
        yield first, end - first


def _last_write(outcome: Outcome) -> str:
    if not outcome["sequence"]:
        return "none yet"
    when = outcome.get("written_ns")
    return f"{outcome['sequence']:,}" + ("" if when is None else f", {moment(when)}")


def _on_disk(outcome: Outcome) -> str:
    journal = f"journal {size(outcome['journal_bytes'])} in {plural(outcome['journal_segments'], 'segment')}"
    ledger = f"ledger {size(outcome['ledger_bytes'])}"
    other = [f"checksums {size(outcome['sums_bytes'])}"] if "sums_bytes" in outcome else []
    return ", ".join([f"words {size(outcome['words_bytes'])}", *other, journal, ledger])


def _fork(link: Outcome) -> str:
    what = "does not hold everything yet" if link["stage"] == "filling" else "holds everything"
    problem = f" ({link['problem']})" if link.get("problem") else ""
    return f"of {link['parent']}, {what}{problem}"


def _served(outcome: Outcome) -> str:
    return f", served at {outcome['served_at']}" if outcome.get("served_at") else ""


def erased(outcome: Outcome, file: Path | None) -> None:
    """An erasure; its receipt where it is in no file."""
    count = plural(sum(outcome["length"]), "word")
    line = f"write {outcome['erased']} ({count}) is erased, by write {outcome['sequence']}"
    print(to_json(outcome) if file is None else f"{line}; receipt: {file}")
    if file is None:
        # So that the receipt alone can be sent into a file.
        print(f"leworld: {line}", file=sys.stderr)


def serving(outcome: Outcome, as_json: bool) -> None:
    """Where a memory is served; it is seen at once, whatever standard output is."""
    if as_json:
        print(to_json(outcome), flush=True)
        return
    words = f"{1 << outcome['address_bits']:,} words, last write {outcome['sequence']:,}"
    print(f"serving {outcome['path']} ({words}) at {outcome['served_at']}; Ctrl-C ends it", flush=True)


def _shard_row(outcome: Outcome, shard: int, found: Outcome) -> tuple[str, ...]:
    node = outcome["nodes"].get(f"{outcome['name']}/shard-{shard}/copy-{found['leader'].split('-')[0]}", "")
    return (
        str(shard), f"copy {found['leader'].split('-')[0]} on node {node[:8]}", str(found["epoch"]),
        plural(len(found["in_sync"]), "copy").replace("copys", "copies"), f"{found['sequence']:,}",
        size(found["pages_written"] * 1024), size(found["words_bytes"] + found["journal_bytes"]), found["address"],
    )  # fmt: skip
