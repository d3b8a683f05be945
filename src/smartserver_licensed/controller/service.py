"""What the D-Bus interface asks of the daemon, in the shapes in which it is answered (docs/dbus.md).

Rules (OVERVIEW): a status query never waits for disk, broker or network; what callers give is checked before anything
else happens.

What this module does not do: it checks no caller (`adapters.dbus`), and decides nothing about documents (`licensing`).
"""

from __future__ import annotations

from collections.abc import Sequence

from smartserver_licensed.documents.acceptance import inspect_document
from smartserver_licensed.documents.armor import unwrap
from smartserver_licensed.domain import messages
from smartserver_licensed.domain.binding import Binding
from smartserver_licensed.domain.contacts import Wanted
from smartserver_licensed.domain.entitlement import capacity
from smartserver_licensed.domain.errors import ArgumentError, NotReadyError, WriteFailedError
from smartserver_licensed.domain.ledger_state import NoticeDaysSet
from smartserver_licensed.domain.licenses import MAX_DEVICES, LicenseType, check_name, describe, license_status
from smartserver_licensed.domain.notices import check_days
from smartserver_licensed.domain.planning import plan
from smartserver_licensed.domain.status import Status
from smartserver_licensed.domain.timekeeping import from_iso, to_iso
from smartserver_licensed.domain.updates import UpdateKind, Verdict, parse_version
from smartserver_licensed.formats.bus import MAX_ROWS, Plain

from .contacting import Asked, Return, acknowledged, contact_of
from .entitling import licenses_shown
from .explain import device_of, device_rows, explain
from .keeper import Keeper
from .licensing import Licensing
from .loop import Controller
from .noticing import Noticing
from .ports import Announcer, Clocks
from .storage_report import StorageReport
from .telling import tell

_DIGITS = len(str(MAX_DEVICES))


class Service:
    """The answers; implements `formats.bus.LicenseService`."""

    def __init__(
        self,
        controller: Controller,
        keeper: Keeper,
        clocks: Clocks,
        announcer: Announcer,
        licensing: Licensing,
        noticing: Noticing,
        storage: StorageReport,
        *,
        install_code: str,
    ) -> None:
        self._controller = controller
        self._keeper = keeper
        self._clocks = clocks
        self._announcer = announcer
        self._licensing = licensing
        self._noticing = noticing
        self._install_code = install_code
        self._storage = storage

    def status(self) -> Status:
        """The status as of the last batch."""
        return self._controller.status

    def list_licenses(self) -> list[dict[str, Plain]]:
        """One row a license, with the columns of the CMS's Manage Licenses dialog."""
        state = self._keeper.shown
        installed = state.installed if state else None
        if state is None or installed is None:
            return []
        now = self._keeper.now()
        return [
            {
                "segment_controller": self._controller.status.segment_id or self._install_code,
                "description": describe(each),
                "status": license_status(each, now),
                "activation_date": to_iso(installed.accepted_at),
                "license_id": each.id,
                "note": each.note,
                "type": each.type.value,
                "devices": each.granted_total,
                "expires_at": to_iso(each.expires_at) if each.expires_at is not None else "",
                "grace_days": each.grace_days,
                "usable": each.granted_total - each.returned_total,
                "returned": each.returned_total,
                "consumed": each.consumed_total,
                "release": each.release,
                "replaces": each.replaces,
                "host": each.host,
            }
            for each in licenses_shown(state)
        ]

    def list_devices(self, *, waiting_only: bool, after: str, limit: int) -> list[dict[str, Plain]]:
        """Up to `limit` rows after the one named `after`."""
        return device_rows(
            self._controller.admission.facts,
            self._keeper.state,
            self._controller.admission.queues,
            waiting_only=waiting_only,
            after=after,
            limit=limit,
        )

    def explain(self, device: str) -> dict[str, Plain]:
        """Why a device hears what it hears. Raises UnknownDeviceError."""
        known = self._controller.admission.facts.device(device_of(device))
        return explain(
            device,
            self._controller.admission.facts,
            self._keeper.state,
            self._controller.admission.queues,
            self._controller.answer(known) if known else None,
            totals=self._controller.totals(),
            licenses=licenses_shown(self._keeper.shown),
            now=self._keeper.now(),
            now_s=self._clocks.monotonic(),
        )

    def plan(self, count: int) -> dict[str, Plain]:
        """How many of `count` more devices fit, and what is missing. Without a ledger the numbers are not known: 0."""
        totals = self._controller.totals()
        planned = plan(
            count,
            totals,
            is_storage_usable=self._keeper.state is not None,
            is_bound=self._keeper.binding is Binding.BOUND,
        )
        return {
            "count": count,
            "fits": planned.fits,
            "missing": planned.missing,
            "reason": planned.code.value if planned.code else "",
            "capacity": totals.capacity,
            "used": totals.used,
            "reserved": totals.reserved,
            "free": max(0, totals.free),
            "available": totals.available,
            "waiting": totals.waiting,
            "license_type": LicenseType.CAPACITY.value if planned.license_devices_for_all else "",
            "license_devices": planned.license_devices,
            "license_devices_for_all": planned.license_devices_for_all,
        }

    def verify_document(self, data: bytes) -> dict[str, Plain]:
        """What a document is and whether it verifies here. Raises DocumentError."""
        return dict(inspect_document(unwrap(data), self._licensing.trust))

    def describe_storage(self) -> dict[str, Plain]:
        """The ledger, its wear and its anchor, for `licensectl doctor`; see docs/dbus.md."""
        return self._storage.describe()

    async def acknowledge_repair(self) -> str:
        """Take the condition `degraded` back; what was repaired, empty where nothing was."""
        if self._keeper.state is None:
            raise self._not_ready("acknowledge")
        return await self._controller.acknowledge_repair()

    def _not_ready(self, what: str) -> NotReadyError:
        return NotReadyError(f"cannot {what}: storage is {self._keeper.storage.value}: {self._keeper.storage_reason}")

    # -- documents ---------------------------------------------------------------------------------------------------

    async def install_document(self, data: bytes) -> dict[str, Plain]:
        """Verify and install a grant or roots. Raises DocumentError or a StorageError; then nothing has changed."""
        grant = await self._licensing.install(data)
        version = self._licensing.trust.current.version
        if grant is None:
            return {"root_version": version}
        state = self._keeper.shown
        summary: dict[str, Plain] = {
            "seq": grant.seq,
            "capacity": capacity(grant.licenses, self._keeper.now(), state.returned if state else {}),
            "licenses": [f"{each.id}: {describe(each)}" for each in licenses_shown(state)],
            "root_version": version,
        }
        tell(messages.LICENSE_INSTALLED, SEQ=grant.seq, CAPACITY=summary["capacity"], CUSTOMER_ID=grant.customer_id)
        self._announcer.license_changed(summary)
        return summary

    async def create_request(
        self, customer_id: str, licenses: Sequence[str], *, is_new_key: bool, is_fresh: bool
    ) -> bytes:
        """A request for the issuer. Raises ArgumentError, ContactError, NotReadyError or StorageError."""
        if customer_id:
            check_name("a customer id", customer_id)
        asked = Asked(customer_id, tuple(map(_wanted, licenses)), is_new_key=is_new_key, is_fresh=is_fresh)
        return await self._licensing.request(asked)

    async def create_return(
        self, license_id: str, devices: int, *, over_capacity: bool, revoke_excess: bool, another: bool
    ) -> bytes:
        """The proof of a return; `devices` 0: all of it. Raises ArgumentError, ContactError or StorageError."""
        if over_capacity and revoke_excess:
            raise ArgumentError("cannot return: over-capacity and revoke-excess exclude each other")
        wanted = Return(license_id, devices, may_exceed=over_capacity, revokes_excess=revoke_excess, is_another=another)
        proof = await self._licensing.make_return(wanted)
        self._announcer.license_changed({"returned": license_id, "capacity": self._controller.totals().capacity})
        return proof

    def preview_return(self, license_id: str, devices: int) -> dict[str, Plain]:
        """What a return would come to; changes nothing."""
        look = self._licensing.preview(Return(license_id, devices))
        return {
            "license_id": look.license.id,
            "devices": look.devices,
            "capacity_before": look.capacity_before,
            "capacity_after": look.capacity_after,
            "used": self._controller.totals().used,
            "excess": len(look.excess),
            "devices_affected": list(look.excess[:MAX_ROWS]),
            "grace_days": look.grace_days,
        }

    def list_returns(self) -> list[dict[str, Plain]]:
        """The returns that can be exported again, the oldest first."""
        state = self._keeper.shown
        if state is None:
            return []
        said = [contact_of(each) for each in state.returns.values()]
        return [
            {
                "number": each.number,
                "license_id": each.license_id,
                "devices": each.devices,
                "made_at": to_iso(each.made_at),
                "acknowledged": each.number <= acknowledged(state),
            }
            for each in said
        ]

    def get_return(self, number: int) -> bytes:
        """The proof of a return again, byte for byte. Raises UnknownContactError."""
        return self._licensing.proof(number)

    # -- updates and notices -----------------------------------------------------------------------------------------

    def check_update(self, version: str, kind: str, released: str) -> dict[str, Plain]:
        """Whether a release may be installed, and why. Raises ArgumentError or NotReadyError."""
        moment = _moment(released) if released else None
        return self._shown(self._licensing.check_update(parse_version(version), _kind(kind), moment))

    async def confirm_update(self, version: str, kind: str) -> dict[str, Plain]:
        """A release is installed. Raises ArgumentError, NotReadyError or StorageError."""
        return self._shown(await self._licensing.confirm_update(parse_version(version), _kind(kind)))

    def _shown(self, verdict: Verdict) -> dict[str, Plain]:
        state = self._keeper.shown
        return {
            "allowed": verdict.is_allowed,
            "code": verdict.code.value,
            "sentence": verdict.sentence,
            "license_id": verdict.license_id or "",
            "installed": state.release if state else "",
        }

    def list_notices(self) -> list[dict[str, Plain]]:
        """What needs attention now."""
        return self._noticing.rows()

    async def set_notice_days(self, days: Sequence[int]) -> None:
        """How many days before an end a notice is wanted. Raises ArgumentError, NotReadyError or StorageError."""
        wanted = check_days(days)
        if self._keeper.state is None:
            raise self._not_ready("set the days of notices")
        if not await self._controller.commit_contact(lambda _: [NoticeDaysSet(wanted)]):
            raise WriteFailedError(f"cannot set the days of notices: {self._keeper.storage_reason}")


def _wanted(text: str) -> Wanted:
    license_id, separator, devices = text.partition("=")
    check_name("a license id", license_id)
    if separator and not (devices.isascii() and devices.isdigit() and len(devices) <= _DIGITS and int(devices)):
        raise ArgumentError(f"cannot ask for {text[:80]!r}: expected ID or ID=DEVICES")
    return Wanted(license_id, int(devices or 0))


def _kind(text: str) -> UpdateKind:
    try:
        return UpdateKind(text)
    except ValueError as error:
        known = ", ".join(each.value for each in UpdateKind)
        raise ArgumentError(f"cannot judge an update of kind {text[:40]!r}: known are {known}") from error


def _moment(text: str) -> int:
    """A date stands for its first second."""
    return from_iso(text if "T" in text else f"{text}T00:00:00Z")
