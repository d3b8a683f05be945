"""Returns: replayed, edited, for more than there is, without the return, taken back.

What this module does not do: copies of a whole SmartServer are in `contacts`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from attacks.attack import GotThroughError, attack
from attacks.contacts import fork_of
from attacks.envelopes import changed, coded
from attacks.puppet import Puppet
from attacks.scene import Scene
from attacks.server import SmartServer
from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, encode_contact, open_contact
from smartserver_licensed.domain.contacts import ContactKind


def _balance(scene: Scene, license_id: str) -> dict[str, Any]:
    row: dict[str, Any] = next(each for each in scene.vendor.show("balance") if each["license_id"] == license_id)
    return row


@attack("10 of 1,000 devices, by file", is_control=True)
def a_return_is_credited(scene: Scene) -> str:
    before, capacity = _balance(scene, scene.license_id), scene.server.capacity()
    proof = scene.server.give_back(scene.license_id, 10)
    scene.same(scene.vendor.process("return", "-", stdin=proof, with_password=False), "")
    after = _balance(scene, scene.license_id)
    if (after["at_authority"] - before["at_authority"], capacity - scene.server.capacity()) != (10, 10):
        raise GotThroughError(f"{before} became {after}")
    return "10 devices credited"


@attack("the proof a second time by file, twice over HTTPS, exported again")
def a_replayed_return_credits_nothing(scene: Scene) -> str:
    proof = scene.server.give_back(scene.license_id, 10)
    scene.vendor.command("return", _file(scene, proof), with_password=False)
    before = scene.vendor.show("balance")
    again = json.loads(scene.vendor.command("return", _file(scene, proof), "--json", with_password=False))
    for _ in range(2):
        scene.vendor.post(proof)
    number = open_contact(proof)[0].number
    if scene.server.ask(lambda client: client.get_return(number)) != proof:
        raise GotThroughError("the proof is another one when it is exported again")
    if again["devices_credited"] or not again["is_known"] or scene.vendor.show("balance") != before:
        raise GotThroughError(f"credited again: {again}")
    return "known, 0 credited"


@attack("10 devices made 90 in a genuine proof; 90 in its totals too")
def an_edited_return_is_refused(scene: Scene) -> str:
    puppet = Puppet(scene, "17edit")
    proof = puppet.sealed(puppet.returning(10))
    payload = scene.payload_of(proof)
    for edited in (payload.replace(b'"devices":10}', b'"devices":90}'), payload.replace(b":10,", b":90,")):
        assert edited != payload
        forged = changed(proof, lambda each, edited=edited: each.update(payload=coded(edited)))  # type: ignore[misc]
        scene.authority_refuses(forged, "signature-invalid", "return", "-")
    return "signature-invalid"


@attack("5,000 of 1,000 devices, at the daemon")
def a_return_of_more_than_there_is_is_not_made(scene: Scene) -> str:
    before = scene.server.shown()
    call = scene.server.refusal(
        lambda client: client.create_return(
            scene.license_id, 5_000, over_capacity=True, revoke_excess=False, another=True
        )
    )
    in_ctl = scene.server.code_of_ctl(
        "return", scene.license_id, "--devices", "5000", "--over-capacity", "-o", str(scene.directory / "much.json")
    )
    if scene.server.shown() != before:
        raise GotThroughError("something has changed")
    return scene.same(in_ctl, scene.same(call, "not-returnable"))


@attack("101 of 100 devices, signed with the stolen device key")
def a_return_of_more_than_was_granted_is_refused(scene: Scene) -> str:
    puppet = Puppet(scene, "17much")
    totals = tuple(replace(each, granted_total=101, returned_total=101) for each in puppet.last.totals)
    return scene.authority_refuses(puppet.sealed(puppet.returning(101, totals=totals)), "over-returned", "return", "-")


@attack("the license of another SmartServer, signed with the own device key")
def a_return_of_what_another_one_has_is_refused(scene: Scene) -> str:
    puppet = Puppet(scene, "17else")
    totals = (replace(puppet.last.totals[0], id=scene.license_id, returned_total=50), *puppet.last.totals)
    forged = puppet.returning(50, license_id=scene.license_id, totals=totals)
    return scene.authority_refuses(puppet.sealed(forged), "over-returned", "return", "-")


@attack("a genuine return, signed by a key that nobody has enrolled")
def a_return_of_a_stranger_is_refused(scene: Scene) -> str:
    puppet, key = Puppet(scene, "17strange"), SigningKey.generate()
    forged = replace(puppet.returning(10), device_key=key.public.raw, number=1, chain=())
    return scene.authority_refuses(puppet.sealed(forged, key), "confirmation-needed", "return", "-")


@attack("a proof signed with the device key that root reads from the disk, the ledger left alone")
def a_proof_without_the_return_is_seen(scene: Scene) -> str:
    scene.vendor.order(50, "--install-code", "17thief")
    with SmartServer(scene.vendor, "17thief") as server:
        scene.activate(server)
        stolen = server.steal()
        contact, _ = open_contact(server.request())  # what an honest one would say next
        license_id = contact.totals[0].id
        forged = seal(
            CONTACT_TYPES[ContactKind.RETURN],
            encode_contact(
                replace(
                    contact, kind=ContactKind.RETURN, license_id=license_id, devices=50, nonce="0" * 32,
                    totals=(replace(contact.totals[0], returned_total=50),),
                )
            ),
            [SigningKey(stolen.device_seed)],
        )  # fmt: skip
        scene.same(scene.vendor.post(forged)[2], "")
        code = scene.vendor.post(server.request(is_fresh=False))[2]
        scene.same(code, "contact-forked")
        scene.same(fork_of(scene, "17thief")["known_sha256"], open_contact(forged)[1].sha256)
        return scene.same(scene.vendor.process("regrant", "17thief", "-o", str(scene.directory / "x.json")), code)


@attack("the grant of before a return, installed again")
def a_grant_of_before_a_return_brings_nothing_back(scene: Scene) -> str:
    before = scene.grant()
    scene.accepted(before)
    scene.server.give_back(scene.license_id, 10)
    return scene.daemon_refuses(before, "grant-stale")


@attack("a new grant that says that nothing was returned, signed by the vendor from an old register")
def a_return_is_never_undone(scene: Scene) -> str:
    scene.accepted(scene.grant())
    scene.server.give_back(scene.license_id, 10)
    capacity = scene.server.capacity()
    licenses = tuple(replace(each, returned_total=0) for each in scene.value().licenses)
    scene.accepted(scene.signed(replace(scene.value(), licenses=licenses)))
    if scene.server.capacity() != capacity:
        raise GotThroughError(f"the capacity was {capacity}, now it is {scene.server.capacity()}")
    return "accepted, the larger total holds"


@attack("what came back, reserved for a second SmartServer, then for a third")
def what_came_back_is_given_once(scene: Scene) -> str:
    proof = scene.server.give_back(scene.license_id, 10)
    scene.vendor.command("transfer", _file(scene, proof), "--to", "17second", with_password=False)
    before = scene.vendor.show("balance")
    code = scene.vendor.process("transfer", "-", "--to", "17third", stdin=proof, with_password=False)
    if scene.vendor.show("balance") != before:
        raise GotThroughError("the balance has changed")
    return scene.same(code, "return-reserved")


@attack("a request that says that less was returned than before, signed with the stolen key")
def totals_that_fall_are_seen(scene: Scene) -> str:
    puppet = Puppet(scene, "17fall")
    puppet.send(puppet.returning(40))
    totals = tuple(replace(each, returned_total=0) for each in puppet.last.totals)
    code = scene.authority_refuses(
        puppet.sealed(puppet.next(totals=totals)), "totals-fallen", "activate", "-", "-o",
        str(scene.directory / "fallen.json"), leaves_evidence=True,
    )  # fmt: skip
    return scene.same(fork_of(scene, "17fall")["code"], code)


def _file(scene: Scene, document: bytes) -> str:
    path = scene.directory / "document.json"
    path.write_bytes(document)
    return str(path)
