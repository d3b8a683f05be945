from __future__ import annotations

from typing import Any

import pytest

from smartserver_licensed.domain.binding import NO_FACTORS
from smartserver_licensed.domain.contacts import MAX_CHAIN, MAX_WANTED, Contact, ContactKind, Wanted
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import ContactMark

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def contact(**members: object) -> Contact:
    """A first request, but for the members given."""
    values: dict[str, Any] = {
        "kind": ContactKind.REQUEST,
        "number": 1,
        "chain": (),
        "nonce": "0" * 32,
        "made_at": 0,
        "install_code": "17qei61",
        "device_key": b"k" * 32,
        "factors": NO_FACTORS,
        "grant_seq": 0,
        "root_version": 1,
        "anchor": "none",
        "totals": (),
    }
    return Contact(**{**values, **members})


def test_the_first_contact_has_no_chain() -> None:
    assert contact().earlier == ()


def test_a_chain_ends_just_before_its_contact() -> None:
    assert contact(number=3, chain=(A, B)).earlier == (ContactMark(1, A), ContactMark(2, B))
    assert contact(number=9, chain=(A, B, C)).earlier == (ContactMark(6, A), ContactMark(7, B), ContactMark(8, C))


def test_a_chain_of_the_longest_length_is_accepted_and_no_longer_one() -> None:
    assert len(contact(number=200, chain=(A,) * MAX_CHAIN).earlier) == MAX_CHAIN
    with pytest.raises(ArgumentError, match="a chain of 129"):
        contact(number=200, chain=(A,) * (MAX_CHAIN + 1))


@pytest.mark.parametrize(
    "members",
    [
        {"number": 0},
        {"number": 2**53 + 1, "chain": (A,)},
        {"number": 2},  # without a chain
        {"number": 2, "chain": (A, B)},  # a number before the first
        {"number": 2, "chain": (A[:-1],)},
        {"number": 2, "chain": (A.upper(),)},
        {"nonce": ""},
        {"nonce": "0" * 31},
        {"nonce": "0" * 33},
        {"nonce": "G" * 32},
        {"made_at": -1},
        {"wanted": (Wanted("a"),) * (MAX_WANTED + 1)},
        {"license_id": "cap-1"},  # a request that returns
        {"devices": 1},
        {"kind": ContactKind.RETURN},
        {"kind": ContactKind.RETURN, "license_id": "cap-1"},
        {"kind": ContactKind.RETURN, "devices": 1},
        {"kind": ContactKind.RETURN, "license_id": "cap-1", "devices": -1},
    ],
)
def test_what_is_no_contact_cannot_be_made(members: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="cannot make a contact"):
        contact(**members)


def test_a_return_names_a_license_and_devices() -> None:
    made = contact(kind=ContactKind.RETURN, license_id="cap-1", devices=300)
    assert (made.license_id, made.devices) == ("cap-1", 300)
