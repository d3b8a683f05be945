"""What the D-Bus interface asks of the daemon: status, lists, explanations, and the installation of a grant.

Rules (OVERVIEW, LICENSING §4): a status query never waits for disk, broker or network; a document is verified before
anything changes, and is durable before anybody hears of it; on failure nothing has changed.

What this module does not do: it checks no caller (`adapters.dbus`) and no signature (`documents`).
"""

from __future__ import annotations

from smartserver_licensed.documents.acceptance import accept_grant, inspect_document
from smartserver_licensed.documents.trust import Root
from smartserver_licensed.domain import messages
from smartserver_licensed.domain.entitlement import capacity
from smartserver_licensed.domain.errors import DocumentError, NotReadyError, WriteFailedError
from smartserver_licensed.domain.ledger_state import GrantInstalled
from smartserver_licensed.domain.licenses import LicenseType, describe, license_status
from smartserver_licensed.domain.planning import plan
from smartserver_licensed.domain.status import Status
from smartserver_licensed.domain.timekeeping import to_iso
from smartserver_licensed.formats.bus import Plain

from .explain import device_of, device_rows, explain
from .keeper import Keeper
from .loop import Controller
from .ports import Announcer, Clocks
from .storage_report import StorageReport
from .telling import tell


class Service:
    """The answers; implements `formats.bus.LicenseService`."""

    def __init__(
        self,
        controller: Controller,
        keeper: Keeper,
        clocks: Clocks,
        announcer: Announcer,
        *,
        root: Root,
        install_code: str,
        storage: StorageReport,
    ) -> None:
        self._controller = controller
        self._keeper = keeper
        self._clocks = clocks
        self._announcer = announcer
        self._root = root
        self._install_code = install_code
        self._storage = storage
        self._is_installing = False

    def status(self) -> Status:
        """The status as of the last batch."""
        return self._controller.status

    def list_licenses(self) -> list[dict[str, Plain]]:
        """One row a license, with the columns of the CMS's Manage Licenses dialog."""
        state = self._keeper.shown
        installed = state.installed if state else None
        if installed is None:
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
            }
            for each in installed.grant.licenses
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
            licenses=self._controller.licenses(),
            now=self._keeper.now(),
            now_s=self._clocks.monotonic(),
        )

    def plan(self, count: int) -> dict[str, Plain]:
        """How many of `count` more devices fit, and what is missing. Without a ledger the numbers are not known: 0."""
        totals = self._controller.totals()
        planned = plan(count, totals, is_storage_usable=self._keeper.state is not None)
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
        return dict(inspect_document(data, self._root))

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

    async def install_document(self, data: bytes) -> dict[str, Plain]:
        """Verify and install a grant. Raises DocumentError or a StorageError; then nothing has changed."""
        state = self._keeper.shown
        if state is None or not self._keeper.takes_grants:
            raise self._not_ready("install")
        if self._is_installing:  # an anchor may take its time, and all batches wait for it
            raise NotReadyError("cannot install: another document is being installed")
        try:
            grant = accept_grant(
                data,
                root=self._root,
                install_code=self._install_code,
                last_seq=state.installed.grant.seq if state.installed else 0,
            )
        except DocumentError as error:
            tell(messages.LICENSE_REFUSED, CODE=error.code, REASON=error)
            raise
        self._is_installing = True
        try:
            installed = GrantInstalled(grant, data, self._clocks.reading().wall_s)
            if not await self._controller.commit_license(installed):
                raise WriteFailedError(f"cannot install: {self._keeper.storage_reason}")
        finally:
            self._is_installing = False
        summary: dict[str, Plain] = {
            "seq": grant.seq,
            "capacity": capacity(grant.licenses, self._keeper.now()),
            "licenses": [f"{each.id}: {describe(each)}" for each in grant.licenses],
        }
        tell(messages.LICENSE_INSTALLED, SEQ=grant.seq, CAPACITY=summary["capacity"], CUSTOMER_ID=grant.customer_id)
        self._announcer.license_changed(summary)
        return summary
