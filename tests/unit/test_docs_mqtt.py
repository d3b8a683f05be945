"""docs/mqtt.md is true: what comes in is parsed, what goes out is what the daemon builds, nothing is missing.

An example is a topic, and the payload on the next line (an empty line where there is none), in a fenced block whose
name says which way it goes: `mqtt in`, `mqtt out`, or `mqtt refused` for what cannot be read.
"""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest

from smartserver_licensed.domain.counting import SMARTSERVER, UnitId
from smartserver_licensed.domain.devices import Action, DeviceId, DeviceReport, DeviceRequest, DeviceState
from smartserver_licensed.domain.errors import MessageError
from smartserver_licensed.domain.ledger_state import Cause
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.notices import DEFAULT_DAYS, NoticeFacts, look
from smartserver_licensed.domain.refusal import RefusalCode, SeatRequest, refuse
from smartserver_licensed.domain.status import Clock, Maintenance, State, Status, Storage, Totals
from smartserver_licensed.domain.timekeeping import DAY_S, from_iso
from smartserver_licensed.domain.withholding import YES, Answer, Reason
from smartserver_licensed.formats import iap, iap_said
from smartserver_licensed.formats.iap import (
    ConfigSeen,
    EngineStarted,
    LicSeen,
    MarkerSeen,
    OwnStatusSeen,
    RequestSeen,
    SidSeen,
    StatusSeen,
)
from smartserver_licensed.formats.vocabulary import VOCABULARY

PAGE = (Path(__file__).parents[2] / "docs/mqtt.md").read_text()
SID = "17qei61"
AT_MS = 1_795_490_562_746  # 2026-11-24 03:22:42.746 UTC
METER, CLOCK, BACNET = DeviceId("modbus", "5"), DeviceId("lon", "astro-1"), DeviceId("bac", "7")
Example = tuple[str, str]


def examples(kind: str) -> list[Example]:
    """The examples of a kind, in the order of the page."""
    found = []
    for block in re.findall(rf"^```mqtt {kind}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        for example in block.removesuffix("\n").split("\n\n"):
            topic, _, payload = example.partition("\n")
            found.append((topic, payload.removesuffix("\n")))
    return found


# -- what comes in -----------------------------------------------------------------------------------------------------

MEANT: list[iap.Message] = [
    SidSeen(SID),
    SidSeen(None),
    SidSeen(None),
    StatusSeen(METER, DeviceReport(DeviceState.PROVISIONED)),
    StatusSeen(DeviceId("modbus", "acme-wm2000.d-0"), DeviceReport(DeviceState.UNLICENSED, has_restore_mark=True)),
    StatusSeen(DeviceId("lon", "lon.sys"), DeviceReport(DeviceState.UNPROVISIONED, is_infrastructure=True)),
    StatusSeen(BACNET, DeviceReport(DeviceState.UNPROVISIONED, is_troubled=True)),
    StatusSeen(BACNET, DeviceReport(DeviceState.UNPROVISIONED, is_troubled=True)),
    StatusSeen(METER, DeviceReport(DeviceState.DELETED)),
    StatusSeen(METER, DeviceReport(DeviceState.UNKNOWN)),
    StatusSeen(METER, DeviceReport(None)),
    StatusSeen(METER, None),
    ConfigSeen(CLOCK, is_local_attach=True),
    ConfigSeen(CLOCK, is_local_attach=True),
    ConfigSeen(METER, is_local_attach=False),
    EngineStarted("modbus"),
    EngineStarted(None),
    RequestSeen(METER, DeviceRequest(Action.PROVISION, wants_provision=True)),
    RequestSeen(METER, DeviceRequest(Action.CREATE, wants_provision=True)),
    RequestSeen(METER, DeviceRequest(Action.CREATE)),
    RequestSeen(CLOCK, DeviceRequest(Action.CREATE, is_local_attach=True)),
    RequestSeen(METER, DeviceRequest(Action.DEPROVISION)),
    RequestSeen(METER, DeviceRequest(Action.REPLACE)),
    RequestSeen(METER, DeviceRequest(Action.DELETE)),
    RequestSeen(METER, None),
    LicSeen(METER, licensed=True, reason=None),
    LicSeen(METER, licensed=False, reason="not-asked"),
    LicSeen(METER, licensed=None, reason=None),
    OwnStatusSeen(),
    MarkerSeen("9f3c01aa-17"),
]


def test_each_incoming_example_means_what_the_page_says() -> None:
    read = [iap.parse(topic, payload.encode(), sid=SID) for topic, payload in examples("in")]
    assert read == MEANT


def test_there_is_an_incoming_example_of_every_kind_of_message() -> None:
    assert {type(each) for each in MEANT} == set(typing.get_args(iap.Message))


def test_there_is_an_example_of_every_state_and_action() -> None:
    payloads = "".join(payload for _, payload in examples("in"))
    states = [each.value for each in DeviceState if each is not DeviceState.UNKNOWN] + ["created", "provisioning"]
    assert [each for each in states if f'"state":"{each}"' not in payloads] == []
    assert [each for each in Action if f'"action":"{each.value}"' not in payloads] == []


@pytest.mark.parametrize(("topic", "payload"), examples("refused"))
def test_an_example_of_what_cannot_be_read_is_refused(topic: str, payload: str) -> None:
    with pytest.raises(MessageError):
        iap.parse(topic, payload.encode(), sid=SID)


def test_the_limits_of_payloads_stand_on_the_page() -> None:
    limits = f"at most {iap.MAX_PAYLOAD_BYTES // 1024} KiB, UTF-8, no duplicate keys, no NaN, depth ≤ {iap.MAX_DEPTH}"
    assert limits in PAGE
    assert f"at most {iap.MAX_SID_LENGTH} characters" in PAGE


# -- what goes out -----------------------------------------------------------------------------------------------------

FULL = Totals(capacity=5, provisioned=4, reserved=0, waiting=1)
NOT_FULL = Totals(capacity=5, provisioned=3, reserved=0, waiting=0)
STATUS = Status(
    state=State.LICENSED,
    totals=Totals(capacity=200, provisioned=36, reserved=2, waiting=0),
    storage=Storage.OK,
    clock=Clock.OK,
    is_broker_connected=True,
    customer_id="6f1b0c9e-7a37-4c58-8d0a-0a5e7f1d2b34",
    segment_id=SID,
    install_code=SID,
    assurance="install-code",
    version="0.1.0",
    maintenance=Maintenance(status="Active", expires="2028-03-01", devices=200),
)
FAULT = Status(
    state=State.STORAGE_FAULT,
    totals=Totals(0, 0, 0, 0),
    storage=Storage.MISSING,
    clock=Clock.UNSYNCHRONISED,
    is_broker_connected=True,
    customer_id="",
    segment_id=SID,
    install_code=SID,
    assurance="install-code",
    version="0.1.0",
)


def lic(handle: str, answer: Answer) -> tuple[str, bytes]:
    return iap.lic_topic(SID, DeviceId("modbus", handle)), iap_said.lic(answer, FULL, AT_MS)


def error(
    totals: Totals, action: Action = Action.PROVISION, *, is_storage_usable: bool = True, is_bound: bool = True
) -> tuple[str, bytes]:
    device = DeviceId("modbus", "6")
    request = SeatRequest(UnitId(str(device)), device, action, 0.0)
    refusal = refuse(request, totals=totals, is_storage_usable=is_storage_usable, is_bound=is_bound)
    said = iap_said.refusal_error(refusal, topic=iap.do_topic(SID, device), at_ms=AT_MS)
    return iap.error_topic(SID), said


def warnings() -> list[tuple[str, bytes]]:
    end = from_iso("2026-12-08T03:22:42Z")
    trial = License("trial-1", LicenseType.TRIAL, 5, end)
    ending = NoticeFacts(end - 14 * DAY_S, [trial], {}, Totals(5, 0, 0, 0))
    full = NoticeFacts(end, [], {}, FULL)
    notices = [*look(ending, {}, DEFAULT_DAYS)[0], *look(full, {}, DEFAULT_DAYS)[0]]
    topic = iap.status_topic(SID)
    return [(iap.warning_topic(SID), iap_said.warning(each, topic=topic, at_ms=AT_MS)) for each in notices]


def event(
    kind: str, unit: str, reason: str | None, totals: Totals = FULL, *, topic: str = "", is_known: bool = True
) -> tuple[str, bytes]:
    device = DeviceId(*unit.split("/")) if is_known else None
    said = iap_said.event(kind, unit, device, reason=reason, totals=totals, at_ms=AT_MS, topic=topic)
    return iap.event_topic(SID), said


def test_each_outgoing_example_is_what_the_daemon_builds() -> None:
    said = [
        lic("5", YES),
        lic("6", Answer(licensed=False, reason=Reason.CAPACITY_EXCEEDED)),
        lic("7", Answer(licensed=False, reason=Reason.NOT_ASKED)),
        lic("8", Answer(licensed=False, reason=Reason.DELETED)),
        error(FULL),
        error(Totals(capacity=5, provisioned=3, reserved=1, waiting=1), Action.CREATE),
        error(Totals(capacity=0, provisioned=0, reserved=0, waiting=1)),
        error(Totals(capacity=5, provisioned=6, reserved=0, waiting=1)),
        error(Totals(capacity=0, provisioned=0, reserved=0, waiting=0), is_storage_usable=False),
        error(FULL, is_bound=False),
        *warnings(),
        event("admission", "modbus/5", None, NOT_FULL),
        event("rejection", "modbus/6", "capacity-exceeded"),
        event("release", "modbus/5", "released", NOT_FULL),
        event("release", "iox/411b19", "evicted", NOT_FULL, is_known=False),
        event("revocation", "modbus/9", "grace-ended"),
        event("tamper", "modbus/6", "foreign-write", topic=iap.lic_topic(SID, DeviceId("modbus", "6"))),
        event("tamper", SMARTSERVER, "foreign-write", topic=iap.status_topic(SID), is_known=False),
        (iap.status_topic(SID), iap_said.status(STATUS, AT_MS)),
        (iap.status_topic(SID), iap_said.status(FAULT, AT_MS)),
        (iap.do_topic(SID, METER), iap_said.request(Action.PROVISION)),
        (iap.do_topic(SID, DeviceId("xyz", "6")), iap_said.request(Action.DEPROVISION)),
        (iap.MARKER_TOPIC, iap_said.marker("9f3c01aa-17")),
    ]
    assert examples("out") == [(topic, payload.decode()) for topic, payload in said]


@pytest.mark.parametrize("word", [each.value for kind in (Reason, RefusalCode, Cause) for each in kind])
def test_every_reason_and_code_is_named(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_every_key_of_the_status_is_in_an_example() -> None:
    shown = next(payload for topic, payload in examples("out") if topic == iap.status_topic(SID))
    keys = {part for word in VOCABULARY if word.lic for part in word.lic.split(".")}
    assert [key for key in keys if f'"{key}":' not in shown] == []


# -- topics ------------------------------------------------------------------------------------------------------------


def test_every_topic_and_filter_is_on_the_page() -> None:
    device = DeviceId("{P}", "{H}")
    built = [
        *iap.live_filters("{SID}"),
        *(iap.snapshot_filter("{SID}", kind) for kind in ("sts", "lic", "cfg")),
        *(make("{SID}", device) for make in (iap.sts_topic, iap.lic_topic, iap.do_topic)),
        *(make("{SID}") for make in (iap.status_topic, iap.event_topic, iap.error_topic, iap.warning_topic)),
        *(iap.SID_TOPIC, iap.MARKER_TOPIC, *iap.ENGINE_FILTERS),
    ]
    assert [topic for topic in built if f"`{topic}`" not in PAGE] == []


def test_no_topic_was_forgotten_here() -> None:
    functions = {name for name, each in vars(iap).items() if inspect.isfunction(each) and not name.startswith("_")}
    taking_a_sid = {name for name in functions if "sid" in inspect.signature(getattr(iap, name)).parameters}
    assert taking_a_sid == {
        "live_filters", "snapshot_filter", "sts_topic", "lic_topic", "do_topic",
        "status_topic", "event_topic", "error_topic", "warning_topic", "parse",
    }  # fmt: skip
