"""What administrators and the vendor's operators do, one rule each, and what the power does to it.

Rules: a rule changes the field by one act, or does nothing where there is nothing to act on; all that it needs chance
for it asks of a `Choice`.

What this module does not do: it judges nothing (`field`), and breaks nothing (`mishaps`).
"""

from __future__ import annotations

import contextlib

from license_authority.orders import Purchase
from smartserver_licensed.controller.contacting import Asked, Return
from smartserver_licensed.domain.contacts import ContactKind, Wanted
from smartserver_licensed.domain.errors import LicensedError
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from smartserver_licensed.domain.updates import Version

from .chance import Choice, authority_cut, disk_cut, happens, one
from .field import Field
from .smartserver import BrokenError
from .vendor import CUSTOMERS, Cut

_KINDS = (
    *[LicenseType.CAPACITY] * 3,
    *[LicenseType.UPGRADE] * 2,
    LicenseType.MAINTENANCE,
    LicenseType.TRIAL,
)


def buys(field: Field, choice: Choice) -> None:
    """A customer orders a license; sometimes for one of its SmartServers."""
    field.clocks.now_s += 1
    owner = one(choice, list(CUSTOMERS.values()))
    mine = [each.install_code for each in field.bodies if each.owner == owner]
    kind = one(choice, _KINDS)
    years, release = (3 if kind is LicenseType.MAINTENANCE else 0), ("9.9" if kind is LicenseType.UPGRADE else "")
    devices = 1 if kind is LicenseType.UPGRADE else 10 * (1 + choice.below(10))
    code = one(choice, mine) if happens(choice, 30) else ""
    purchase = Purchase(owner, kind, devices, years=years, release=release, install_code=code)
    field.tell(f"an order of {devices} {kind.value} for {code or 'whoever asks'}")
    with contextlib.suppress(LicensedError):
        field.do(lambda authority: authority.order(purchase, now=field.now), authority_cut(choice))
        if code:
            field.note_introduced(code)


def asks(field: Field, choice: Choice) -> None:
    """A SmartServer makes a request, the last one again or a new one."""
    body = one(choice, field.bodies)
    is_known = body.install_code in field.lines.servers
    offered = [each for each, owner in field.owners.items() if field.at_authority[each] and owner == body.owner]
    wanted = [each for each in offered if happens(choice, 30)][:2] if is_known else []
    asked = Asked(
        customer_id=body.owner if happens(choice, 30 if is_known else 90) else "",
        wanted=tuple(Wanted(each, choice.below(3) * 5) for each in wanted),
        is_new_key=happens(choice, 8),
        is_fresh=happens(choice, 50),
    )
    cut_at = disk_cut(choice)
    field.tell(f"{body.name} makes a request{', with a new key' * asked.is_new_key}, cut at {cut_at}")
    field.request(body, asked, cut_at)


def is_served(field: Field, choice: Choice) -> None:
    """A whole activation in one go, without trouble: as it is on most days."""
    body = one(choice, field.bodies)
    offered = [each for each, owner in field.owners.items() if field.at_authority[each] and owner == body.owner]
    license_id = one(choice, offered)
    wanted = (Wanted(license_id, 1 + choice.below(field.at_authority[license_id])),) if license_id else ()
    field.tell(f"{body.name} is served{f' {wanted[0].devices} of {license_id}' if wanted else ''}")
    paper = field.request(body, Asked(body.owner * (not wanted), wanted, is_fresh=True))
    assert paper is not None
    code = field.deliver(paper)
    field.tell(f"  → {code or 'heard'}")
    if not code:
        with contextlib.suppress(LicensedError):
            body.server.install(field.answers[paper.data])
        field.follow(body)


def gets_a_new_key(field: Field, choice: Choice) -> None:
    """A re-enrolment in one go: a new device key, the operator's word for it, the grant; as after a fork."""
    body = one(choice, field.bodies)
    paper = field.request(body, Asked(body.owner * happens(choice, 50), is_new_key=True))
    if paper is None:
        return
    code = field.deliver(paper, is_confirmed=True, cut=authority_cut(choice))
    field.tell(f"{body.name} gets a new key → {code or 'confirmed'}")
    if paper.data in field.answers:
        with contextlib.suppress(LicensedError):
            body.server.install(field.answers[paper.data], cut_at=disk_cut(choice))
        field.follow(body)


def returns(field: Field, choice: Choice) -> None:
    """A SmartServer returns a license, whole or in part."""
    body = one(choice, [each for each in field.bodies if each.server.returnable()])
    if body is None:
        return
    left = body.server.returnable()
    license_id = one(choice, sorted(left, key=list(left).index))
    devices = left[license_id] if happens(choice, 30) else 1 + choice.below(left[license_id])
    wanted = Return(license_id, devices, may_exceed=True, is_another=True)
    cut_at = disk_cut(choice)
    field.tell(f"{body.name} returns {devices} of {license_id}, cut at {cut_at}")
    before = body.server.usable()[license_id]
    data = body.server.make_return(wanted, cut_at=cut_at)
    field.follow(body)
    left_now = body.server.usable().get(license_id, 0)
    field.counts["returned"] += left_now != before
    if left_now not in {before - devices, *([before] if data is None else [])}:
        raise BrokenError(f"{body.name} returned {devices} of {before} and has {left_now} left")
    if data is not None:
        field.keep(body, data)


def exports_again(field: Field, choice: Choice) -> None:
    """A return is exported once more, perhaps one whose first export the power took."""
    body = one(choice, [each for each in field.bodies if each.server.state.returns])
    if body is None:
        return
    number = one(choice, list(body.server.state.returns))
    field.tell(f"{body.name} exports return {number} again")
    field.keep(body, body.server.proof(number))


def is_delivered(field: Field, choice: Choice) -> None:
    """Some paper reaches the authority: the newest, an old one, or one that was there before."""
    if not field.papers:
        return
    paper = field.papers[-1] if happens(choice, 60) else one(choice, field.papers)
    is_request = paper.kind is ContactKind.REQUEST
    is_confirmed = is_request and happens(choice, 30)
    to = ""
    if not is_request and happens(choice, 20):
        to = one(choice, [each.install_code for each in field.bodies if each.owner == paper.owner])
    cut = authority_cut(choice)
    field.tell(
        f"{paper.kind.value} {paper.number} of {paper.install_code} ({paper.maker.key_id[:6]}) reaches the authority"
        f"{', confirmed' * is_confirmed}{f', to be transferred to {to}' if to else ''}, cut: {cut.value}"
    )
    code = field.deliver(paper, by_hand=happens(choice, 50), is_confirmed=is_confirmed, to=to, cut=cut)
    field.tell(f"  → {code or 'heard'}")
    if to:
        field.note_introduced(to)


def installs(field: Field, choice: Choice) -> None:
    """Somebody installs a grant, the newest or any that ever left, where it belongs or elsewhere."""
    if not field.grants:
        return
    grant = field.grants[-1] if happens(choice, 70) else one(choice, field.grants)
    cut_at = disk_cut(choice)
    bodies = field.bodies if happens(choice, 80) else [one(choice, field.bodies)]
    for body in bodies:
        with contextlib.suppress(LicensedError):
            body.server.install(grant, cut_at=cut_at)
            field.tell(f"{body.name} takes grant {body.server.seq}, cut at {cut_at}")
        field.follow(body)


def has_an_emergency(field: Field, choice: Choice) -> None:
    """Emergency capacity, a new grant of what is there, or the last one once more."""
    code = one(choice, list(field.lines.servers))
    if code is None:
        return
    field.clocks.now_s += 1
    act = choice.below(3)
    cut = authority_cut(choice)
    field.tell(f"{('emergency capacity', 'a new grant', 'the last grant')[act]} for {code}, cut: {cut.value}")
    with contextlib.suppress(LicensedError):
        if act == 0:
            grant = field.do(lambda authority: authority.emergency(code, 5, 3, now=field.now), cut)
        elif act == 1:
            grant = field.do(lambda authority: authority.regrant(code, now=field.now), cut)
        else:
            grant = field.do(lambda authority: authority.last_grant(code), Cut.NONE)
        if isinstance(grant, bytes):
            field.grants.append(grant)


def is_updated(field: Field, choice: Choice) -> None:
    """A feature release was installed: it may use an upgrade license up."""
    body = one(choice, field.bodies)
    version = Version(1 + choice.below(9), choice.below(9))
    cut_at = disk_cut(choice)
    field.tell(f"{body.name} confirms {version}, cut at {cut_at}")
    body.server.confirm_update(version, cut_at=cut_at)
    field.follow(body)


def time_passes(field: Field, choice: Choice) -> None:
    """Days, or a restart."""
    if happens(choice, 50):
        field.clocks.now_s += DAY_S * (1 + choice.below(20))
    else:
        body = one(choice, field.bodies)
        body.server.restart()
        field.follow(body)
