"""What the daemon says in the journal: one table of messages, each with an id that never changes.

Rules (STYLE.md "Log"):
- an id means one thing for ever: an administrator's alarm hangs on it; a new meaning gets a new id;
- sentences are constant; what varies is in fields (`DEVICE`, `CAPACITY`, …);
- priorities are syslog's: 3 error (a promise was broken), 4 warning (an operator may act), 5 notice, 6 information;
- `systemd/smartserver-licensed.catalog` explains each one; a test holds the two together.

What this module does not do: it logs nothing; the controller and the daemon do, `adapters.journal` writes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of journal entry. `name` is for documentation, `id` is the MESSAGE_ID: 32 hexadecimal digits."""

    name: str
    id: str
    priority: int
    sentence: str


STARTED = Message("started", "d19dc279c68a41e9a9c48d0d3d61eb7e", 6, "The licensing daemon has started")
STOPPED = Message("stopped", "e9d8dbedf2364dfdb9b35940802ba70b", 6, "The licensing daemon has stopped")
LEDGER_OPENED = Message("ledger-opened", "4e163172c052425b9d4e1b2da86f5c61", 6, "The ledger is open")
LEDGER_REPAIRED = Message(
    "ledger-repaired", "ed9072e967da43caa4d09194098dbd7e", 4, "The ledger was damaged and is repaired from its twin"
)
LEDGER_CUT = Message(
    "ledger-cut", "33c1fc9a7bf14d72a4f3aac49a1f5a70", 5, "The power was cut while the ledger was written"
)
REPAIR_ACKNOWLEDGED = Message(
    "repair-acknowledged", "59a8d04e2e0b4f0d9f5fd2bb6a5fd3c1", 5, "A repair of the ledger was acknowledged"
)
LEDGER_FULL = Message(
    "ledger-full", "e2cf8a0d3cbb4c3bb7f3a6f9d0b1c8e4", 3, "The ledger holds as much as it may; no more seats are given"
)
STORAGE_CONDITION_CHANGED = Message(
    "storage-condition-changed", "9f18e135e824465c907f6478cdd8e7b1", 4, "The condition of the ledger has changed"
)
BROKER_CONNECTED = Message("broker-connected", "a9751b7d707d4ec683e194281ffbb3c3", 6, "The MQTT broker is connected")
BROKER_LOST = Message("broker-lost", "c80b55ee30244c158205c32955ce5b96", 4, "The MQTT broker is not connected")
BUS_CONNECTED = Message("bus-connected", "8135659799ae4075854501d7e27d5290", 6, "The D-Bus is connected again")
BUS_LOST = Message("bus-lost", "2dacb15a2bf64943916718c40e6fb7bb", 4, "The D-Bus is not connected")
LICENSE_INSTALLED = Message("license-installed", "adc3bfdccc224d13bf4661c7e9a8a0ce", 5, "A license was installed")
LICENSE_REFUSED = Message("license-refused", "c07b55141fd14c6a96b7fd6001760a11", 4, "A license was refused")
REQUEST_MADE = Message(
    "request-made", "0d27555ea91f49609c6563c06a4893f7", 5, "A request for the issuer of the licenses was made"
)
LICENSE_RETURNED = Message(
    "license-returned", "395b336b9ee34e4ebdde36c10894509f", 5, "Licenses were returned; the proof can be exported"
)
ROOTS_TRUSTED = Message("roots-trusted", "cfdf644572ab42108c26e9b3e38de644", 5, "Newer keys of the issuer are trusted")
CONTACT_UNKNOWN = Message(
    "contact-unknown",
    "4a22c6600e9648d09ec6a0e2efb2acfc",
    4,
    "A grant answers a document that this ledger has not made: one is a copy",
)
UPGRADE_CONSUMED = Message(
    "upgrade-consumed", "9ec3f06c568b47bfab07152da5a68fb5", 5, "An upgrade license was used for an installation"
)
UPDATE_NOT_COVERED = Message(
    "update-not-covered", "8e47f44f6431464f9b2f66252dd02727", 4, "A release was installed that no license covers"
)
NOTICE = Message("notice", "0eb2e91f040e4220922b99165ca68341", 4, "A license or the capacity needs attention")
REBIND_NEEDED = Message(
    "rebind-needed",
    "a5f11ff8a6034d1999ce503c162817fb",
    4,
    "The ledger belongs to another board or install code; a new grant is needed",
)
SEAT_REFUSED = Message(
    "seat-refused",
    "000a52bd2ca84c4485c21bfd7f23fbbc",
    4,
    "A device was refused: no seat of the licensed capacity is free",
)
AUDIT_DIFFERENCE = Message(
    "audit-difference", "5b3762983a684adebd5f8997efbbfa54", 3, "The audit counted other seats than the counter shows"
)
OVER_CAPACITY_BEGUN = Message(
    "over-capacity-begun", "e176e4c6472849b6aff00f00f80e81fd", 4, "More devices run than the licenses allow"
)
OVER_CAPACITY_ENDED = Message(
    "over-capacity-ended", "02d44335e31343a683ce1103e196160d", 5, "The running devices are within the capacity again"
)
REVOKED = Message("revoked", "d8dcec1352f7410280b70c6956a6285a", 4, "Running devices have lost their seats")
ADOPTED = Message("adopted", "7dee8327032f43f28272d631b164bd24", 4, "Running devices were adopted beyond the capacity")
MESSAGES_DROPPED = Message(
    "messages-dropped", "6fa8c2c020a0464bbda62399794321de", 4, "Messages from the broker were dropped"
)
UNKNOWN_STATE = Message(
    "unknown-state",
    "81c82ce39a464e1988ba00c29b2dad32",
    4,
    "A device shows a state that is not known; it counts for nothing",
)
CLOCK_SET_BACK = Message("clock-set-back", "b50089ef3a5c4de68a699ed50154c3c7", 4, "The clock was set back")
RELOADED = Message("reloaded", "4a68f9565edd4d2e9c760c34a8d1f7c5", 6, "The configuration was read again")
RELOAD_REFUSED = Message(
    "reload-refused",
    "7e015efcb8a14381a451fa3f8f749f70",
    4,
    "The configuration is wrong; the running one stays in force",
)
TAMPERED = Message(
    "tampered",
    "282c3aa9c40648abbe0f9c0e18213076",
    4,
    "Somebody else wrote what only the daemon may write",
)
RUNS_WITHOUT_SEAT = Message(
    "runs-without-seat",
    "0d5b6f690ace4617afd05755f6dcd2f4",
    4,
    "A device runs without a seat in an older engine",
)
ENTRIES_LEFT_OUT = Message(
    "entries-left-out", "8027c1c0a6b248b2be73e4ef37cdd2f6", 4, "More of the same was met than the journal shows"
)
INTERNAL_ERROR = Message("internal-error", "b0013aaee0dc4903bac1e376f72ba5f2", 3, "An internal error was met")

MESSAGES = tuple(each for each in globals().copy().values() if isinstance(each, Message))
