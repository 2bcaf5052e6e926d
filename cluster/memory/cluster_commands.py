"""What the commands about a cluster's memories do, and how they show it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from cluster.memory.cluster_target import ClusterTarget, connected
from cluster.memory.numbers import plural, size
from cluster.memory.output import columns
from cluster.memory.target import Interrupted
from leworld.errors import ConfigError
from leworld.memory import check_address_bits

Outcome = dict[str, Any]


def launch(
    name: str,
    bits: int,
    shards: int,
    copies: int,
    folder: str,
    policy: str,
    together: bool,
    accept_loss: bool,
    address: str | None,
) -> Outcome:
    """Start a memory's copies, and wait until all are in sync."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise ConfigError(f"name {name!r}: give letters, digits, and _ . - between them")
    check_address_bits(bits)
    with connected(address):
        from actors.memory_cluster.cluster_memory import ClusterMemory
        from actors.memory_cluster.replica_actor import MemoryConfig

        config = MemoryConfig(name, folder, bits, shards, copies, policy, together=together)
        with told("what was started is stopped again, and its files stay"):
            ClusterMemory.launch(config, accept_loss=accept_loss)
        return _stat(name)


def reshard(name: str, shards: int, address: str | None) -> Outcome:
    """Have the words on another number of shards."""
    with connected(address):
        from actors.memory_cluster.cluster_memory import ClusterMemory

        with told("the memory stays in use, and the same command goes on"):
            moved = ClusterMemory(name).reshard(shards, _tell if sys.stderr.isatty() else lambda _: None)
        return {"name": name, "shards": shards, **asdict(moved)}


def stop(name: str, address: str | None) -> Outcome:
    """End every copy."""
    with connected(address):
        from actors.memory_cluster.cluster_memory import ClusterMemory

        with told("the same command goes on"):
            ClusterMemory(name).stop()
        return {"stopped": name}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say on Ctrl-C what becomes of it."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {what}") from None


def show(outcome: Outcome) -> None:
    """A line a shard: who leads, and where its copies are."""
    bits, shards = outcome["address_bits"], outcome["shards"]
    print(f"memory {outcome['name']}: {1 << bits:,} words (2^{bits}) in {plural(len(shards), 'shard')}")
    if outcome["map"]["target"] != outcome["map"]["shards"]:
        count = len(outcome["map"]["target"])
        print(
            f"words are moving to {plural(count, 'shard')}; the end: leworld memory reshard {outcome['name']} {count}"
        )
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
    memory = ClusterTarget(name)
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
