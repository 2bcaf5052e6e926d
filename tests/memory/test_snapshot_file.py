import struct
import zlib

import msgpack
import numpy as np
import pytest

from leworld.errors import CheckpointError
from leworld.memory import Snapshot, WordStore, fill_random, load_snapshot, save_snapshot
from leworld.memory import snapshot_file as module


@pytest.fixture
def snapshot():
    store = WordStore(24)
    fill_random(store, np.random.default_rng(0), pages=[7, 0, 65535])
    return store.snapshot()


@pytest.fixture
def path(tmp_path, snapshot):
    save_snapshot(snapshot, tmp_path / "memory.snapshot")
    return tmp_path / "memory.snapshot"


def assert_same(one, two):
    assert (one.address_bits, one.sequence) == (two.address_bits, two.sequence)
    np.testing.assert_array_equal(one.pages, two.pages)
    np.testing.assert_array_equal(one.words, two.words)


def with_header(changes, words=b""):
    header = {"version": 1, "address_bits": 16, "sequence": 0, "pages": b"", "crc32": b""} | changes
    raw = msgpack.packb({name: value for name, value in header.items() if value is not None})
    return b"LEWORLD\0" + struct.pack("<II", len(raw), zlib.crc32(raw)) + raw + words


def test_load_inverts_save(path, snapshot):
    loaded = load_snapshot(path)
    assert_same(loaded, snapshot)
    assert loaded.words.dtype == np.uint32
    store = WordStore(24)
    store.restore(loaded)
    store.write([0], np.ones((1, 1), np.uint32))
    assert [file.name for file in path.parent.iterdir()] == ["memory.snapshot"]


def test_an_empty_memory_is_saved_too(tmp_path):
    empty = WordStore(32).snapshot()
    save_snapshot(empty, tmp_path / "empty")
    assert_same(load_snapshot(str(tmp_path / "empty")), empty)


def test_equal_snapshots_make_equal_files(path, snapshot):
    before = path.read_bytes()
    save_snapshot(snapshot, path)
    assert path.read_bytes() == before


def test_every_flipped_bit_of_the_header_and_some_of_the_words_are_found(path):
    good = path.read_bytes()
    header_end = len(good) - 3 * 1024
    places = [(byte, bit) for byte in range(header_end) for bit in range(8)]
    places += [(byte, byte % 8) for byte in (header_end, header_end + 1023, header_end + 1024, len(good) - 1)]
    for byte, bit in places:
        bad = bytearray(good)
        bad[byte] ^= 1 << bit
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=path.name):
            load_snapshot(path)


def test_a_damaged_page_is_named(path):
    bad = bytearray(path.read_bytes())
    bad[-1025] ^= 1
    path.write_bytes(bad)
    with pytest.raises(CheckpointError, match="page 7 is damaged"):
        load_snapshot(path)


def test_every_truncation_is_found(path):
    good = path.read_bytes()
    header_end = len(good) - 3 * 1024
    for end in [*range(header_end + 2), header_end + 1024, len(good) - 4, len(good) - 1]:
        path.write_bytes(good[:end])
        with pytest.raises(CheckpointError, match=path.name):
            load_snapshot(path)


def test_a_file_too_long_is_found(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="make"):
        load_snapshot(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95 a pickle is never opened", "not a LeWorld snapshot"),
        (b"LEWORLD\0" + struct.pack("<II", 2**32 - 1, 0), "truncated: a header of 4294967295 bytes"),
        (with_header({"version": 2}), "version 2"),
        (with_header({"version": None}), "version None"),
        (with_header({"address_bits": 12}), "address_bits 12"),
        (with_header({"address_bits": "16"}), "no address_bits"),
        (with_header({"sequence": None}), "no sequence"),
        (with_header({"sequence": -1}), "cannot be"),
        (with_header({"pages": b"1234567"}), "cannot be"),
        (with_header({"pages": bytes(8), "crc32": bytes(4)}), "make"),
        (with_header({"pages": bytes(8)}, bytes(1024)), "mixed up"),
        (
            with_header({"pages": bytes(16), "crc32": struct.pack("<I", zlib.crc32(bytes(1024))) * 2}, bytes(2048)),
            "ascend",
        ),
        (b"LEWORLD\0" + struct.pack("<II", 1, zlib.crc32(b"\x93")) + b"\x93", "cannot be read"),
        (b"LEWORLD\0" + struct.pack("<II", 1, zlib.crc32(b"\x01")) + b"\x01", "version None"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_snapshot(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absurd_sizes_are_refused_before_they_are_allocated(tmp_path, monkeypatch):
    pages = np.arange(1 << 16, dtype="<i8")
    content = with_header({"address_bits": 32, "pages": pages.tobytes(), "crc32": bytes(4 << 16)})
    (tmp_path / "absurd").write_bytes(content)
    monkeypatch.setattr(module, "_read_words", lambda *_: pytest.fail("words were allocated"))
    with pytest.raises(CheckpointError, match="65536 pages make"):
        load_snapshot(tmp_path / "absurd")


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError, match=str(path)):
            load_snapshot(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_keeps_the_old_file(path, snapshot, monkeypatch, call):
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(module.os, call, full)
    with pytest.raises(OSError, match="full"):
        save_snapshot(snapshot, path)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_a_damaged_snapshot_is_not_saved(tmp_path):
    bad = Snapshot(16, 0, np.array([300]), np.zeros((1, 256), np.uint32))
    with pytest.raises(CheckpointError, match="ascend"):
        save_snapshot(bad, tmp_path / "bad")
    assert not list(tmp_path.iterdir())
