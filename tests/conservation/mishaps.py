"""What goes wrong, or what somebody does who means no good: copies, losses, other hardware.

Rules: as in `acts`.

What this module does not do: it judges nothing (`field`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.errors import LicensedError

from .chance import Choice, authority_cut, happens, one
from .field import Field
from .smartserver import board
from .things import Snapshot
from .vendor import Cut

_MOST_BODIES = 8


def is_copied(field: Field, choice: Choice) -> None:
    """Somebody copies a card."""
    body = one(choice, field.bodies)
    field.tell(f"the card of {body.name} is copied (image {len(field.images)})")
    field.images.append(Snapshot(body.server.image(), body.person, body.server.identity, body.owner))


def is_put_back(field: Field, choice: Choice) -> None:
    """An old image is put back where it came from."""
    places = [
        (body, number)
        for number, image in enumerate(field.images)
        for body in field.bodies
        if body.server.identity == image.identity
    ]
    if not places:
        return
    body, number = one(choice, places)
    field.tell(f"image {number} is put back into {body.name}")
    field.counts["restored"] += 1
    body.server.put_back(field.images[number].image)
    body.person = field.images[number].person
    field.follow(body)


def is_cloned(field: Field, choice: Choice) -> None:
    """A second SmartServer comes up from an image, on a board that calls itself the same, or on the same hardware."""
    if not field.images or len(field.bodies) >= _MOST_BODIES:
        return
    number = choice.below(len(field.images))
    image = field.images[number]
    identity = image.identity
    if happens(choice, 50):
        identity = Identity(identity.install_code, board(99))
    body = field.add_body(identity.install_code, image.owner, image, identity)
    field.tell(f"a clone comes up from image {number}: {body.name if body else 'it does not serve'}")
    field.counts["cloned" if body else "foreign"] += 1


def is_wiped(field: Field, choice: Choice) -> None:
    """A partition is lost."""
    body = one(choice, field.bodies)
    field.tell(f"{body.name} loses its partition")
    field.counts["wiped"] += 1
    field.wipe(body)


def gets_a_board(field: Field, choice: Choice) -> None:
    """The mainboard is exchanged: another install code, another MAC."""
    body = one(choice, field.bodies)
    field.boards += 1
    factors = replace(body.server.state.factors, mac=board(field.boards).mac)
    identity = Identity(f"17qboard{field.boards}", factors)
    field.tell(f"{body.name} gets another board: {identity.install_code}")
    field.counts["boards"] += 1
    body.server.exchange_board(identity)
    field.follow(body)


def is_replaced(field: Field, choice: Choice) -> None:
    """RMA: everything of a SmartServer is moved to another one of the same customer."""
    known = [each for each in field.bodies if each.install_code in field.lines.servers]
    body = one(choice, known)
    if body is None:
        return
    code = body.install_code
    to = one(choice, [each.install_code for each in field.bodies if each.owner == body.owner])
    cut = authority_cut(choice)
    field.tell(f"RMA of {code} to {to}, cut: {cut.value}")
    with contextlib.suppress(LicensedError):
        result = field.do(lambda authority: authority.rma(code, to, now=field.now), cut)
        if cut is not Cut.TRANSACTION:
            field.counts["replaced"] += 1
            field.lines.introduce(to)
            field.lines.retire(code)
        grant = getattr(result, "grant", None)
        if grant is not None:
            field.grants.append(grant)
