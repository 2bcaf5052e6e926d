import numpy as np
import pytest

from leworld.errors import RightsError, StoreError
from leworld.memory import WordStore
from leworld.store.access_control import Grant, Guarded, Rights, load_rights, save_rights
from leworld.store.layout import Layout

NUM_WORDS = 1 << 16
SECRET = 0xFFFF0000
GRANTS = (Grant(1000, 2000, "ann", ("bob",)), Grant(5000, 5001, "ann"), Grant(60000, NUM_WORDS, "cleo"))


@pytest.fixture
def memory() -> WordStore:
    """Words of grants are marked secret, all others hold their address."""
    store = WordStore(16)
    words = np.arange(NUM_WORDS, dtype=np.uint32)
    for grant in GRANTS:
        words[grant.first : grant.stop] |= np.uint32(SECRET)
    store.write(np.arange(0, NUM_WORDS, 256), words.reshape(-1, 256))
    return store


def test_adversarial_proposals_bring_no_word_of_another(memory):
    random = np.random.default_rng(0)
    edges = np.array([edge for grant in GRANTS for edge in (grant.first, grant.stop)])
    reader = Guarded(memory, Rights(GRANTS, NUM_WORDS), "eve")
    tried = 0
    while tried < 100_000:
        near = edges[random.integers(0, len(edges), 20_000)] + random.integers(-300, 300, 20_000)
        start = near.clip(0, NUM_WORDS - 1)
        length = np.minimum(random.integers(0, 257, len(start)), NUM_WORDS - start)
        found = reader.read(start, length)
        assert len(found.words) == length.sum()
        assert not (found.words & np.uint32(SECRET)).any()
        tried += len(start)


def test_what_is_open_reads_as_it_is_and_a_range_that_touches_another_s_word_is_zeros(memory):
    reader = Guarded(memory, Rights(GRANTS, NUM_WORDS), "eve")
    found = reader.read([900, 990, 999, 1999, 2000, 5001], [100, 10, 2, 2, 3, 2])
    parts = np.split(found.words, found.offsets[1:-1])
    assert parts[0].tolist() == list(range(900, 1000))
    assert parts[1].tolist() == list(range(990, 1000))
    assert parts[2].tolist() == [0, 0]
    assert parts[3].tolist() == [0, 0]
    assert parts[4].tolist() == [2000, 2001, 2002]
    assert parts[5].tolist() == [5001, 5002]


def test_owners_and_readers_read_their_own_and_only_owners_write(memory):
    rights = Rights(GRANTS, NUM_WORDS)
    start, length = np.array([1000]), np.array([256])
    for who, reads, writes in (("ann", True, True), ("bob", True, False), ("cleo", False, False), ("", False, False)):
        assert rights.may_read(who, start, length).tolist() == [reads]
        assert rights.may_write(who, start, length).tolist() == [writes]
        assert Guarded(memory, rights, who).read(start, length).words.any() == reads
    with pytest.raises(RightsError, match=r"^range 1 \(start 1999, length 1\) is not bob's to write: ask its owner$"):
        rights.check_write("bob", np.array([0, 1999]), np.array([4, 1]))
    rights.check_write("ann", np.array([0, 1999]), np.array([4, 1]))


@pytest.mark.parametrize(
    ("grants", "said"),
    [
        ([Grant(0, 10, "a"), Grant(9, 20, "b")], "overlaps another"),
        ([Grant(5, 5, "a")], "are needed"),
        ([Grant(0, NUM_WORDS + 1, "a")], "are needed"),
        ([Grant(0, 10, "")], "are needed"),
    ],
)
def test_grants_that_cannot_be_are_refused(grants, said):
    with pytest.raises(StoreError, match=said):
        Rights(grants, NUM_WORDS)


def test_rights_on_disk_come_back_and_damaged_ones_open_nothing(tmp_path):
    layout = Layout(tmp_path)
    assert load_rights(layout, NUM_WORDS).grants == []
    save_rights(layout, Rights(GRANTS, NUM_WORDS))
    assert load_rights(layout, NUM_WORDS).grants == list(GRANTS)
    for damaged in (b"", b"\xc1", layout.rights.read_bytes()[:-3], b"\x81\xa6grants\x91\x01"):
        layout.rights.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            load_rights(layout, NUM_WORDS)
