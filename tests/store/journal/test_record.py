import struct
import zlib
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import DataError, LeWorldError, StoreError
from leworld.store.journal import record as module
from leworld.store.journal.record import MAGIC, PREFIX_BYTES, Record, decode_at, encode


def joined(record):
    return b"".join(encode(record))


def some_record(sequence=7):
    return Record(
        sequence=sequence,
        time_ns=1_700_000_000_000_000_000,
        start=np.array([5, 300]),
        length=np.array([2, 1]),
        words=np.array([1, 2, 3], np.uint32),
        pages=np.array([0, 1]),
        before=np.arange(512, dtype=np.uint32).reshape(2, 256),
        crc32=99,
        epoch=3,
        writer="ann",
        note="why not",
    )


def assert_same(one, two):
    for name in ("sequence", "time_ns", "crc32", "epoch", "kind", "writer", "note", "writes"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("start", "length", "words", "pages", "before"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def with_header(changes, body=b""):
    """A record with a right checksum whose header says something else."""
    header = msgpack.unpackb(joined(Record(1, 2))[PREFIX_BYTES:]) | changes
    return framed(msgpack.packb({name: value for name, value in header.items() if value is not None}), body)


def framed(header, body=b""):
    frame = struct.pack("<4sIQ", MAGIC, len(header), len(body))
    return frame + struct.pack("<I", zlib.crc32(body, zlib.crc32(header, zlib.crc32(frame)))) + header + body


@st.composite
def records(draw):
    length = np.array(draw(st.lists(st.integers(0, 256), max_size=5)), np.int64)
    start = np.array(draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(length), max_size=len(length))), np.int64)
    pages = np.array(sorted(draw(st.sets(st.integers(0, 2**24 - 1), max_size=4))), np.int64)
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(module.KINDS))
    writes = [(1, draw(st.integers(0, 2**32 - 1)), draw(st.text(max_size=5)), "") for _ in length]
    return Record(
        sequence=draw(st.integers(1, 2**63)),
        time_ns=draw(st.integers(0, 2**63)),
        start=start,
        length=length,
        words=random.integers(0, 1 << 32, length.sum(), dtype=np.uint32),
        pages=pages,
        before=random.integers(0, 1 << 32, (len(pages), 256), dtype=np.uint32),
        crc32=draw(st.integers(0, 2**32 - 1)),
        epoch=draw(st.integers(0, 2**40)),
        kind=kind,
        writes=(*writes, (0, 0, "", "empty")) if kind == "writes" else (),
        writer=draw(st.text(max_size=5)),
        note=draw(st.text(max_size=5)),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(records(), min_size=1, max_size=3), st.binary(max_size=9))
def test_decode_inverts_encode_at_any_offset(several, junk):
    data, offset = junk + b"".join(joined(record) for record in several), len(junk)
    for record in several:
        found, frame = decode_at(data, offset)
        assert_same(found, record)
        assert frame.offset == offset
        offset = frame.end
    assert offset == len(data)
    assert decode_at(data, offset) is None


def test_pages_of_before_lie_at_the_end_of_a_record():
    record = some_record()
    data = joined(record)
    frame = decode_at(data, 0)[1]
    assert data[frame.body : frame.body + 12] == record.words.tobytes()
    assert data[frame.end - 2048 :] == record.before.tobytes()


def header_only(record):
    none = np.zeros(0, np.int64)
    return replace(record, words=none.astype(np.uint32), pages=none, before=np.zeros((0, 256), np.uint32))


def test_a_header_goes_without_words_and_keeps_their_checksum():
    record = some_record()
    header = decode_at(joined(record), 0, words=False)[0]
    assert_same(header, header_only(record))
    assert_same(decode_at(joined(header), 0)[0], header)
    assert (header.words.size, header.pages.size, header.crc32) == (0, 0, 99)
    assert header.length.tolist() == [2, 1]


def test_every_flipped_bit_of_a_record_is_found():
    good = joined(some_record())
    for byte in range(len(good)):
        bad = bytearray(good)
        bad[byte] ^= 1 << byte % 8
        assert decode_at(bytes(bad), 0) is None, byte


def test_every_truncation_of_a_record_is_found():
    good = joined(some_record())
    for end in range(len(good)):
        assert decode_at(good[:end], 0) is None
    assert decode_at(good + b"more", 0) is not None


def test_lengths_beyond_the_data_are_no_record():
    for header_bytes, body_bytes in ((2**32 - 1, 0), (0, 2**64 - 1), (2**28 + 1, 0), (0, 2**34 + 1), (10, 10)):
        assert decode_at(struct.pack("<4sIQI", MAGIC, header_bytes, body_bytes, 0) + bytes(15), 0) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (framed(b"\xc1"), "cannot be read"),
        (framed(b"\x81\xa1a"), "cannot be read"),
        (framed(b""), "cannot be read"),
        (framed(b"\x93\x01\x02\x03"), "without a map"),
        (with_header({"sequence": None}), "without sequence of type int"),
        (with_header({"sequence": True}), "without sequence of type int"),
        (with_header({"writer": b"x"}), "without writer of type str"),
        (with_header({"start": bytes(3)}), "broken list of start"),
        (with_header({"length": bytes(1)}), "broken list of length"),
        (with_header({"start": bytes(4)}), "ranges that cannot be"),
        (with_header({"start": bytes(4), "length": struct.pack("<H", 257)}), "ranges that cannot be"),
        (with_header({"kind": "dance"}), "kind 'dance': a newer program"),
        (with_header({}, bytes(4)), "words for other ranges"),
        (with_header({"pages": bytes(4)}, bytes(1020)), "words for other ranges"),
    ],
)
def test_what_another_program_wrote_is_refused_in_one_line(data, message):
    with pytest.raises(StoreError, match=message) as caught:
        decode_at(data, 0)
    assert "\n" not in str(caught.value)


def test_a_record_too_long_to_be_read_again_is_not_encoded(monkeypatch):
    monkeypatch.setattr(module, "MAX_HEADER_BYTES", 400)
    joined(some_record())
    long = Record(1, 2, start=np.zeros(100, np.int64), length=np.zeros(100, np.int64))
    with pytest.raises(DataError, match="cut it into several writes"):
        joined(long)
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 2000)
    with pytest.raises(DataError, match="cut it into several writes"):
        joined(some_record())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_a_record_of_ours_or_refused(junk, as_header):
    data = framed(junk) if as_header else MAGIC + junk
    try:
        found = decode_at(data, 0)
    except LeWorldError:
        return
    assert found is None or isinstance(found[0], Record)


def several():
    """A record of a write of two ranges, one of none and one of a range."""
    writes = ((2, 11, "ann", "a"), (0, 0, "bob", ""), (1, 33, "bob", "c"))
    return replace(some_record(), start=np.array([5, 300, 9]), length=np.array([2, 1, 3]), writes=writes,
                   words=np.arange(6, dtype=np.uint32), kind="writes", crc32=0, group=7)  # fmt: skip


def test_a_record_of_several_writes_splits_into_them():
    found, _ = decode_at(joined(several()), 0)
    assert found.last == 9
    assert [(one.sequence, one.last, one.kind, one.group) for one in found.split()] == [
        (7, 7, "write", 7), (8, 8, "write", 7), (9, 9, "write", 7)
    ]  # fmt: skip
    assert [(one.crc32, one.writer, one.note) for one in found.split()] == [row[1:] for row in several().writes]
    assert [one.start.tolist() for one in found.split()] == [[5, 300], [], [9]]
    assert [one.words.tolist() for one in found.split()] == [[0, 1, 2], [], [3, 4, 5]]
    assert [one.pages.tolist() for one in found.split()] == [[0, 1], [], []]
    assert [len(one.words) for one in header_only(found).split()] == [0, 0, 0]
    assert some_record().split()[0].last == 7


def test_headers_of_several_writes_are_remembered_once():
    data = joined(some_record(6)) + joined(several()) + joined(some_record(10))
    for after, due in ((5, [6, 7, 10]), (6, [7, 10]), (9, [10]), (10, [])):
        (headers, end), offset, found = module.to_header_only(data, 6, after), 0, []
        assert end == len(data)
        while offset < len(headers):
            record, frame = decode_at(headers, offset)
            offset = frame.end
            found.append(record.sequence)
        assert found == due


def test_headers_before_damage_are_remembered_with_all_their_writes():
    whole = joined(some_record(6)) + joined(several())
    headers, end = module.to_header_only(whole + joined(some_record(10))[:-1] + b"x", 6, 6)
    found, _ = decode_at(headers, 0)
    assert (end, found.sequence, found.last, len(found.words)) == (len(whole), 7, 9, 0)


@pytest.mark.parametrize(
    "rows", [None, [], 3, [[2, 1, "a"]], [[2, 1, "a", 4]], [[-1, 1, "a", "b"], [1, 1, "a", "b"]], [[1, 1, "a", "b"]]]
)
def test_a_list_of_writes_that_cannot_be_is_of_another_program(rows):
    with pytest.raises(StoreError, match="list of writes"):
        decode_at(with_header({"kind": "writes", "writes": rows}), 0)
