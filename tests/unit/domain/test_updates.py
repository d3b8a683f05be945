"""The update gate (LICENSING §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S, from_iso
from smartserver_licensed.domain.updates import UpdateCode, UpdateKind, Verdict, Version, check, parse_version

NOW = from_iso("2027-01-01T00:00:00Z")
END = from_iso("2028-10-23T12:00:00Z")
CAPACITY = License("c", LicenseType.CAPACITY, 500)
MAINTENANCE = License("m", LicenseType.MAINTENANCE, 500, END)
UPGRADE = License("u", LicenseType.UPGRADE, 1, release="4.0")
FEATURE, UPDATE, PLATFORM = UpdateKind.FEATURE, UpdateKind.UPDATE, UpdateKind.PLATFORM


def judged(
    version: str,
    kind: UpdateKind = FEATURE,
    *,
    installed: str | None = "3.5",
    licenses: Sequence[License] = (CAPACITY,),
    returned: Mapping[str, int] | None = None,
    consumed: Mapping[str, int] | None = None,
    now: int = NOW,
    released: int = NOW,
) -> Verdict:
    return check(
        parse_version(version),
        kind,
        released,
        installed=parse_version(installed) if installed else None,
        licenses=licenses,
        returned=returned or {},
        consumed=consumed or {},
        now=now,
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.5", Version(3, 5)),
        ("3.5 Update 2", Version(3, 5, 2)),
        ("3.5 UPDATE 12", Version(3, 5, 12)),
        ("3.5 update 2", Version(3, 5, 2)),
        ("4.0", Version(4, 0)),
    ],
)
def test_a_version_is_read_from_its_name(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "3.5.1",
        "3.51.012",
        "v3.5",
        "3.5 ",
        " 3.5",
        "3.5\n",
        "3.5 Update",
        "3.5 Update 2 ",
        "3.5  Update 2",
        "3.5 Update two",
        "3.5 SP2",
        "-3.5",
        "٣.5",
        "3.5 Update ٢",
        "3.12345",
    ],
)
def test_any_other_name_is_refused_with_the_form_that_is_expected(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"'3\.5' or '3\.5 Update 2'"):
        parse_version(text)


@given(st.builds(Version, st.integers(0, 9_999), st.integers(0, 9_999), st.integers(0, 9_999)))
def test_every_version_comes_back_from_its_own_name(version: Version) -> None:
    assert parse_version(str(version)) == version


def test_versions_are_ordered_by_numbers_not_by_letters() -> None:
    names = ["3.5", "3.5 Update 2", "3.5 Update 10", "3.6", "3.10", "4.0", "10.0"]
    assert sorted(map(parse_version, names)) == [parse_version(each) for each in names]


@pytest.mark.parametrize("kind", list(UpdateKind))
@pytest.mark.parametrize("version", ["3.5", "3.4 Update 9", "3.3", "2.9"])
def test_the_same_or_an_older_version_may_always_be_installed(version: str, kind: UpdateKind) -> None:
    verdict = judged(version, kind, licenses=())
    assert (verdict.is_allowed, verdict.code, verdict.license_id) == (True, UpdateCode.SAME_OR_OLDER, None)


def test_an_update_of_the_installed_release_needs_nothing() -> None:
    assert judged("3.5 Update 2", UPDATE, licenses=()).code is UpdateCode.UPDATE_OF_INSTALLED
    assert judged("3.5 Update 3", UPDATE, installed="3.5 Update 2", licenses=()).is_allowed


def test_what_the_vendor_calls_a_feature_release_is_one_whatever_its_name() -> None:
    assert judged("3.5 Update 2", FEATURE, licenses=()).code is UpdateCode.MAINTENANCE_MISSING


def test_an_update_of_a_newer_release_is_judged_as_that_release() -> None:
    assert judged("3.6 Update 1", UPDATE).code is UpdateCode.MAINTENANCE_MISSING
    assert judged("3.6 Update 1", UPDATE, licenses=(CAPACITY, MAINTENANCE)).code is UpdateCode.MAINTENANCE_CURRENT


def test_where_nobody_knows_what_is_installed_nothing_is_the_same_or_older() -> None:
    for kind in (UPDATE, FEATURE):
        assert judged("3.5", kind, installed=None).code is UpdateCode.MAINTENANCE_MISSING
        assert judged("3.5", kind, installed=None, licenses=(CAPACITY, MAINTENANCE)).is_allowed


def test_maintenance_that_covers_the_capacity_allows_a_feature_release_and_uses_nothing_up() -> None:
    verdict = judged("3.6", licenses=(CAPACITY, MAINTENANCE, UPGRADE))
    assert (verdict.is_allowed, verdict.code, verdict.license_id) == (True, UpdateCode.MAINTENANCE_CURRENT, None)
    assert "500 devices" in verdict.sentence
    assert "2028-10-23" in verdict.sentence


def test_expired_maintenance_is_told_with_its_day() -> None:
    verdict = judged("3.6", licenses=(CAPACITY, MAINTENANCE), now=END)
    assert (verdict.is_allowed, verdict.code) == (False, UpdateCode.MAINTENANCE_EXPIRED)
    assert "expired on 2028-10-23" in verdict.sentence
    assert "Maintenance for 500 devices, or an upgrade license for 3.6 or newer, helps." in verdict.sentence


def test_maintenance_must_be_current_when_the_release_came_out_whatever_the_clock_says() -> None:
    late = END + DAY_S
    verdict = judged("3.6", licenses=(CAPACITY, MAINTENANCE), released=late)
    assert (verdict.is_allowed, verdict.code) == (False, UpdateCode.MAINTENANCE_EXPIRED)
    assert "ends on 2028-10-23, its release is on 2028-10-24" in verdict.sentence
    assert judged("3.6", licenses=(CAPACITY, MAINTENANCE), released=0, now=END).code is verdict.code


def test_maintenance_for_too_few_devices_is_told_with_how_many_are_missing() -> None:
    verdict = judged("3.6", licenses=(CAPACITY, replace(MAINTENANCE, granted_total=300)))
    assert (verdict.is_allowed, verdict.code) == (False, UpdateCode.MAINTENANCE_SHORT)
    assert "300 of 500 devices, 200 are missing" in verdict.sentence
    assert "Maintenance for 200 more devices" in verdict.sentence


def test_what_was_returned_counts_at_the_gate() -> None:
    short = (CAPACITY, replace(MAINTENANCE, granted_total=300))
    assert judged("3.6", licenses=short, returned={"c": 200}).is_allowed
    assert judged("3.6", licenses=short, returned={"c": 200, "m": 1}).code is UpdateCode.MAINTENANCE_SHORT
    assert judged("3.6", licenses=(CAPACITY, UPGRADE), returned={"u": 1}).code is UpdateCode.MAINTENANCE_MISSING


@pytest.mark.parametrize("version", ["3.6", "4.0", "4.0 Update 1"])
def test_an_upgrade_license_allows_its_release_and_older_ones(version: str) -> None:
    verdict = judged(version, licenses=(CAPACITY, UPGRADE))
    assert (verdict.is_allowed, verdict.code, verdict.license_id) == (True, UpdateCode.UPGRADE_LICENSE, "u")


def test_an_upgrade_license_allows_no_newer_release() -> None:
    assert not judged("4.1", licenses=(CAPACITY, UPGRADE)).is_allowed


def test_of_upgrade_licenses_the_lowest_sufficient_release_then_the_earliest_id_is_used() -> None:
    upgrades = [replace(UPGRADE, id=name, release=release) for name, release in [("a", "10.0"), ("z", "4.0")]]
    assert judged("4.0", licenses=[CAPACITY, *upgrades]).license_id == "z"
    assert judged("4.1", licenses=[CAPACITY, *upgrades]).license_id == "a"
    twins = [replace(UPGRADE, id=name) for name in ("y", "x", "z")]
    assert judged("4.0", licenses=[CAPACITY, *twins], consumed={"x": 0}).license_id == "x"
    assert judged("4.0", licenses=[CAPACITY, *twins], consumed={"x": 1}).license_id == "y"


def test_a_consumed_upgrade_license_allows_nothing_more_whoever_knows_of_it() -> None:
    assert not judged("4.0", licenses=(CAPACITY, UPGRADE), consumed={"u": 1}).is_allowed
    assert not judged("4.0", licenses=(CAPACITY, replace(UPGRADE, consumed_total=1))).is_allowed


def test_a_platform_needs_an_upgrade_license_that_names_exactly_it() -> None:
    everything = (CAPACITY, MAINTENANCE, replace(UPGRADE, release="5.0"))
    verdict = judged("4.0", PLATFORM, licenses=everything)
    assert (verdict.is_allowed, verdict.code) == (False, UpdateCode.PLATFORM_NOT_COVERED)
    assert "upgrade license for 4.0" in verdict.sentence
    named = judged("4.0", PLATFORM, licenses=(*everything, UPGRADE))
    assert (named.is_allowed, named.license_id) == (True, "u")


def test_without_capacity_licenses_some_maintenance_is_needed_all_the_same() -> None:
    trial = License("t", LicenseType.TRIAL, 5, END)
    assert judged("3.6", licenses=(trial,)).code is UpdateCode.MAINTENANCE_MISSING
    assert judged("3.6", licenses=(trial, replace(MAINTENANCE, granted_total=1))).is_allowed


_LICENSES = st.lists(
    st.builds(
        lambda kind, total, number: License(
            f"x{number}",
            kind,
            total,
            None if kind is LicenseType.CAPACITY else NOW + number * DAY_S,
            release="4.0" if kind is LicenseType.UPGRADE else "",
        ),
        st.sampled_from([LicenseType.CAPACITY, LicenseType.MAINTENANCE, LicenseType.UPGRADE, LicenseType.TRIAL]),
        st.integers(0, 5),
        st.integers(-3, 3),
    ),
    max_size=6,
    unique_by=lambda each: each.id,
)
_VERSIONS = st.builds(Version, st.integers(3, 5), st.integers(0, 2), st.integers(0, 2))


@given(_VERSIONS, st.none() | _VERSIONS, st.sampled_from(UpdateKind), _LICENSES, st.integers(-9, 9))
def test_the_gate_never_uses_up_what_is_not_there_and_always_says_why(
    version: Version, installed: Version | None, kind: UpdateKind, licenses: list[License], days: int
) -> None:
    verdict = check(
        version,
        kind,
        NOW + days * DAY_S,
        installed=installed,
        licenses=licenses,
        returned={},
        consumed={},
        now=NOW,
    )
    assert verdict.sentence.startswith(f"{version} may {'' if verdict.is_allowed else 'not '}be installed: ")
    assert (verdict.code is UpdateCode.UPGRADE_LICENSE) == (verdict.license_id is not None)
    usable = {each.id for each in licenses if each.type is LicenseType.UPGRADE and each.granted_total}
    assert verdict.license_id is None or (verdict.license_id in usable and version.release <= Version(4, 0))
