"""In a fresh process: open a memory and read; or read the same bytes bare; or write and be killed. Prints seconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

RANGES = 256
RECORDS = 32


def main() -> None:
    """What is asked: WHAT PATH NUMBER."""
    what, path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    print(json.dumps({"open": open_store, "bare": read_bare, "crash": write_and_crash}[what](path, number)))


def open_store(root: str, num_words: int) -> dict[str, float]:
    """Seconds from opening to the first read, of a memory that is then closed; ``end`` is when, on the wall's clock."""
    import numpy as np

    from leworld.store.durable_store import DurableStore

    start = np.random.default_rng().integers(0, num_words - 256 + 1, RANGES)
    length = np.full(RANGES, 256)
    begin = time.perf_counter()
    store = DurableStore(root)
    opened = time.perf_counter()
    store.read(start, length)
    read, end = time.perf_counter(), time.time()
    store.close()
    return {"seconds": read - begin, "opening": opened - begin, "end": end}


def read_bare(path: str, num_words: int) -> dict[str, float]:
    """Seconds to read all words by ``np.fromfile``."""
    begin = time.perf_counter()
    import numpy as np

    np.fromfile(path, np.uint32, num_words)
    return {"seconds": time.perf_counter() - begin, "end": time.time()}


def write_and_crash(root: str, num_bytes: int) -> None:
    """Write blocks of 1 KiB to random pages until the journal has so many bytes, and die of it."""
    import numpy as np

    from leworld.memory import PAGE_WORDS, Words
    from leworld.store.durable_store import DurableStore, StoreConfig, Write

    store = DurableStore(root, StoreConfig(policy="os", segment_bytes=1 << 40))
    generator, offsets = np.random.default_rng(), np.array([0, PAGE_WORDS])
    num_pages = len(np.fromfile(f"{root}/sums", np.uint32).nonzero()[0])
    written = 0
    while written < num_bytes:
        words = generator.integers(0, 1 << 32, (RECORDS, PAGE_WORDS), np.uint32)
        start = generator.integers(0, num_pages, (RECORDS, 1)) * PAGE_WORDS
        store.write_many([Write(at, Words(row, offsets)) for at, row in zip(start, words, strict=True)])
        written = sum(entry.stat().st_size for entry in os.scandir(f"{root}/journal"))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
