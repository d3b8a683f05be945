"""Trials, upgrades, emergencies and purchases that are to be used twice.

What this module does not do: the rules about maintenance; those are in `tests/unit/authority`.
"""

from __future__ import annotations

import json
from dataclasses import replace

from attacks.attack import GotThroughError, attack
from attacks.puppet import Puppet
from attacks.scene import Scene
from attacks.server import SmartServer
from attacks.vendor import OTHER_CUSTOMER_ID
from smartserver_licensed.documents.envelope import parse_envelope
from smartserver_licensed.documents.payloads import parse_grant
from smartserver_licensed.domain.contacts import Wanted
from smartserver_licensed.domain.licenses import Grant, LicenseType
from support.box import CUSTOMER_ID


def _wipe(server: SmartServer) -> None:
    """The partition is made anew, as by somebody who wants another trial."""
    server.kill()
    for each in server.state.iterdir():
        each.unlink()
    server.start()


def _grant(document: bytes) -> Grant:
    return parse_grant(parse_envelope(document).payload)


def _ordered(scene: Scene, kind: str, install_code: str, *more: str, customer_id: str = CUSTOMER_ID) -> str:
    """The code with which an order is refused."""
    before = scene.vendor.books()
    code = scene.vendor.process(
        "order", "--type", kind, "--devices", "5", "--customer-id", customer_id, "--install-code", install_code, *more,
        with_password=False,
    )  # fmt: skip
    if scene.vendor.books() != before:
        raise GotThroughError(f"refused as {code}, and the register has changed")
    return code


@attack("a second trial for an install code; one more after the partition was wiped and the key was lost")
def a_trial_is_given_once_also_after_a_wipe(scene: Scene) -> str:
    scene.vendor.order(5, "--install-code", "17trial", kind="trial")
    with SmartServer(scene.vendor, "17trial") as server:
        first = _grant(scene.activate(server))
        scene.same(_ordered(scene, "trial", "17trial"), "trial-used")
        _wipe(server)
        request = server.request(customer_id=CUSTOMER_ID)
        scene.same(scene.vendor.post(request)[2], "confirmation-needed")
        document = scene.vendor.document("activate", "-", "--confirm", stdin=request)
        server.install(document)
    trials = [each for each in _grant(document).licenses if each.type is LicenseType.TRIAL]
    if [each.expires_at for each in trials] != [first.licenses[0].expires_at]:
        raise GotThroughError(f"the trial ended {first.licenses[0].expires_at}, now there are {trials}")
    return scene.same(_ordered(scene, "trial", "17trial"), "trial-used")


@attack("a trial that nobody has yet, named in the request of a SmartServer that has had one")
def a_second_trial_is_not_activated(scene: Scene) -> str:
    puppet = Puppet(scene, "17second-trial")
    first, other = (scene.vendor.order(5, kind="trial") for _ in range(2))
    puppet.send(puppet.next(wanted=(Wanted(first),)))
    return scene.authority_refuses(
        puppet.sealed(puppet.next(wanted=(Wanted(other),))), "trial-used", "activate", "-", "-o",
        str(scene.directory / "trial.json"),
    )  # fmt: skip


@attack("a trial for the install code of another customer's SmartServer")
def a_trial_under_another_customer_is_refused(scene: Scene) -> str:
    Puppet(scene, "17mine")
    return scene.same(_ordered(scene, "trial", "17mine", customer_id=OTHER_CUSTOMER_ID), "customer-mismatch")


@attack("all devices of a license that another SmartServer has; 11 of 10 that are free")
def a_license_is_not_given_twice(scene: Scene) -> str:
    license_id = scene.vendor.order(10)
    one, two = Puppet(scene, "17first"), Puppet(scene, "17late")
    scene.authority_refuses(one.sealed(one.next(wanted=(Wanted(license_id, 11),))), "license-exhausted")
    one.send(one.next(wanted=(Wanted(license_id),)))
    return scene.authority_refuses(two.sealed(two.next(wanted=(Wanted(license_id),))), "license-exhausted")


@attack("what is reserved for another SmartServer, by id and by the customer's name")
def what_is_reserved_goes_to_nobody_else(scene: Scene) -> str:
    license_id = scene.vendor.order(10, "--install-code", "17absent")
    puppet = Puppet(scene, "17greedy")
    code = scene.authority_refuses(puppet.sealed(puppet.next(wanted=(Wanted(license_id),))), "license-exhausted")
    grant = puppet.send(puppet.next(customer_id=CUSTOMER_ID))
    if license_id in {each.id for each in grant.licenses}:
        raise GotThroughError("it has what was reserved for another one")
    return code


@attack("the license, and the id, of another customer in a request")
def a_license_of_another_customer_is_refused(scene: Scene) -> str:
    license_id = scene.vendor.order(10, customer_id=OTHER_CUSTOMER_ID)
    puppet = Puppet(scene, "17customer")
    scene.authority_refuses(puppet.sealed(puppet.next(wanted=(Wanted(license_id),))), "customer-mismatch")
    return scene.authority_refuses(puppet.sealed(puppet.next(customer_id=OTHER_CUSTOMER_ID)), "customer-mismatch")


@attack("the answer to an answered request, with a license more for the operator to add")
def an_answered_request_gets_nothing_more(scene: Scene) -> str:
    license_id, puppet = scene.vendor.order(10), Puppet(scene, "17more")
    before = scene.vendor.books()
    code = scene.vendor.process(
        "activate", "-", "--license", license_id, "-o", str(scene.directory / "more.json"), stdin=puppet.last_sent
    )
    if scene.vendor.books() != before:
        raise GotThroughError("the register has changed")
    return scene.same(code, "request-answered")


@attack("one upgrade license for 3.6, then for 4.0; again after the partition was wiped")
def an_upgrade_is_used_once_also_after_a_wipe(scene: Scene) -> str:
    scene.vendor.order(1, "--release", "4.0", "--install-code", "17up", kind="upgrade")
    with SmartServer(scene.vendor, "17up") as server:
        scene.activate(server)
        if not _may_install(server, "3.6"):
            raise GotThroughError("the upgrade license allows nothing at all")
        server.ctl("confirm-update", "3.6")
        code = _hindrance(server, "4.0")
        server.install(scene.vendor.document("activate", "-", stdin=server.request()))
        _wipe(server)
        document = scene.vendor.document("activate", "-", "--confirm", stdin=server.request())
        server.install(document)
        return scene.same(_hindrance(server, "4.0"), code)


@attack("1,001 emergency devices; 15 days; while 600 of 1,000 run; more often than the policy allows")
def emergencies_are_short_few_and_seldom(scene: Scene) -> str:
    Puppet(scene, "17alarm")
    scene.vendor.document("emergency", "17alarm", "--devices", "600", "--days", "14")
    before = scene.vendor.books()
    for devices, days in ((1_001, 1), (1, 15), (401, 1)):
        scene.same(_emergency(scene, devices, days), "emergency-refused")
    if scene.vendor.books() != before:
        raise GotThroughError("the register has changed")
    scene.vendor.document("emergency", "17alarm", "--devices", "1", "--days", "1")
    return scene.same(_emergency(scene, 1, 1), "emergency-refused")


@attack("a grant with an emergency that has ended and one that runs, together beyond the root's limit", is_control=True)
def an_emergency_that_has_ended_counts_no_more(scene: Scene) -> str:
    value = scene.value()
    ended, running = (
        replace(value.licenses[0], id=name, type=LicenseType.EMERGENCY, granted_total=600, returned_total=0,
                grace_days=0, expires_at=value.issued_at + seconds)
        for name, seconds in (("ended", -86_400), ("running", 86_400))
    )  # fmt: skip
    scene.accepted(scene.signed(replace(value, licenses=(*value.licenses, ended, running))))
    return scene.accepted(scene.grant())  # without what the vendor has not sold


def _emergency(scene: Scene, devices: int, days: int) -> str:
    out = str(scene.directory / "emergency.json")
    return scene.vendor.process("emergency", "17alarm", "--devices", str(devices), "--days", str(days), "-o", out)


def _may_install(server: SmartServer, version: str) -> bool:
    return server.ctl("check-update", version, "--kind", "feature", check=False).returncode == 0


def _hindrance(server: SmartServer, version: str) -> str:
    """The code with which a feature release may not be installed. Raises GotThroughError where it may."""
    verdict = json.loads(server.ctl("check-update", version, "--kind", "feature", "--json", check=False).stdout)
    if verdict["allowed"]:
        raise GotThroughError(f"{version} may be installed: {verdict['sentence']}")
    return str(verdict["code"])
