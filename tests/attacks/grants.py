"""Grants that are genuine, or signed as they should be, and not for this SmartServer or not for now.

What this module does not do: payloads that are no grant at all are in `payloads`.
"""

from __future__ import annotations

from dataclasses import replace

from attacks.attack import attack
from attacks.scene import Scene
from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.timekeeping import to_iso
from support.box import CUSTOMER_ID

MUCH = License("much", LicenseType.CAPACITY, 50_000)


@attack("the value of the vendor's grant, signed anew by the suite", is_control=True)
def a_grant_that_the_suite_signs_is_accepted(scene: Scene) -> str:
    return scene.accepted(scene.signed(scene.value()))


@attack("a genuine grant of the same vendor for another install code")
def a_license_of_another_smartserver_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(scene.signed(replace(scene.value(), install_code="17other")), "wrong-smartserver")


@attack("a grant for this install code and another device key, as a clone would get it")
def a_grant_for_another_device_key_is_refused(scene: Scene) -> str:
    other = replace(scene.value(), device_key=SigningKey.generate().public.raw)
    return scene.daemon_refuses(scene.signed(other), "wrong-smartserver")


@attack("a grant without a device key, signed by the vendor by mistake")
def a_grant_for_nobody_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(scene.signed(replace(scene.value(), device_key=None)), "activation-required")


@attack("`license-authority issue` at a real authority, for a SmartServer that has made no request")
def a_real_authority_issues_nothing_without_activation(scene: Scene) -> str:
    before = scene.vendor.books()
    code = scene.vendor.process(
        "issue", "--type", "capacity", "--devices", "9", "--customer-id", CUSTOMER_ID,
        "--install-code", "17never", "-o", str(scene.directory / "never.json"),
    )  # fmt: skip
    assert scene.vendor.books() == before
    return scene.same(code, "unactivated-refused")


@attack("a grant of a demonstration authority, which anybody can make")
def a_grant_of_another_authority_is_refused(scene: Scene) -> str:
    demonstration = seal(GRANT_TYPE, encode_grant(replace(scene.value(), root_version=1)), [SigningKey.generate()])
    return scene.daemon_refuses(demonstration, "signature-invalid")


@attack("the grant before the one that is installed")
def an_older_grant_after_a_newer_one_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(scene.older, "grant-stale")


@attack("the grant that is installed, once more, plain and after a restart")
def a_replayed_grant_is_refused(scene: Scene) -> str:
    scene.daemon_refuses(scene.newest, "grant-stale")
    scene.server.kill()
    scene.server.start()
    return scene.daemon_refuses(scene.newest, "grant-stale")


@attack("the newest number with other licenses")
def a_second_grant_of_one_number_is_refused(scene: Scene) -> str:
    scene.accepted(scene.grant())
    value = scene.value()
    return scene.daemon_refuses(scene.signed(replace(value, seq=value.seq - 1, licenses=(MUCH,))), "grant-stale")


@attack("the same licenses with a later end, without the vendor's keys")
def a_trial_made_longer_is_refused(scene: Scene) -> str:
    trial = License("trial", LicenseType.TRIAL, 5, scene.value().issued_at + 10**8, 7)
    longer = seal(GRANT_TYPE, encode_grant(replace(scene.value(), licenses=(trial,))), [SigningKey.generate()] * 2)
    return scene.daemon_refuses(longer, "signature-invalid")


@attack("1,001 emergency devices, where the root allows 1,000, signed by the vendor")
def emergency_capacity_beyond_the_root_is_refused(scene: Scene) -> str:
    value = scene.value()
    licenses = tuple(License(f"e{each}", LicenseType.EMERGENCY, devices, value.issued_at + 86_400)
                     for each, devices in enumerate((1_000, 1)))  # fmt: skip
    return scene.daemon_refuses(scene.signed(replace(value, licenses=licenses)), "payload-malformed")


@attack("an emergency license for 15 days, signed by the vendor")
def emergency_capacity_beyond_14_days_is_refused(scene: Scene) -> str:
    value = scene.value()
    day_s = 86_400
    text = encode_grant(
        replace(value, licenses=(License("e", LicenseType.EMERGENCY, 5, value.issued_at + 14 * day_s),))
    )
    later = text.replace(to_iso(value.issued_at + 14 * day_s).encode(), to_iso(value.issued_at + 15 * day_s).encode())
    return scene.daemon_refuses(scene.signed(later), "payload-malformed")


@attack("the same license twice in one grant, signed by the vendor")
def a_license_twice_in_a_grant_is_refused(scene: Scene) -> str:
    payload = scene.payload()
    first, _, rest = payload.partition(b'"licenses":[')
    one = rest[: rest.index(b"}") + 1]
    return scene.daemon_refuses(scene.signed(first + b'"licenses":[' + one + b"," + rest), "payload-malformed")
