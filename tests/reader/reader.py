"""Reads a ledger as docs/storage.md describes it: a second pair of eyes that shares no line with the daemon.

    PYTHONPATH=tests python -m reader PATH

prints, as JSON and without the daemon, what the ledger on a device, in an image file or in a directory holds; the exit
status is 0 where the verdict is "ok". Of a ledger in use it may see a commit in one log and not in the other.

Rules:
- docs/storage.md is the only source; where the two differ from the daemon, one of the three is wrong;
- the standard library is enough;
- what a ledger holds is plain values with the document's keys; the secret is never among them.

What this module does not do: it writes and repairs nothing, tells no torn record from none, checks no signature of a
grant, and reads through the page cache (the daemon does not).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import sys
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

LOG_BYTES = 4 * 1024 * 1024
SLOT_BYTES = 4096
SECRET_BYTES = 32
MAGIC = b"SSLG"
FORMAT = 1
SNAPSHOT, EVENT = 1, 2
MOST_EVICTED = 1000
MOST_RETURNS = 16

_HEADER = struct.Struct("<4sBBQI32s32s")
_TAGGED_BYTES = 50
_KEYS = (
    *("install_code", "mark", "seats", "evicted", "internal", "adopting", "grant", "grace", "next"),
    *("written", "repair", "anchor"),
    *("factors", "key", "next_contact", "contacts", "request", "returns", "returned", "consumed"),
    *("returned_grace", "roots", "release", "noticed", "notice_days"),
)

State = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """What a ledger holds: with a verdict other than "ok" as far as it verifies; `state` None where nothing does."""

    verdict: str
    seq: int = 0
    head: str = "00" * 32
    state: State | None = None


class Record(NamedTuple):
    """One record whose tag is right; `end` is the first slot behind it."""

    format: int
    kind: int
    seq: int
    prev: bytes
    body: bytes
    end: int

    @property
    def after(self) -> bytes:
        """The head after this record."""
        if self.kind == SNAPSHOT:
            return self.prev
        return hashlib.sha256(self.prev + self.seq.to_bytes(8, "little") + self.body).digest()


def read_ledger(path: Path) -> Held:
    """What the ledger at `path` holds: a device, an image file, or a directory with `ledger.a` and `ledger.b`."""
    try:
        if path.is_dir():
            return read_logs(_read(path / "ledger.a"), _read(path / "ledger.b"))
        return read_logs(_read(path), _read(path, begin=LOG_BYTES, least_bytes=2 * LOG_BYTES))
    except FileNotFoundError:
        return Held("missing")


def read_logs(a: bytes, b: bytes) -> Held:
    """What two logs hold together: the four steps of "Reading" in docs/storage.md."""
    logs = (a, b)
    snapshots = [_record(log, 0, secret=None) for log in logs]
    whole = [snapshot for snapshot in snapshots if snapshot]
    if not whole:
        return Held(_why_nothing(a, b))
    if any(snapshot.format > FORMAT for snapshot in whole):
        return Held("newer")
    secrets = {snapshot.body[:SECRET_BYTES] for snapshot in whole}
    if len(secrets) > 1:
        return Held("corrupt")

    (secret,) = secrets
    behind = [_behind(log, snapshot, secret) for log, snapshot in zip(logs, snapshots, strict=True)]
    events = [event for log in behind for event in log.values()]
    if any(event.format > FORMAT for event in events):
        return Held("newer")
    continuing = [_continuing(snapshot, log) for snapshot, log in zip(snapshots, behind, strict=True) if snapshot]
    held = _follow(max(whole, key=lambda snapshot: snapshot.seq), events, continuing)
    return replace(held, verdict="corrupt") if _begun_in_both(a, b) > held.seq + 1 else held


def _begun_in_both(a: bytes, b: bytes) -> int:
    """The highest seq of an EVENT whose header stands at the same slot of both logs, whole or not."""
    headers = (
        _HEADER.unpack_from(a, at)
        for at in range(0, len(a), SLOT_BYTES)
        if a.startswith(MAGIC, at) and a[at + 5 : at + _TAGGED_BYTES] == b[at + 5 : at + _TAGGED_BYTES]
        if b.startswith(MAGIC, at)
    )
    return max((seq for _, _, kind, seq, *_ in headers if kind == EVENT), default=0)


def _why_nothing(a: bytes, b: bytes) -> str:
    """The verdict where no log begins with a whole SNAPSHOT."""
    if any(log.startswith(MAGIC) and log[4] > FORMAT for log in (a, b)):
        return "newer"
    if a.startswith(MAGIC):
        _, _, kind, seq, length, prev, _ = _HEADER.unpack_from(a)
        is_new = (kind, seq, prev) == (SNAPSHOT, 0, bytes(32))
        if is_new and not any(a[_slots(length) :]) and not any(b):
            return "missing"  # making it was cut
    begins = any(log.startswith(MAGIC, at) for log in (a, b) for at in range(0, len(log), SLOT_BYTES))
    return "corrupt" if begins else "missing"


def _follow(start: Record, events: list[Record], continuing: list[list[Record]]) -> Held:
    """The state from `start` on through `events`; `continuing`: each log's SNAPSHOT and what follows without a gap."""
    nexts: dict[tuple[int, bytes], Record] = {}
    for event in (*continuing[0][1:], *continuing[-1][1:], *events):  # the first of two counts
        nexts.setdefault((event.seq, event.prev), event)
    seq, head = start.seq, start.prev
    reached = {seq: head}
    try:
        state = _state(start.body[SECRET_BYTES:])
        while found := nexts.get((seq + 1, head)):
            _apply(state, found.body)
            seq, head = found.seq, found.after
            reached[seq] = head
    except (ValueError, KeyError, TypeError):  # sealed, and not as described
        return Held("corrupt")
    state["seats"] = list(state["seats"].values())
    is_broken = any(event.seq > seq for event in events)
    are_two = any(reached.get(log[-1].seq, log[-1].after) != log[-1].after for log in continuing)
    return Held("corrupt" if is_broken or are_two else "ok", seq, head.hex(), state)


def _record(log: bytes, at: int, secret: bytes | None) -> Record | None:
    """The record at byte `at` if its tag is right; with no `secret`: a SNAPSHOT, which brings its own."""
    if not log.startswith(MAGIC, at) or len(log) < at + _HEADER.size:
        return None
    _, format_, kind, seq, length, prev, tag = _HEADER.unpack_from(log, at)
    begin = at + _HEADER.size
    body = log[begin : begin + length]
    is_first = secret is None
    if format_ < FORMAT or len(body) < length or (is_first and (kind != SNAPSHOT or length < SECRET_BYTES)):
        return None
    key = secret or body[:SECRET_BYTES]
    if hashlib.blake2b(log[at : at + _TAGGED_BYTES] + body, digest_size=32, key=key).digest() != tag:
        return None
    return Record(format_, kind, seq, prev, body, end=at + _slots(length))


def _slots(length: int) -> int:
    """Bytes of the slots that a record with a body of `length` fills."""
    return -(-(_HEADER.size + length) // SLOT_BYTES) * SLOT_BYTES


def _behind(log: bytes, snapshot: Record | None, secret: bytes) -> dict[int, Record]:
    """All whole EVENTs behind the SNAPSHOT or first slot, by their place; also whole records of a higher format."""
    found = {}
    for at in range(snapshot.end if snapshot else SLOT_BYTES, len(log), SLOT_BYTES):
        record = _record(log, at, secret)
        if record and (record.format > FORMAT or record.kind == EVENT):
            found[at] = record
    return found


def _continuing(snapshot: Record, behind: dict[int, Record]) -> list[Record]:
    """The SNAPSHOT and the EVENTs that follow it slot by slot, number by number, head by head."""
    records = [snapshot]
    while following := behind.get(records[-1].end):
        if (following.seq, following.prev) != (records[-1].seq + 1, records[-1].after):
            break
        records.append(following)
    return records


def _state(text: bytes) -> State:
    """The state that a SNAPSHOT holds. While it is built, `seats` is kept by unit."""
    told = json.loads(text)
    state = {key: told[key] for key in _KEYS}
    return state | {"seats": {seat[0]: seat for seat in state["seats"]}}


def _apply(state: State, text: bytes) -> None:
    """Change `state` by one EVENT."""
    told = json.loads(text)
    for event in told["e"]:
        _apply_one(state, event)
    state |= {"mark": told["t"], "grace": told["g"], "written": told["w"]}


def _apply_one(state: State, event: list[Any]) -> None:  # noqa: C901, PLR0912 - a table, as in the document
    match event:
        case ["+", unit, _, _, number]:
            state["seats"][unit] = event[1:]
            state["next"] = max(state["next"], number + 1)
            state["evicted"] = [other for other in state["evicted"] if other != unit]
        case ["-", unit, cause]:
            state["seats"].pop(unit, None)
            if cause == "evicted" and unit not in state["evicted"]:
                state["evicted"] = [*state["evicted"], unit][-MOST_EVICTED:]
        case ["forget", unit]:
            state["evicted"] = [other for other in state["evicted"] if other != unit]
        case ["internal", protocol, handle, is_internal]:
            others = [device for device in state["internal"] if device != [protocol, handle]]
            state["internal"] = [*others, [protocol, handle]] if is_internal else others
        case ["adopted"]:
            state["adopting"] = False
        case ["adopting"]:
            state["adopting"] = True
        case ["grant", envelope, _]:
            _grant(state, _payload(envelope))
            state["grant"] = event
        case ["repair" | "anchor" | "roots" | "release" as key, value]:
            state[key] = value
        case ["key", seed]:
            state |= {"key": seed, "next_contact": 1, "request": None, "contacts": [], "returns": []}
        case ["bound", install_code, *factors]:
            state |= {"install_code": install_code, "factors": factors}
        case ["contact", _, number, payload, returned, grace_days]:
            others = [other for other in state["contacts"] if other[0] != number]
            state["contacts"] = [*others, [number, hashlib.sha256(base64.b64decode(payload)).hexdigest()]]
            state["next_contact"] = number + 1
            if returned is None:
                state["request"] = event
            else:
                state["returned"] |= dict([returned])
                state["returned_grace"] = grace_days
                _append_return(state, event)
        case ["consumed", license_id, version]:
            state["consumed"][license_id] = state["consumed"].get(license_id, 0) + 1
            state["release"] = version
        case ["noticed", noticed]:
            state["noticed"] = dict(noticed)
        case ["notice-days", days]:
            state["notice_days"] = days


def _append_return(state: State, event: list[Any]) -> None:
    returns = [*(other for other in state["returns"] if other[2] != event[2]), event]
    if len(returns) > MOST_RETURNS:
        returns.remove(min(returns, key=lambda other: other[2]))
    state["returns"] = returns


def _payload(envelope: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.b64decode(json.loads(base64.b64decode(envelope))["payload"]))
    return payload


def _usable(state: State, license_: dict[str, Any]) -> int:
    returned: int = max(state["returned"].get(license_["id"], 0), license_["returned_total"])
    granted: int = license_["granted_total"]
    return max(0, granted - returned)


def _grant(state: State, grant: dict[str, Any]) -> None:
    """What follows from a grant beside its being there."""
    smartserver, contact = grant["smartserver"], grant["contact"]
    state["mark"] = int(datetime.fromisoformat(grant["issued_at"].replace("Z", "+00:00")).timestamp())
    granted = {each["id"]: _usable(state, each) for each in grant["licenses"]}
    had = _payload(state["grant"][1])["licenses"] if state["grant"] else []
    lowered = [each for each in had if granted.get(each["id"], 0) < _usable(state, each)]
    state["returned_grace"] = max((each["grace_days"] for each in lowered), default=None)
    for each in grant["licenses"]:
        for total in ("returned", "consumed"):
            state[total][each["id"]] = max(state[total].get(each["id"], 0), each[f"{total}_total"])
        left = max(0, each["granted_total"] - state["returned"][each["id"]])
        state["consumed"][each["id"]] = min(state["consumed"][each["id"]], left)
    state["install_code"] = smartserver["install_code"]
    factors = [smartserver["factors"][name] for name in ("soc", "emmc", "mac")]
    if any(factors):
        state["factors"] = factors
    if contact and [contact["number"], contact["sha256"]] in state["contacts"]:
        state["contacts"] = [other for other in state["contacts"] if other[0] >= contact["number"]]
        if state["request"] and state["request"][2] <= contact["number"]:
            state["request"] = None


def _read(path: Path, *, begin: int = 0, least_bytes: int = 0) -> bytes:
    """One log; pages that cannot be read, and what is behind the end of a file, as zeros."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.lseek(descriptor, 0, os.SEEK_END) < least_bytes:
            raise FileNotFoundError(f"{path} is too small for a ledger")
        pages = [_page(descriptor, at) for at in range(begin, begin + LOG_BYTES, SLOT_BYTES)]
    finally:
        os.close(descriptor)
    return b"".join(pages)


def _page(descriptor: int, at: int) -> bytes:
    try:
        return os.pread(descriptor, SLOT_BYTES, at).ljust(SLOT_BYTES, b"\0")
    except OSError:
        return bytes(SLOT_BYTES)


def main() -> None:
    """Print what the ledger at the path in the arguments holds."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m reader PATH")
    held = read_ledger(Path(sys.argv[1]))
    json.dump(asdict(held), sys.stdout, indent=2, ensure_ascii=False)
    print()
    sys.exit(held.verdict != "ok")
