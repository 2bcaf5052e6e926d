"""Packs records and pages that replicas send each other into words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.memory.client import MemoryClient
from actors.memory.protocol import Answer, Request
from leworld.errors import StoreError
from leworld.memory import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.store.journal.record import Record, decode_at
from leworld.store.operations import number


def to_words(data: bytes) -> NDArray[np.uint32]:
    """Convert bytes to words, with the last one padded."""
    return np.frombuffer(data + bytes(-len(data) % 4), "<u4")


def unpack_records(request: Request) -> list[Record]:
    """Unpack the records of a request."""
    return _decode(request.words.tobytes(), number(request.arguments, "num_bytes", 0, 1 << 40))


def decode_all(answer: Answer) -> list[Record]:
    """Unpack the records of an answer."""
    return _decode(answer.words.tobytes(), answer.content["num_bytes"])


def _decode(data: bytes, num_bytes: int) -> list[Record]:
    found, offset = [], 0
    while offset < num_bytes:
        decoded = decode_at(data, offset)
        if decoded is None:
            raise StoreError(f"a record at byte {offset} of {num_bytes} did not arrive whole: send it again")
        record, frame = decoded
        found.append(record)
        offset = frame.end
    return found


def call_part(leader: MemoryClient, name: str, offset: int) -> bytes:
    """Call the leader for some bytes of a file."""
    answer = leader.call("copy_part", name=name, offset=offset)
    return answer.words.tobytes()[: answer.content["num_bytes"]]


def call_pages(leader: MemoryClient, after: int) -> tuple[Ints, NDArray[np.uint32]]:
    """Call the leader for some pages after one: (P,) numbers and (P, 256) words."""
    return _numbered(leader.call("copy_pages", after=after))


def call_page_words(replica: MemoryClient, pages: Ints) -> tuple[Ints, NDArray[np.uint32]]:
    """Call another replica for the pages that it has undamaged: (P,) numbers and (P, 256) words."""
    return _numbered(replica.call("page_words", words=pages.astype(np.uint32)))


def numbered_pages(request: Request, pages: Ints, words: NDArray[np.uint32]) -> Answer:
    """Unpack an answer of (P,) pages: numbers, then (P, 256) words."""
    joined = np.concatenate([pages.astype(np.uint32), words.reshape(-1)])
    return Answer(request.id, {"num_pages": len(pages)}, joined)


def _numbered(answer: Answer) -> tuple[Ints, NDArray[np.uint32]]:
    count = answer.content["num_pages"]
    return answer.words[:count].astype(np.int64), answer.words[count:].reshape(count, PAGE_WORDS)
