"""What the commands about a cluster's memories do, and how they show it."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import Any

from cluster.memory.clustered import Clustered, connected
from cluster.memory.numbers import plural, size
from cluster.memory.output import columns
from leworld.errors import ConfigError
from leworld.memory import check_address_bits

Outcome = dict[str, Any]


def launch(
    name: str, bits: int, shards: int, copies: int, folder: str, policy: str, together: bool, address: str | None
) -> Outcome:
    """Start a memory's copies, and wait until all are in sync."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise ConfigError(f"name {name!r}: give letters, digits, and _ . - between them")
    check_address_bits(bits)
    with connected(address):
        from actors.launch_memory import ClusterMemory
        from actors.memory_copy import MemoryConfig

        ClusterMemory.launch(MemoryConfig(name, folder, bits, shards, copies, policy, together=together))
        return _stat(name)


def reshard(name: str, shards: int, address: str | None) -> Outcome:
    """Have the words on another number of shards."""
    with connected(address):
        from actors.launch_memory import ClusterMemory

        moved = ClusterMemory(name).reshard(shards, _tell if sys.stderr.isatty() else lambda _: None)
        return {"name": name, "shards": shards, **asdict(moved)}


def stop(name: str, address: str | None) -> Outcome:
    """End every copy."""
    with connected(address):
        from actors.launch_memory import ClusterMemory

        ClusterMemory(name).stop()
        return {"stopped": name}


def show(outcome: Outcome) -> None:
    """A line a shard: who leads, and where its copies are."""
    bits, shards = outcome["address_bits"], outcome["shards"]
    print(f"memory {outcome['name']}: {1 << bits:,} words (2^{bits}) in {plural(len(shards), 'shard')}")
    if outcome["map"]["target"] != outcome["map"]["shards"]:
        print(f"words are moving to {plural(len(outcome['map']['target']), 'shard')}")
    rows = [("shard", "leads", "epoch", "in sync", "writes", "holds", "on disk", "address")]
    rows += [_row(outcome, shard, found) for shard, found in shards.items()]
    columns(rows, right=(0, 2, 4))


def show_moved(outcome: Outcome) -> None:
    """What a resharding did."""
    print(
        f"memory {outcome['name']}: {plural(outcome['shards'], 'shard')} now;"
        f" {outcome['pages']:,} of {outcome['written_pages']:,} pages moved"
    )


def _stat(name: str) -> Outcome:
    memory = Clustered(name)
    try:
        return memory.stat()
    finally:
        memory.close()


def _tell(part: float) -> None:
    print(f"\rmoved: {part:4.0%}", end="" if part < 1 else "\n", file=sys.stderr, flush=True)


def _row(outcome: Outcome, shard: int, found: Outcome) -> tuple[str, ...]:
    node = outcome["nodes"].get(f"{outcome['name']}/shard-{shard}/copy-{found['leader'].split('-')[0]}", "")
    return (
        str(shard), f"copy {found['leader'].split('-')[0]} on node {node[:8]}", str(found["epoch"]),
        plural(len(found["in_sync"]), "copy").replace("copys", "copies"), f"{found['sequence']:,}",
        size(found["pages_written"] * 1024), size(found["words_bytes"] + found["journal_bytes"]), found["address"],
    )  # fmt: skip
