"""The contact chain: numbers used twice, gaps, copies of a SmartServer, restored images, replaced and foreign keys.

What this module does not do: copies that never make contact again: nobody can find those (docs/security.md).
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import replace
from typing import Any

from attacks.attack import GotThroughError, attack
from attacks.envelopes import changed, coded
from attacks.puppet import Puppet
from attacks.scene import Scene
from attacks.server import SmartServer
from attacks.vendor import OTHER_CUSTOMER_ID
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.contacts import Contact
from support.box import CUSTOMER_ID
from support.broker import Client


def fork_of(scene: Scene, install_code: str) -> dict[str, Any]:
    """The newest evidence that there are two copies. Raises GotThroughError where there is none."""
    out = scene.vendor.command("show", "forks", "--install-code", install_code, "--json", with_password=False)
    if not json.loads(out):
        raise GotThroughError(f"`show forks` has nothing about {install_code}")
    found: dict[str, Any] = json.loads(out)[-1]
    return found


def _forked(scene: Scene, puppet: Puppet, contact: Contact, number: int) -> str:
    """It is refused; what is known, who and when stands in the register, and nothing is served to that key any more."""
    document = puppet.sealed(contact)
    code = scene.authority_refuses(
        document, "contact-forked", "activate", "-", "-o", str(scene.directory / "forked.json"), leaves_evidence=True
    )
    fork = fork_of(scene, puppet.install_code)
    if (fork["number"], fork["key_id"]) != (number, puppet.key.public.key_id) or not fork["found_at"]:
        raise GotThroughError(f"the evidence is {fork}")
    return scene.same(scene.vendor.post(puppet.last_sent)[2], code)


@attack("the next honest contact, the same once more, and a late one", is_control=True)
def honest_contacts_are_answered(scene: Scene) -> str:
    puppet = Puppet(scene, "17honest")
    first = puppet.last_sent
    answer = scene.vendor.post(first)[1]
    late = puppet.next()
    later = puppet.next(number=3, chain=(*late.chain, open_contact(puppet.sealed(late))[1].sha256))
    puppet.send(later)
    for document in (puppet.sealed(late), puppet.sealed(later)):
        scene.same(scene.vendor.post(document)[2], "")
    if scene.vendor.post(first)[1] != answer:
        raise GotThroughError("the same request has another answer")
    return "accepted, the same bytes for the same request"


@attack("two different contacts of one number, signed with the stolen key")
def a_number_used_twice_is_found(scene: Scene) -> str:
    puppet = Puppet(scene, "17twice")
    puppet.send(puppet.next())
    return _forked(scene, puppet, replace(puppet.last, nonce=secrets.token_hex(16)), 2)


@attack("a contact of a higher number whose chain has another hash for the last one seen")
def a_chain_that_leaves_something_out_is_found(scene: Scene) -> str:
    puppet = Puppet(scene, "17chain")
    puppet.send(puppet.next())
    return _forked(scene, puppet, puppet.next(chain=("0" * 64,)), 2)


@attack("contact 50 whose chain begins behind the last one seen")
def a_gap_in_the_numbers_is_found(scene: Scene) -> str:
    puppet = Puppet(scene, "17gap")
    return _forked(scene, puppet, puppet.next(number=50), 50)


def _start_victim(scene: Scene, install_code: str) -> SmartServer:
    scene.vendor.order(20, "--install-code", install_code)
    server = scene.add(SmartServer(scene.vendor, install_code, is_on_site=install_code == "17site"))
    scene.activate(server)
    return server


@attack("the ledger copied to a second SmartServer; both bring a request by file")
def a_copied_smartserver_is_found_by_file(scene: Scene) -> str:
    server = _start_victim(scene, "17file")
    with SmartServer(scene.vendor, "17file", state=server.copy_of_disk()) as copy:
        scene.activate(server)
        code = scene.authority_refuses(
            copy.request(), "contact-forked", "activate", "-", "-o", str(scene.directory / "copy.json"),
            leaves_evidence=True,
        )  # fmt: skip
        fork = fork_of(scene, "17file")
        if fork["number"] != 2 or not fork["known_at"] <= fork["found_at"]:
            raise GotThroughError(f"the evidence is {fork}")
        scene.same(scene.vendor.post(server.request())[2], code)  # the original comes back only with a new key
    again = server.request(is_new_key=True)
    scene.same(scene.vendor.post(again)[2], "confirmation-needed")
    server.install(scene.vendor.document("activate", "-", "--confirm", stdin=again))
    if server.capacity() != 20:
        raise GotThroughError(f"the original has {server.capacity()} devices after its re-enrolment")
    return code


@attack("the same, both with license-courier")
def a_copied_smartserver_is_found_by_courier(scene: Scene) -> str:
    server = _start_victim(scene, "17courier")
    with SmartServer(scene.vendor, "17courier", state=server.copy_of_disk()) as copy:
        scene.same(scene.courier(server)[1], "")
        before = copy.shown().licenses
        status, code = scene.courier(copy)
        if copy.shown().licenses != before or status != 4:
            raise GotThroughError(f"the copy has other licenses than before; exit code {status}")
        fork_of(scene, "17courier")
        return scene.same(code, "contact-forked")


@attack("the ledger copied between a request and its answer: both have asked the same, both install the answer")
def a_copy_that_shares_an_answer_is_found_at_its_next_contact(scene: Scene) -> str:
    server = _start_victim(scene, "17between")
    answer = scene.vendor.document("activate", "-", stdin=server.request())
    with SmartServer(scene.vendor, "17between", state=server.copy_of_disk()) as copy:
        for each in (server, copy):
            each.install(answer)
        scene.same(scene.vendor.post(copy.request())[2], "")
        code = scene.authority_refuses(server.request(), "contact-forked", leaves_evidence=True)
        fork_of(scene, "17between")
        return scene.same(scene.vendor.post(copy.request())[2], code)


@attack("an image of before a return put back: the capacity is there again, until the next contact")
def a_restored_image_is_found_at_its_next_contact(scene: Scene) -> str:
    server = _start_victim(scene, "17image")
    image, license_id = server.copy_of_disk(), server.shown().licenses[0]["license_id"]
    proof = server.give_back(license_id, 15)
    scene.same(scene.vendor.post(proof)[2], "")
    server.put_back(image)
    code = scene.vendor.post(server.request())[2]
    fork_of(scene, "17image")
    scene.same(scene.vendor.process("regrant", "17image", "-o", str(scene.directory / "x.json")), code)
    again = server.request(is_new_key=True)
    server.install(scene.vendor.document("activate", "-", "--confirm", stdin=again))
    if server.capacity() != 5:
        raise GotThroughError(f"5 of 20 devices were left; after its re-enrolment it has {server.capacity()}")
    return scene.same(code, "contact-forked")


@attack("the ledger on another board, with another install code; with the same install code")
def a_ledger_on_another_board_admits_nothing(scene: Scene) -> str:
    server = _start_victim(scene, "17board")
    image = server.copy_of_disk()
    with SmartServer(scene.vendor, "17other", state=image, board="board-2") as thief:
        storage = thief.status()["storage"]
        scene.same(storage if isinstance(storage, str) else storage["state"], "foreign")
        scene.same(thief.refusal(lambda client: client.install(scene.newest)), "not-ready")
    with SmartServer(scene.vendor, "17board", state=image, board="board-2", is_on_site=True) as thief:
        scene.same(thief.status()["state"], "rebind-needed")
        with Client(thief.broker.port) as client:
            topic = "glp/0/17board/fb/dev/modbus/new"
            client.subscribe(f"{topic}/lic")
            client.publish(f"{topic}/sts", json.dumps({"state": "unlicensed"}), retain=True)
            client.wait_for(lambda message: message.json()["licensed"] is False, timeout_s=20)
    return "foreign; rebind-needed, licensed:false"


@attack("the customer of a genuine request exchanged on its way; its device key exchanged for another one")
def an_edited_request_is_refused(scene: Scene) -> str:
    puppet = Puppet(scene, "17way")
    request = puppet.sealed(puppet.next(customer_id=CUSTOMER_ID))
    for old, new in (
        (CUSTOMER_ID, OTHER_CUSTOMER_ID),
        (coded(puppet.key.public.raw), coded(SigningKey.generate().public.raw)),
    ):
        edited = coded(scene.payload_of(request).replace(old.encode(), new.encode()))
        forged = changed(request, lambda each, edited=edited: each.update(payload=edited))  # type: ignore[misc]
        scene.authority_refuses(forged, "signature-invalid", "activate", "-", "-o", str(scene.directory / "way.json"))
    return "signature-invalid"


@attack("a request for a known install code under a new device key, by file and over HTTPS")
def a_new_device_key_needs_the_operator(scene: Scene) -> str:
    puppet, key = Puppet(scene, "17key"), SigningKey.generate()
    forged = puppet.sealed(replace(puppet.next(), device_key=key.public.raw, number=1, chain=(), totals=()), key)
    return scene.authority_refuses(
        forged, "confirmation-needed", "activate", "-", "-o", str(scene.directory / "key.json")
    )


@attack("the old device key after a new one was confirmed")
def a_replaced_device_key_is_refused(scene: Scene) -> str:
    puppet, key = Puppet(scene, "17old"), SigningKey.generate()
    new = puppet.sealed(replace(puppet.next(), device_key=key.public.raw, number=1, chain=()), key)
    scene.vendor.document("activate", "-", "--confirm", stdin=new)
    return scene.authority_refuses(puppet.sealed(puppet.next()), "key-retired")


@attack("a SmartServer that was replaced (RMA), at its next contact")
def a_replaced_smartserver_is_refused(scene: Scene) -> str:
    puppet = Puppet(scene, "17dead")
    scene.vendor.command("rma", "--from", "17dead", "--to", "17born", "-o", str(scene.directory / "rma.json"))
    code = scene.authority_refuses(puppet.sealed(puppet.next()), "smartserver-retired")
    return scene.authority_refuses(puppet.sealed(puppet.returning(100)), code)


@attack("the device key under another install code, as after a change of the mainboard")
def another_install_code_needs_the_operator(scene: Scene) -> str:
    puppet = Puppet(scene, "17before")
    return scene.authority_refuses(puppet.sealed(puppet.next(install_code="17after")), "confirmation-needed")


@attack("a request of an install code that no license was ever meant for")
def an_unknown_smartserver_gets_nothing(scene: Scene) -> str:
    puppet, key = Puppet(scene, "17known"), SigningKey.generate()
    stranger = replace(puppet.last, number=1, chain=(), install_code="17nobody", device_key=key.public.raw, totals=())
    return scene.authority_refuses(puppet.sealed(stranger, key), "smartserver-unknown")


@attack("the register of before two contacts put in place of the register")
def an_old_register_is_noticed(scene: Scene) -> str:
    puppet = Puppet(scene, "17backup")
    backup = scene.directory / "backup.db"
    shutil.copy(scene.vendor.directory / "authority.db", backup)
    puppet.send(puppet.next())
    code = scene.vendor.process(
        "activate", "-", "--database", f"sqlite:///{backup}", "-o", str(scene.directory / "x.json"),
        stdin=puppet.sealed(puppet.next()),
    )  # fmt: skip
    return scene.same(code, "register-behind")
