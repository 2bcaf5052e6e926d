"""The memory of bits: words, ranges, the store, partition, placement, records, and snapshots on disk."""

from typing import TYPE_CHECKING, Any

from leworld.memory.fields import Field as Field
from leworld.memory.fill import fill_experience as fill_experience
from leworld.memory.fill import fill_random as fill_random
from leworld.memory.fill import fill_structured as fill_structured
from leworld.memory.fill import read_experience as read_experience
from leworld.memory.partition import Fragments as Fragments
from leworld.memory.partition import Partition as Partition
from leworld.memory.protocol import PAGE_WORDS as PAGE_WORDS
from leworld.memory.protocol import WORD_BITS as WORD_BITS
from leworld.memory.protocol import Memory as Memory
from leworld.memory.protocol import Reader as Reader
from leworld.memory.protocol import Receipt as Receipt
from leworld.memory.protocol import Snapshot as Snapshot
from leworld.memory.protocol import Words as Words
from leworld.memory.ranges import check_address_bits as check_address_bits
from leworld.memory.ranges import check_ranges as check_ranges
from leworld.memory.ranges import clip as clip
from leworld.memory.ranges import expand as expand
from leworld.memory.schema import Schema as Schema
from leworld.memory.set_associative import Placed as Placed
from leworld.memory.set_associative import WaySet as WaySet
from leworld.memory.snapshot_file import load_snapshot as load_snapshot
from leworld.memory.snapshot_file import save_snapshot as save_snapshot
from leworld.memory.word_store import WordStore as WordStore
from leworld.memory.words import checksum as checksum
from leworld.memory.words import pack_bits as pack_bits
from leworld.memory.words import unpack_bits as unpack_bits

if TYPE_CHECKING:
    from leworld.memory.hashing import AppendPlacement as AppendPlacement
    from leworld.memory.hashing import HashPlacement as HashPlacement


def __getattr__(name: str) -> Any:
    # Placement alone needs torch, and a memory shard that imports torch takes several times the memory.
    if name not in ("AppendPlacement", "HashPlacement"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leworld.memory import hashing as placement

    return getattr(placement, name)
