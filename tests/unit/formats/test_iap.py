"""The wire, both ways: what a message says, and that nothing but a MessageError ever comes of bad bytes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.replay import RECORDINGS, read
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import Action, DeviceId, DeviceReport, DeviceRequest, DeviceState
from smartserver_licensed.domain.errors import MessageError
from smartserver_licensed.domain.refusal import Refusal, RefusalCode, SeatRequest
from smartserver_licensed.domain.status import Clock, State, Status, Storage, Totals
from smartserver_licensed.domain.withholding import Answer, Reason
from smartserver_licensed.formats import iap, iap_said

SID = "17qei61"
DEVICE = DeviceId("modbus", "acme-wm2000.d-0")
TOTALS = Totals(capacity=5, provisioned=4, reserved=0, waiting=1)
AT_MS = 1_795_490_562_746
NAMES = st.text(st.characters(exclude_characters="/+#", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
DEVICES = st.builds(DeviceId, NAMES, NAMES)


def sts(**fields: object) -> DeviceReport | None:
    message = iap.parse(iap.sts_topic(SID, DEVICE), json.dumps(fields).encode(), sid=SID)
    assert isinstance(message, iap.StatusSeen)
    assert message.device == DEVICE
    return message.report


@pytest.mark.parametrize(
    ("state", "meant"),
    [
        ("unlicensed", DeviceState.UNLICENSED),
        ("unprovisioned", DeviceState.UNPROVISIONED),
        ("created", DeviceState.UNPROVISIONED),
        ("provisioning", DeviceState.UNPROVISIONED),
        ("provisioned", DeviceState.PROVISIONED),
        ("deleted", DeviceState.DELETED),
        ("unknown", DeviceState.UNKNOWN),
        ("Provisioned", DeviceState.UNKNOWN),
        (None, None),
    ],
)
def test_each_state_of_an_sts_is_read(state: str | None, meant: DeviceState | None) -> None:
    assert sts(state=state) == DeviceReport(state=meant)


def test_the_marks_of_an_sts_are_read() -> None:
    assert sts(provisioned="true") == DeviceReport(None, has_restore_mark=True)
    assert sts(provisioned="false") == DeviceReport(None)
    assert sts(cat="infrastructure") == DeviceReport(None, is_infrastructure=True)
    assert sts(health="down") == sts(error="E7") == DeviceReport(None, is_troubled=True)
    assert sts(health=None, error=None, cat=7, provisioned=[]) == DeviceReport(None)


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        ({"action": "provision"}, DeviceRequest(Action.PROVISION, wants_provision=True)),
        ({"action": "create", "args": {"provision": True}}, DeviceRequest(Action.CREATE, wants_provision=True)),
        ({"action": "create", "args": {"provision": False}}, DeviceRequest(Action.CREATE)),
        ({"action": "create"}, DeviceRequest(Action.CREATE)),
        ({"action": "create", "args": {"lon.attach": "local"}}, DeviceRequest(Action.CREATE)),  # protocol lon only
        ({"action": "deprovision"}, DeviceRequest(Action.DEPROVISION)),
        ({"action": "bogus"}, None),
        ({"action": 7}, None),
        ({}, None),
    ],
)
def test_each_request_is_read(body: object, request_: DeviceRequest | None) -> None:
    message = iap.parse(iap.do_topic(SID, DEVICE), json.dumps(body).encode(), sid=SID)
    assert message == iap.RequestSeen(DEVICE, request_)


def test_an_internal_application_is_known_by_its_create_and_by_its_cfg() -> None:
    device = DeviceId("lon", "app.1")
    body = json.dumps({"action": "create", "args": {"lon.attach": "local"}}).encode()
    assert iap.parse(iap.do_topic(SID, device), body, sid=SID) == iap.RequestSeen(
        device, DeviceRequest(Action.CREATE, is_local_attach=True)
    )
    topic = f"glp/0/{SID}/fb/dev/lon/app.1/cfg"
    assert iap.parse(topic, b'{"lon.attach":"local"}', sid=SID) == iap.ConfigSeen(device, is_local_attach=True)
    nested = b'{"args":{"lon.attach":"local"}}'
    assert iap.parse(topic, nested, sid=SID) == iap.ConfigSeen(device, is_local_attach=True)
    for other in (b"", b"{}", b'{"lon.attach":"remote","args":7}'):
        assert iap.parse(topic, other, sid=SID) == iap.ConfigSeen(device, is_local_attach=False)
    other_protocol = iap.parse(f"glp/0/{SID}/fb/dev/modbus/app.1/cfg", nested, sid=SID)
    assert other_protocol == iap.ConfigSeen(DeviceId("modbus", "app.1"), is_local_attach=False)


@pytest.mark.parametrize(("payload", "sid"), [(b'"17qei61"', "17qei61"), (b'""', None), (b"null", None), (b"", None)])
def test_the_sid_is_a_json_string_and_may_be_missing(payload: bytes, sid: str | None) -> None:
    assert iap.parse(iap.SID_TOPIC, payload, sid="") == iap.SidSeen(sid)


@pytest.mark.parametrize("payload", [b"17qei61", b"7", b'{"value":"x"}', b'"a/b"', b'"a+"', b'"#"', b'["x"]', b'"."'])
def test_a_sid_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        iap.parse(iap.SID_TOPIC, payload, sid="")


@pytest.mark.parametrize("sid", ["a\0", "a\x01b", "a\x7f", "a\n", "s" * 129, "s" * 65_530])
def test_a_sid_that_would_end_the_connection_or_the_daemon_is_refused(sid: str) -> None:
    with pytest.raises(MessageError):
        iap.parse(iap.SID_TOPIC, json.dumps(sid).encode(), sid="")
    assert iap.parse(iap.SID_TOPIC, b'"%s"' % (b"s" * 128), sid="") == iap.SidSeen("s" * 128)


@pytest.mark.parametrize(
    "topic",
    [
        "glp/0/other/fb/dev/modbus/5/sts",
        f"glp/0/{SID}/fb/dev/modbus/5/sts/deeper",
        f"glp/0/{SID}/fb/dev/modbus/5/if/block/0",
        f"glp/0/{SID}/fb/dev//5/sts",
        f"glp/0/{SID}/fb/dev/modbus//sts",
        f"glp/0/{SID}/fb/dev/modbus/+/sts",
        f"glp/0/{SID}/fb/dev/#/5/sts",
        f"glp/0/{SID}/fb/dev/mod\0bus/5/sts",
        "glp/0/./=engine/+/about",
        f"glp/1/{SID}/fb/dev/modbus/5/sts",
        "",
        "/",
    ],
)
def test_other_topics_say_nothing(topic: str) -> None:
    assert iap.parse(topic, b"{", sid=SID) is None


def test_without_a_sid_no_device_says_anything() -> None:
    assert iap.parse("glp/0//fb/dev/modbus/5/sts", b'{"state":"provisioned"}', sid="") is None


@given(DEVICES, st.booleans(), st.sampled_from(Reason))
def test_our_own_lic_is_read_as_we_said_it(device: DeviceId, licensed: bool, reason: Reason) -> None:
    answer = Answer(licensed=licensed, reason=None if licensed else reason)
    topic = iap.lic_topic(SID, device)
    assert iap.parse(topic, iap_said.lic(answer, TOTALS, AT_MS), sid=SID) == iap.LicSeen(
        device, licensed, None if licensed else reason.value
    )


def test_lic_as_drivers_take_it() -> None:
    topic = iap.lic_topic(SID, DEVICE)
    for text, meant in [('"true"', True), ('"false"', False), ("1", None), ("null", None), ('"yes"', None)]:
        assert iap.parse(topic, b'{"licensed":%s}' % text.encode(), sid=SID) == iap.LicSeen(DEVICE, meant, None)
    assert iap.parse(topic, b"", sid=SID) == iap.LicSeen(DEVICE, None, None)


def test_engines_and_markers() -> None:
    assert iap.parse("glp/0/./=engine/example/about", b"{", sid=SID) == iap.EngineStarted("example")
    assert iap.parse("glp/0/./=engine/about", b"", sid="") == iap.EngineStarted(None)
    assert iap.parse(iap.MARKER_TOPIC, iap_said.marker("a-1"), sid="") == iap.MarkerSeen("a-1")


def test_what_the_daemon_says_is_what_docs_mqtt_shows() -> None:
    refusal = Refusal(
        SeatRequest(UnitId("modbus/5"), DeviceId("modbus", "5"), Action.PROVISION, 0.0),
        RefusalCode.CAPACITY_EXCEEDED,
        capacity=5,
        used=5,
        reserved=0,
    )
    said = json.loads(iap_said.refusal_error(refusal, topic="glp/0/17qei61/rq/dev/modbus/5/do", at_ms=AT_MS))
    assert said == {
        "cat": "error",
        "source": "licensed",
        "language": "en",
        "topic": "glp/0/17qei61/rq/dev/modbus/5/do",
        "message": "provision-device capacity exceeded: 5 of 5 in use",
        "utc": "2026-11-24 03:22:42.746 UTC",
        "code": "capacity-exceeded",
        "data": {"capacity": 5, "used": 5},
    }
    lic = json.loads(iap_said.lic(Answer(licensed=False, reason=Reason.CAPACITY_EXCEEDED), TOTALS, AT_MS))
    assert lic == {
        "licensed": False,
        "reason": "capacity-exceeded",
        "capacity": 5,
        "used": 5,
        "mru": "2026-11-24 03:22:42.746 UTC",
    }


def test_the_status_has_exactly_the_keys_of_the_wire() -> None:
    status = Status(
        state=State.FULL,
        totals=TOTALS,
        storage=Storage.OK,
        clock=Clock.OK,
        is_broker_connected=True,
        customer_id="c",
        segment_id=SID,
        install_code=SID,
        assurance="install-code",
        version="1",
    )
    assert json.loads(iap_said.status(status, AT_MS)) == {
        "state": "full",
        "capacity": 5,
        "used": 5,
        "reserved": 0,
        "available": 0,
        "waiting": 1,
        "maintenance": {"status": "None", "expires": "", "devices": 0},
        "customerId": "c",
        "storage": "ok",
        "clock": "ok",
        "version": "1",
        "mru": "2026-11-24 03:22:42.746 UTC",
    }


def test_every_recorded_message_can_be_read_or_is_refused_as_a_driver_would() -> None:
    for path in RECORDINGS.glob("*.jsonl"):
        for message in read(path.stem):
            if message.payload == "garbage":
                with pytest.raises(MessageError):
                    iap.parse(message.topic, message.payload.encode(), sid="17qtest")
            else:
                iap.parse(message.topic, message.payload.encode(), sid="17qtest")


def test_an_error_names_the_topic_escaped_and_short() -> None:
    for handle in ("a\nb\x1b[2J", "😀" * 5_000, "x" * 60_000):
        with pytest.raises(MessageError) as caught:
            iap.parse(f"glp/0/{SID}/fb/dev/modbus/{handle}/sts", b"{", sid=SID)
        text = str(caught.value)
        assert text.isascii()
        assert text.isprintable()
        assert "fb/dev/modbus/" in text
        assert len(text) < 400


RECORDED = sorted(
    {(each.topic, each.payload) for path in RECORDINGS.glob("*.jsonl") for each in read(path.stem) if each.payload}
)


@given(st.sampled_from(RECORDED), st.data())
@settings(max_examples=1_000)
def test_a_recorded_message_with_wrong_bytes_in_it_raises_nothing_else(
    recorded: tuple[str, str], data: st.DataObject
) -> None:
    payload = bytearray(recorded[1].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload)))
        payload[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(MessageError):
        iap.parse(recorded[0], bytes(payload), sid="17qtest")


TOPICS = st.one_of(
    st.text(max_size=60),
    st.sampled_from([iap.SID_TOPIC, iap.MARKER_TOPIC, iap.status_topic(SID), "glp/0/./=engine/x/about"]),
    DEVICES.flatmap(
        lambda device: st.sampled_from([f(SID, device) for f in (iap.sts_topic, iap.lic_topic, iap.do_topic)])
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["state", "action", "args", "licensed", "provisioned", "cat", "error"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(TOPICS, st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=3_000)
def test_whatever_comes_nothing_but_a_message_error_is_raised(topic: str, payload: bytes) -> None:
    with contextlib.suppress(MessageError):
        iap.parse(topic, payload, sid=SID)


@pytest.mark.parametrize("name", ["x" * 255 + "/1", "modbus/" + "x" * 250, "modbus/" + "\u20ac" * 84, "modbus/a\x1fb"])
def test_a_name_that_would_fill_memory_or_ledger_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match="256 bytes"):
        iap.parse(f"glp/0/17qtest/fb/dev/{name}/sts", b'{"state":"unlicensed"}', sid="17qtest")
    assert iap.parse(f"glp/0/17qtest/fb/dev/modbus/{'x' * 200}/sts", b'{"state":"unlicensed"}', sid="17qtest")
