import zlib

from leworld.memory.crc import crc32


def test_it_is_zlibs():
    for data in (b"", b"a", bytes(range(256)) * 300):
        assert crc32(data) == zlib.crc32(data)
        assert crc32(memoryview(data), 7) == zlib.crc32(data, 7)
