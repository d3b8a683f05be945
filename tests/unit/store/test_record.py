"""Records: what was framed is read, and nothing else is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.store.record import OVERHEAD_BYTES, SLOT_BYTES, Kind, frame, next_head, read, size_on_disk

SECRET = bytes(range(32))


@given(st.binary(max_size=9_000), st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
def test_a_record_is_read_as_it_was_framed_and_fills_whole_slots(body: bytes, seq: int, prev: bytes) -> None:
    data = frame(Kind.EVENT, seq, prev, body, secret=SECRET)
    record = read(memoryview(data), 0, secret=SECRET)
    assert record is not None
    assert (record.kind, record.seq, record.prev, record.body) == (Kind.EVENT, seq, prev, body)
    assert len(data) == record.size_bytes == size_on_disk(len(body))
    assert len(data) % SLOT_BYTES == 0
    assert record.head == next_head(prev, seq, body)


def test_every_changed_byte_of_a_record_is_noticed() -> None:
    data = frame(Kind.EVENT, 7, bytes(32), b"a small body", secret=SECRET)
    for place in range(OVERHEAD_BYTES + 12):
        for flip in (1, 0x80):
            changed = bytearray(data)
            changed[place] ^= flip
            if place == 4 and changed[place] > 1:
                continue  # a newer format is said, not read: test_log
            assert read(memoryview(bytes(changed)), 0, secret=SECRET) is None


def test_an_event_is_not_read_with_another_secret_and_a_snapshot_brings_its_own() -> None:
    event = frame(Kind.EVENT, 1, bytes(32), b"x", secret=SECRET)
    assert read(memoryview(event), 0, secret=bytes(32)) is None
    assert read(memoryview(event), 0, secret=None) is None
    snapshot = frame(Kind.SNAPSHOT, 0, bytes(32), SECRET + b"state", secret=SECRET)
    record = read(memoryview(snapshot), 0, secret=None)
    assert record is not None
    assert record.body == SECRET + b"state"


@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_make_it_raise(data: bytes, offset: int) -> None:
    assert read(memoryview(data), offset, secret=SECRET) is None
