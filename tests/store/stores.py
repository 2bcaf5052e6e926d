"""What the tests of a memory on disk share."""

import shutil
from pathlib import Path

import numpy as np

from leworld.memory.protocol import PAGE_WORDS, Words
from leworld.store.durable_store import DurableStore, Write


def block(*values):
    return np.array(values, np.uint32)[None]


def fill(value, length=8, rows=1):
    return np.full((rows, length), value, np.uint32)


def one_write(start, value, length=1, writer="", note=""):
    """A write of one range, for a group of several."""
    return Write(np.array([start]), Words(fill(value, length)[0], np.array([0, length])), writer, note)


def content(reader):
    """Every word."""
    num_pages = (1 << reader.address_bits) // PAGE_WORDS
    return reader.read(np.arange(num_pages) * PAGE_WORDS, np.full(num_pages, PAGE_WORDS)).words


def version_content(store, name):
    """Every word of a version, as ``diff`` tells it."""
    found, words = store.versions.diff(name), content(store)
    words[found.address] = found.before
    return words


def crashed(store, to):
    """A copy of a memory that was not closed: what a killed process leaves."""
    shutil.copytree(store.root, to)
    return Path(to)


def flip(path, byte, bit=0):
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1 << bit
    path.write_bytes(raw)


def start_anew(root):
    """Pretend that the machine was started anew since a memory was written."""
    raw = bytearray((root / "state").read_bytes())
    raw[16:32] = bytes(16)
    (root / "state").write_bytes(raw)


def last_segment(root):
    return sorted((root / "journal").iterdir())[-1]


def reopened(store, config=None):
    store.close()
    return DurableStore(store.root, config)
