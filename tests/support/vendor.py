"""A vendor's authority for tests: a real register in a directory, and the keys of `support.documents`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from license_authority.authority import Authority
from license_authority.issuing import Policy
from license_authority.orders import Purchase
from license_authority.register import Register, register_url
from license_authority.stock import Balance
from smartserver_licensed.documents.envelope import Signer
from smartserver_licensed.documents.trust import Trust, load_trust, seal_root
from smartserver_licensed.domain.licenses import LicenseType

from .documents import CUSTOMER_ID, GRANT_KEY, NOW, ROOT_KEY, make_root


@dataclass(frozen=True, slots=True)
class PlainKeys:
    """Keys in memory."""

    trust: Trust
    grant_signers: Sequence[Signer] = (GRANT_KEY,)


def make_keys(*, versions: int = 1, allow_unactivated: bool = True) -> PlainKeys:
    """Keys under a chain of so many roots."""
    roots = [
        seal_root(make_root(version=version, allow_unactivated=allow_unactivated), [ROOT_KEY])
        for version in range(1, versions + 1)
    ]
    return PlainKeys(load_trust(roots[0]).extended(roots))


class Vendor:
    """A vendor with one customer, who is there from the beginning."""

    def __init__(self, directory: Path, keys: PlainKeys | None = None, policy: Policy | None = None) -> None:
        self.directory = directory
        self.keys = keys or make_keys()
        self.register = Register.create(register_url(directory))
        self.authority = Authority(self.register, self.keys, policy or Policy())
        self.customer = self.authority.add_customer("ACME", now=NOW, customer_id=CUSTOMER_ID)

    def sell(
        self, devices: int = 1_000, type_: LicenseType = LicenseType.CAPACITY, *, install_code: str = "", now: int = NOW
    ) -> str:
        """A license for the customer; maintenance for a year, an upgrade to 4.0."""
        years = 1 if type_ is LicenseType.MAINTENANCE else 0
        release = "4.0" if type_ is LicenseType.UPGRADE else ""
        host = "cms.example" if type_ is LicenseType.REMOTE_CMS else ""
        purchase = Purchase(
            self.customer, type_, devices, years=years, release=release, host=host, install_code=install_code
        )
        return self.authority.order(purchase, now=now)

    def at_authority(self, license_id: str) -> int:
        """What of a license is not in the field."""
        return {each.license_id: each.at_authority for each in self.check()}[license_id]

    def check(self) -> tuple[Balance, ...]:
        """The balance, once it is certain that nothing was sold twice."""
        balance = self.authority.balance()
        for each, row in zip(balance, self.authority.licenses(), strict=True):
            assert each.at_authority + each.in_field + each.consumed == each.sold
            assert min(each.at_authority, each.in_field, each.consumed) >= 0
            assert row.reserved <= each.at_authority
            assert sum(devices for _, devices in row.where) == each.in_field
        return balance

    def close(self) -> None:
        """The end: once more nothing was sold twice."""
        self.check()
        self.register.close()
