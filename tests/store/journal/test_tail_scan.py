"""What follows a record that was cut off: found as by looking at every place, and soon, whatever stands there."""

import random
import struct
import time
import zlib

import numpy as np
import pytest

from leworld.errors import DamageError
from leworld.store.journal.record import MAGIC, Record, decode_at, encode
from leworld.store.journal.segment import check_tail, load_segment, segment_path
from leworld.store.journal.tail_scan import whole_records


def record(sequence, words=(1, 2)):
    words = np.array(words, np.uint32)
    return Record(sequence, 5, np.array([3]), np.array([len(words)]), words, crc32=9, writer="ann")


def raw(sequence, words=(1, 2)):
    return b"".join(encode(record(sequence, words)))


def flood(num_bytes, spacing=64):
    """Magic numbers, each with lengths that reach to the end."""
    out = bytearray(random.Random(0).randbytes(num_bytes))
    for at in range(0, num_bytes - spacing, spacing):
        rest = num_bytes - at - 20
        struct.pack_into("<4sIQI", out, at, MAGIC, min(rest // 2, 1 << 20), rest - min(rest // 2, 1 << 20), 0)
    return bytes(out)


def places(data, offset):
    """Every place at which there is a whole record, by looking at all of them."""
    return [at for at in range(offset + 1, len(data)) if decode_at(data, at, words=False) is not None]


@pytest.mark.parametrize("seed", range(40))
def test_as_looking_at_every_place(seed):
    rng = random.Random(seed)
    parts = []
    for sequence in range(1, rng.randrange(1, 9)):
        part = rng.choice([raw(sequence, range(rng.randrange(200))), flood(300, 32), rng.randbytes(rng.randrange(70))])
        if rng.random() < 0.3:
            part = bytearray(part or b"\0")
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        parts.append(bytes(part[: rng.choice([None, None, len(part) // 2, -1])]))
    data = b"".join(parts)
    offset = rng.randrange(len(data) + 1)
    assert [frame.offset for _, frame in whole_records(data, offset)] == places(data, offset)


def test_records_within_the_words_of_a_whole_one_are_words():
    inner = raw(9)
    inner += bytes(-len(inner) % 4)
    outer = raw(3, np.frombuffer(inner, "<u4"))
    assert [found.sequence for found, _ in whole_records(b"x" + outer + raw(4), 0)] == [3, 4]


def test_a_flood_of_magic_numbers_is_looked_through_once(tmp_path, monkeypatch):
    looked_at = 0

    def counting(data, start=0):
        nonlocal looked_at
        looked_at += len(data)
        return crc32(data, start)

    crc32 = zlib.crc32
    monkeypatch.setattr("zlib.crc32", counting)
    path = segment_path(tmp_path, 1)
    good = raw(1)
    path.write_bytes(good + raw(2, range(250))[:-1] + flood(1 << 20))
    begin = time.perf_counter()
    assert (load_segment(path).last, load_segment(path).size) == (1, len(good))
    assert looked_at < 16 << 20
    assert time.perf_counter() - begin < 20
    path.write_bytes(good + raw(2)[:-1] + flood(1 << 20) + raw(3))
    with pytest.raises(DamageError, match="damaged at byte"):
        load_segment(path)


def test_what_went_to_the_disk_together_with_what_is_missing_is_no_damage(tmp_path):
    later = b"".join(encode(Record(3, 5, group=2)))
    check_tail(tmp_path, b"x" * 50 + later, 0, due=2)
    with pytest.raises(DamageError):
        check_tail(tmp_path, b"x" * 50 + later, 0, due=1)
