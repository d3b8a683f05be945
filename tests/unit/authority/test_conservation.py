"""Whatever comes in whatever order, lost, doubled, late, forged or from a copy: nothing is sold twice."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from license_authority.errors import (
    AuthorityError,
    ConfirmationNeededError,
    ForkFoundError,
    KeyRetiredError,
    LicenseExhaustedError,
    SmartServerRetiredError,
    SmartServerUnknownError,
)
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.domain.contacts import Contact, LicenseTotals, Wanted
from smartserver_licensed.domain.errors import DocumentError
from support.devices import Device
from support.documents import CUSTOMER_ID, NOW
from support.vendor import Vendor

EXAMPLES = int(os.environ.get("CONSERVATION_EXAMPLES", "10"))

_FAST = next((each for each in ("/dev/shm",) if Path(each).is_dir()), None)  # what a disk forgets is not the subject


@dataclass(eq=False)
class Box:
    """A SmartServer and the copies of its disk. `heard`: the copy that the authority has heard since they differ."""

    install_code: str
    copies: list[Device]
    heard: int | None = None
    is_dead: bool = False

    def usable(self, license_id: str) -> int:
        """What counts as the field: a copy that is not heard is refused at its first contact (`_deliver`)."""
        heard = self.copies if self.heard is None else [self.copies[self.heard]]
        return 0 if self.is_dead else max(each.usable(license_id) for each in heard)


@dataclass(frozen=True, eq=False)
class Letter:
    """A document on its way. `copy`: which copy made it, None where there was only one, so that it is everybody's."""

    box: Box
    key: SigningKey
    document: bytes
    copy: int | None
    is_forged: bool = False
    answers: list[bytes] = field(default_factory=list)


class Conservation(RuleBasedStateMachine):
    boxes = Bundle("boxes")
    licenses = Bundle("licenses")
    letters = Bundle("letters")

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(dir=_FAST)
        self.vendor = Vendor(Path(self._directory.name))
        self.sold: dict[str, int] = {}
        self.all: list[Box] = []

    def teardown(self) -> None:
        self.vendor.close()
        self._directory.cleanup()

    @rule(target=licenses, devices=st.integers(1, 40))
    def sell(self, devices: int) -> str:
        license_id = self.vendor.sell(devices)
        self.sold[license_id] = devices
        return license_id

    @precondition(lambda self: len(self.all) < 3)
    @rule(target=boxes)
    def unpack(self) -> Box:
        code = f"17box{len(self.all)}"
        self.all.append(Box(code, [Device(install_code=code, key=SigningKey.generate())]))
        return self.all[-1]

    @rule(box=boxes)
    def copy_disk(self, box: Box) -> None:
        self._copy_disk(box)

    @rule(target=letters, box=boxes, license_id=licenses, devices=st.integers(0, 20), data=st.data())
    def ask(self, box: Box, license_id: str, devices: int, data: st.DataObject) -> Letter:
        copy = self._copy(box, data)
        return self._letter(box, copy, box.copies[copy].request(Wanted(license_id, devices)))

    @rule(target=letters, box=boxes, data=st.data())
    def ask_for_all(self, box: Box, data: st.DataObject) -> Letter:
        copy = self._copy(box, data)
        return self._letter(box, copy, box.copies[copy].request(customer_id=CUSTOMER_ID))

    @rule(target=letters, box=boxes, data=st.data())
    def give_back(self, box: Box, data: st.DataObject) -> Letter:
        copy = self._copy(box, data)
        device = box.copies[copy]
        has = {each: device.usable(each) for each in self.sold if device.usable(each)}
        if not has:
            return self._letter(box, copy, device.request(customer_id=CUSTOMER_ID))
        license_id = data.draw(st.sampled_from(list(has)))
        return self._letter(box, copy, device.give_back(license_id, data.draw(st.integers(1, has[license_id]))))

    @rule(target=letters, box=boxes, license_id=licenses)
    def forge(self, box: Box, license_id: str) -> Letter:
        """A copy signs that more came back than it ever got."""
        self._copy_disk(box)

        def lie(contact: Contact) -> Contact:
            others = tuple(each for each in contact.totals if each.id != license_id)
            return replace(contact, totals=(*others, LicenseTotals(license_id, 1_000, 500, 0)))

        device = box.copies[1].copy()
        return Letter(box, device.key, device.give_back(license_id, 500, edit=lie), 1, is_forged=True)

    @rule(target=letters, box=boxes, data=st.data())
    def exchange(self, box: Box, data: st.DataObject) -> Letter:
        """As it should be: asked, answered, installed."""
        copy = self._copy(box, data)
        letter = self._letter(box, copy, box.copies[copy].request(customer_id=CUSTOMER_ID))
        self._deliver(letter)
        self._install(letter, copy)
        return letter

    @rule(letter=letters)
    def deliver(self, letter: Letter) -> None:
        """As late, and as often, as somebody likes."""
        self._deliver(letter)

    @rule(letter=letters, data=st.data())
    def install(self, letter: Letter, data: st.DataObject) -> None:
        """An answer arrives, maybe long after a newer one, or on another copy than the one that asked."""
        self._install(letter, self._copy(letter.box, data))

    @rule(box=boxes)
    def wipe(self, box: Box) -> None:
        """The storage is lost, or both copies are refused: a new key, which the operator confirms."""
        device = Device(install_code=box.install_code, key=SigningKey.generate())
        request = device.request(customer_id=CUSTOMER_ID)
        device.install(self.vendor.authority.activate(request, now=NOW, confirm=True), self.vendor.keys.trust)
        box.copies, box.heard, box.is_dead = [device], None, False

    @rule(dead=boxes, new=boxes)
    def replace_hardware(self, dead: Box, new: Box) -> None:
        if dead is not new:
            with suppress(AuthorityError):
                result = self.vendor.authority.rma(dead.install_code, new.install_code, now=NOW)
                dead.is_dead = True
                if result.grant is not None and len(new.copies) == 1:
                    new.copies[0].install(result.grant, self.vendor.keys.trust)

    @invariant()
    def nothing_is_sold_twice(self) -> None:
        for each in self.vendor.check():
            field = sum(box.usable(each.license_id) for box in self.all)
            assert field + each.at_authority <= each.sold == self.sold[each.license_id]

    def _deliver(self, letter: Letter) -> None:
        box = letter.box
        try:
            answer = self.vendor.authority.contact(letter.document, now=NOW).document
        except (LicenseExhaustedError, SmartServerUnknownError):
            return
        except SmartServerRetiredError:
            assert box.is_dead or letter.key != box.copies[0].key
        except ConfirmationNeededError:  # also of one that was replaced before its first contact
            assert box.is_dead or letter.key != box.copies[0].key
        except KeyRetiredError:
            assert letter.key != box.copies[0].key
        except ForkFoundError:
            assert len(box.copies) == 2
        except AuthorityError:
            assert letter.is_forged
        else:
            assert not letter.is_forged
            assert letter.answers in ([], [answer])
            if not letter.answers and letter.copy is not None:
                assert box.heard in {None, letter.copy}
                box.heard = letter.copy
            letter.answers[:] = [answer]

    def _install(self, letter: Letter, copy: int) -> None:
        for answer in letter.answers:
            with suppress(DocumentError):
                letter.box.copies[copy].install(answer, self.vendor.keys.trust)

    @staticmethod
    def _copy_disk(box: Box) -> None:
        if len(box.copies) == 1:
            box.copies.append(box.copies[0].copy())

    @staticmethod
    def _copy(box: Box, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(box.copies) - 1))

    @staticmethod
    def _letter(box: Box, copy: int, document: bytes) -> Letter:
        return Letter(box, box.copies[copy].key, document, copy if len(box.copies) == 2 else None)


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
