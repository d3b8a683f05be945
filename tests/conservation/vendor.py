"""The authority of a test: the real one, on a register in a file, whose power goes before or after a commit.

Rules: the register's file is laid anew for each sequence; a power cut loses the transaction under way, or only its
answer; the register is opened anew afterwards.

What this module does not do: it does not know what is right (`lines`, `field`).
"""

from __future__ import annotations

import contextlib
import enum
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import event
from sqlalchemy.orm import Session

from license_authority.authority import Authority
from license_authority.issuing import Policy
from license_authority.orders import Purchase
from license_authority.register import Register, register_url
from smartserver_licensed.domain.licenses import LicenseType
from support.documents import NOW
from support.vendor import make_keys

from .smartserver import PowerCutError

CUSTOMERS = {
    "17qplant": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a01",
    "17qhotel": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a02",
}
FIRST_DEVICES = 100  # that each of them has bought before anything happens

_BALANCE = """
SELECT l.id, l.customer_id, l.sold, COALESCE(SUM(a.granted_total - a.returned_total - a.written_off_total), 0),
COALESCE(SUM(a.consumed_total), 0) FROM licenses l LEFT JOIN allocations a ON a.license_id = l.id GROUP BY l.id
ORDER BY l.made_at
"""

_T = TypeVar("_T")


class Cut(enum.Enum):
    """What a power cut takes."""

    NONE = "none"
    TRANSACTION = "transaction"
    ANSWER = "answer"


class Vendor:
    """An authority whose register can be laid anew, and whose power can be cut."""

    def __init__(self, directory: Path) -> None:
        """In an empty directory; one on a tmpfs is the fastest."""
        self.keys = make_keys(allow_unactivated=False)
        url = register_url(directory)
        Register.create(url).close()
        self._register = Register.open(url)
        self.authority = Authority(self._register, self.keys, Policy(emergencies_per_year=3))
        for name, customer_id in CUSTOMERS.items():
            self.authority.add_customer(name, now=NOW, customer_id=customer_id)
            self.authority.order(Purchase(customer_id, LicenseType.CAPACITY, FIRST_DEVICES), now=NOW)
        self._register.close()
        (self._file,) = directory.iterdir()
        self._first = self._file.with_suffix(".first")
        shutil.copyfile(self._file, self._first)
        self.cuts = 0
        self._cut = Cut.NONE
        event.listen(Session, "before_commit", self._before)
        event.listen(Session, "after_commit", self._after)

    def begin(self) -> None:
        """Forget all that has happened."""
        self._register.close()
        shutil.copyfile(self._first, self._file)

    def image(self) -> bytes:
        """A copy of the register."""
        self._register.close()
        return self._file.read_bytes()

    def put_back(self, image: bytes) -> None:
        """An old copy of the register is put back."""
        self._register.close()
        self._file.write_bytes(image)

    def close(self) -> None:
        """Give everything back."""
        event.remove(Session, "before_commit", self._before)
        event.remove(Session, "after_commit", self._after)
        self._register.close()

    def balance(self) -> list[tuple[str, str, int, int, int]]:
        """License, customer, sold, out (granted and not taken back), of them used up: as the register's file says.

        Past the authority's own program: ten times as fast, and somebody else's sum.
        """
        with contextlib.closing(sqlite3.connect(self._file)) as connection:
            return connection.execute(_BALANCE).fetchall()

    def do(self, work: Callable[[Authority], _T], cut: Cut) -> _T | None:
        """Let the authority work; None where its power went. Raises LicensedError."""
        self._cut = cut
        try:
            return work(self.authority)
        except PowerCutError:
            self.cuts += 1
            self._register.close()
            return None
        finally:
            self._cut = Cut.NONE

    def _before(self, _: Session) -> None:
        if self._cut is Cut.TRANSACTION:
            raise PowerCutError

    def _after(self, _: Session) -> None:
        if self._cut is Cut.ANSWER:
            raise PowerCutError
