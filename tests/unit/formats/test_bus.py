from __future__ import annotations

import importlib.resources
import xml.etree.ElementTree as ET

import pytest

from smartserver_licensed.cli.screens import status_json
from smartserver_licensed.domain import errors
from smartserver_licensed.domain.errors import ArgumentError, LicensedError
from smartserver_licensed.formats.bus import (
    INTERFACE,
    DeviceFilter,
    RequestOptions,
    ReturnOptions,
    Typed,
    clean,
    error_code,
    error_name,
    parse_filter,
    parse_request_options,
    parse_return_options,
    properties,
    typed,
    typed_row,
)
from smartserver_licensed.formats.vocabulary import VOCABULARY, nested
from support.bus import STATUS


def contract() -> ET.Element:
    text = (importlib.resources.files("smartserver_licensed") / f"{INTERFACE}.xml").read_text("utf-8")
    interface = ET.fromstring(text).find(f"interface[@name='{INTERFACE}']")
    assert interface is not None
    return interface


def classes(root: type[LicensedError]) -> list[type[LicensedError]]:
    return [root, *(each for sub in root.__subclasses__() for each in classes(sub))]


def test_the_vocabulary_names_the_properties_of_the_contract_with_their_types() -> None:
    declared = {each.get("name"): each.get("type") for each in contract().iter("property")}
    assert declared == {word.property: word.signature for word in VOCABULARY if word.property}
    assert {each.get("access") for each in contract().iter("property")} == {"read"}


def test_the_command_line_shows_the_vocabulary() -> None:
    values = {name: value for name, (_, value) in properties(STATUS).items()}
    shown = status_json(values, [])
    assert shown == {
        "state": "licensed",
        "capacity": 200,
        "used": 37,
        "reserved": 2,
        "available": 163,
        "waiting": 3,
        "maintenance": {"status": "Active", "expires": "2028-03-01"},
        "customer_id": "ACME",
        "segment_id": "17q1abc",
        "install_code": "IC-0001",
        "storage": "ok",
        "clock": "ok",
        "broker_connected": True,
        "assurance": "full",
        "version": "0.1.0",
        "licenses": [],
    }


def test_the_keys_of_fb_lic_are_those_of_the_wire() -> None:
    lic = nested((word.lic, word.of(STATUS)) for word in VOCABULARY if word.lic)
    assert lic == {
        "state": "licensed",
        "capacity": 200,
        "used": 37,
        "reserved": 2,
        "available": 163,
        "waiting": 3,
        "maintenance": {"status": "Active", "expires": "2028-03-01", "devices": 200},
        "customerId": "ACME",
        "storage": "ok",
        "clock": "ok",
        "version": "0.1.0",
    }


def test_no_name_of_the_vocabulary_means_two_things() -> None:
    for border in ("property", "lic", "json"):
        names = [name for word in VOCABULARY if (name := getattr(word, border))]
        assert len(names) == len(set(names))


def test_properties_have_plain_values_of_their_type() -> None:
    kinds = {"s": str, "u": int, "b": bool}
    for name, (signature, value) in properties(STATUS).items():
        assert type(value) is kinds[signature], name


def test_plain_values_have_fixed_types() -> None:
    assert typed("a") == ("s", "a")
    assert typed(True) == ("b", True)
    assert typed(1) == typed(1)
    assert typed(1)[0] == typed(2**40)[0] == typed(-1)[0] == "x"
    assert typed([]) == ("as", [])
    assert typed(["a", "b"]) == ("as", ["a", "b"])
    assert typed({}) == ("a{sv}", {})
    assert typed_row({"a": {"b": [], "c": 1}}) == {"a": ("a{sv}", {"b": ("as", []), "c": ("x", 1)})}


def test_what_has_no_type_is_an_error_of_ours() -> None:
    with pytest.raises(OverflowError):
        typed(2**63)
    with pytest.raises(TypeError, match="NoneType"):
        typed(None)  # type: ignore[arg-type]


def test_text_is_made_fit_for_d_bus() -> None:
    assert clean("a\0b\ud800") == "a\ufffdb\ufffd"
    assert clean("Grüße\n") == "Grüße\n"
    assert typed(["\0"]) == ("as", ["\ufffd"])
    assert typed_row({"k\0": "v\0"}) == {"k\ufffd": ("s", "v\ufffd")}


def test_a_filter_has_defaults() -> None:
    assert parse_filter({}) == DeviceFilter(waiting_only=False, after="", limit=1_000)
    given = {"waiting": ("b", True), "after": ("s", "lon/1"), "limit": ("u", 7)}
    assert parse_filter(given) == DeviceFilter(waiting_only=True, after="lon/1", limit=7)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("colour", ("s", "red"), "unknown filter 'colour', known are waiting, after, limit"),
        ("waiting", ("s", "yes"), "filter 'waiting' has type 's', expected 'b'"),
        ("after", ("u", 1), "filter 'after' has type 'u', expected 's'"),
        ("limit", ("i", 5), "filter 'limit' has type 'i', expected 'u'"),
        ("limit", ("u", 0), "limit is 0, expected 1 to 1000"),
        ("limit", ("u", 1_001), "limit is 1001, expected 1 to 1000"),
    ],
)
def test_a_wrong_filter_is_refused_with_what_is_expected(key: str, value: tuple[str, object], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        parse_filter({key: value})


def test_the_options_of_a_request_are_read() -> None:
    assert parse_request_options({}) == RequestOptions("", (), is_new_key=False, is_fresh=False)
    given: dict[str, Typed] = {"licenses": ("as", ["L-1", "L-2=5"]), "new_key": ("b", True), "fresh": ("b", True)}
    assert parse_request_options(given) == RequestOptions("", ("L-1", "L-2=5"), is_new_key=True, is_fresh=True)
    assert parse_request_options({"customer_id": ("s", "C-1")}).customer_id == "C-1"


def test_the_options_of_a_return_are_read() -> None:
    assert parse_return_options({}) == ReturnOptions(over_capacity=False, revoke_excess=False, another=False)
    given: dict[str, Typed] = {"revoke_excess": ("b", True), "over_capacity": ("b", False), "another": ("b", True)}
    assert parse_return_options(given) == ReturnOptions(over_capacity=False, revoke_excess=True, another=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"license": ("s", "L-1")}, "unknown option 'license', known are customer_id, licenses, new_key, fresh"),
        ({"licenses": ("s", "L-1")}, "option 'licenses' has type 's', expected 'as'"),
        ({"customer_id": ("s", "C"), "licenses": ("as", ["L"])}, "it names a customer and licenses"),
    ],
)
def test_a_request_is_not_made_by_wrong_options(given: dict[str, Typed], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        parse_request_options(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"revoke": ("b", True)}, "unknown option 'revoke', known are over_capacity, revoke_excess, another"),
        ({"revoke_excess": ("u", 1)}, "option 'revoke_excess' has type 'u', expected 'b'"),
        ({"revoke_excess": ("b", True), "over_capacity": ("b", True)}, "expected one of them"),
    ],
)
def test_a_return_is_not_made_by_wrong_options(given: dict[str, Typed], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        parse_return_options(given)


def test_every_code_survives_the_way_through_an_error_name() -> None:
    assert error_name(errors.StaleGrantError()) == f"{INTERFACE}.Error.GrantStale"
    for kind in classes(LicensedError):
        if kind.__module__ != errors.__name__:
            continue  # licensectl's own, whose code is what the daemon said
        assert error_code(error_name(kind())) == kind.code
    assert error_code("org.freedesktop.DBus.Error.ServiceUnknown") is None
