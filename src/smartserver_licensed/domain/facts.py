"""What is known of each device now: the current facts that every decision is computed from.

Rules (WIRE.md, LICENSING §2–3; level-triggered, as a controller):
- `sts` decides; a message only changes a device's facts and marks its counting unit as due;
- an `sts` without a state, or with one that nobody knows, makes no unit and changes no state;
- the few edges live seconds: a deprovision request counts only if it was seen while `sts` said `provisioned`, and is
  forgotten after 10 s, at the engine's start, or at any `sts` but `unprovisioned`;
- a unit is *absent* when no `sts` of it came after the snapshot and the grace; it is *held* while it is not yet known
  whether it is one to adopt (first snapshot of a new ledger, or back after it lost its seat while absent);
- bounded: at most `max_devices` live handles and as many deleted ones; what is over is dropped and counted.

What this module does not do: nothing here is durable, and nothing here gives or takes a seat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from .counting import SMARTSERVER, UnitId, counting_unit, may_be_internal
from .devices import Action, DeviceId, DeviceReport, DeviceRequest, DeviceState
from .ledger_state import InternalChanged
from .refusal import SeatRequest
from .withholding import Answer, Reason

WITHDRAWAL_LIFE_S = 10.0
EARLY_REQUEST_LIFE_S = 60.0
REPEAT_LIFE_S = 65.0  # 60 s, in which a seat can become takeable, and time for the engine to hear of it
_EARLY_REQUESTS = 4_096


def _rank(state: DeviceState | None) -> int:
    """How high a state of a live member is; 0 where there is none. Not a table: hashing a member costs more."""
    if state is DeviceState.PROVISIONED:
        return 3
    if state is DeviceState.UNPROVISIONED:
        return 2
    return 1 if state is DeviceState.UNLICENSED else 0


@dataclass(slots=True, eq=False)
class Device:
    """The facts of one handle. Times are monotonic seconds."""

    id: DeviceId
    unit: UnitId
    state: DeviceState | None = None  # the last one that counts; None: none yet, or absent
    is_live: bool = False  # the state came from a live message, not from a retained one
    has_restore_mark: bool = False
    is_troubled: bool = False
    is_infrastructure: bool = False
    is_local_attach: bool = False
    seen_in: int = 0  # the snapshot generation of its last `sts`
    unprovisioned_since: float | None = None
    asked_at: float | None = None
    was_deprovisioned: bool = False
    repeat: tuple[bytes, float] | None = None  # a provision request the engine refused, and until when to repeat it
    broker_licensed: bool | None = None  # what the broker holds in `lic`, as far as known
    broker_reason: str | None = None
    is_lic_doubtful: bool = False  # somebody else wrote to its `lic`
    said: Answer | None = None  # the last answer it was told
    stops: int | None = None  # how often its engine was asked to stop it; None: it does not run without a seat
    was_licensed_at_start: bool = False  # the first retained snapshot showed it to run, to have our `true`, or the mark

    @property
    def was_told_false(self) -> bool:
        """Whether the broker holds a `false` for it that is not from its own deletion."""
        return self.broker_licensed is False and self.broker_reason != Reason.DELETED.value


class UnitView(NamedTuple):  # made some times for each event: a frozen dataclass would take three times as long
    """The facts of a counting unit at one instant: its state is the highest of its live members."""

    unit: UnitId
    state: DeviceState | None
    is_released: bool  # it had members, and none is left or alive
    is_live: bool
    was_told_false: bool
    is_troubled: bool
    asked_at: float | None
    unprovisioned_since: float | None
    was_deprovisioned: bool
    is_absent: bool
    is_held: bool


@dataclass(slots=True)
class _Early:
    """A request as it was asked; kept for a handle that no `sts` has shown yet."""

    asked_at: float
    request: DeviceRequest
    payload: bytes


class Facts:
    """The facts of all devices of this SmartServer under one SID."""

    def __init__(self, *, max_devices: int) -> None:
        self._max_devices = max_devices
        self._devices: dict[DeviceId, Device] = {}
        self._members: dict[UnitId, list[Device]] = {}
        self._deleted: dict[DeviceId, None] = {}
        self._absent: set[UnitId] = set()
        self._held: dict[UnitId, float] = {}
        self._early: dict[DeviceId, _Early] = {}
        self._withdrawn: dict[DeviceId, float] = {}
        self._requests: dict[DeviceId, SeatRequest] = {}  # the last one of each
        self._claims: dict[DeviceId, None] = {}
        self._lic_readers: set[str] = set()  # protocols
        self._live_protocols: set[str] = set()
        self._vacated: set[UnitId] = set()  # their last member counts with the SmartServer now
        self.generation = 0
        self.dropped = 0

    # -- what is asked of the facts ------------------------------------------------------------------------------

    def device(self, device_id: DeviceId) -> Device | None:
        """The facts of a handle, or None where nothing is known."""
        return self._devices.get(device_id)

    def devices(self) -> Iterator[Device]:
        """All handles known, in the order of first sight."""
        return iter(self._devices.values())

    def members(self, unit: UnitId) -> tuple[Device, ...]:
        """The devices of a counting unit, deleted ones included."""
        return tuple(self._members.get(unit, ()))

    def units(self) -> tuple[UnitId, ...]:
        """All counting units that have members, in the order of first sight."""
        return tuple(self._members)

    def is_seen(self, unit: UnitId, since: int) -> bool:
        """Whether some `sts` of the unit came since the snapshot of that generation began."""
        return any(device.seen_in >= since for device in self._members.get(unit, ()))

    def reads_lic(self, protocol: str) -> bool | None:
        """Whether a protocol's engine reads `lic`: some `sts` of it has said `unlicensed` (WIRE.md).

        None while nothing live has come from it: what the broker retains does not show that it is an older one.
        """
        if protocol in self._lic_readers:
            return True
        return False if protocol in self._live_protocols else None

    def view(self, unit: UnitId) -> UnitView:
        """The facts of a counting unit now; O(members)."""
        members = self._members.get(unit, ())
        top, top_rank, asked_at = None, 0, None
        is_released = bool(members) or unit in self._vacated
        was_told_false = is_troubled = was_deprovisioned = is_live = False
        for each in members:
            if each.state is DeviceState.DELETED:
                continue
            is_released = False
            rank = _rank(each.state)
            if not rank:
                continue
            if rank > top_rank:
                top, top_rank, is_live = each, rank, False
            is_live = is_live or (rank == top_rank and each.is_live)
            was_told_false = was_told_false or each.was_told_false
            is_troubled = is_troubled or each.is_troubled
            was_deprovisioned = was_deprovisioned or each.was_deprovisioned
            if each.asked_at is not None and (asked_at is None or each.asked_at > asked_at):
                asked_at = each.asked_at
        return UnitView(
            unit,
            top.state if top else None,
            is_released,
            is_live,
            was_told_false,
            is_troubled,
            asked_at,
            top.unprovisioned_since if top else None,
            was_deprovisioned,
            unit in self._absent,
            unit in self._held,
        )

    # -- observations --------------------------------------------------------------------------------------------

    def begin_snapshot(self) -> None:
        """A snapshot begins: from now on a handle that shows no `sts` is not seen."""
        self.generation += 1

    def connected(self) -> None:
        """A new connection: nothing is known of what the broker holds in `lic`."""
        for device in self._devices.values():
            device.broker_licensed = device.broker_reason = None
            device.is_lic_doubtful = False

    def expect(self, device_id: DeviceId, internal: set[DeviceId]) -> None:
        """A handle that the ledger knows: it may show itself, and hears `true` meanwhile."""
        if device_id not in self._devices:
            self._add(device_id, internal)

    def note_start(self) -> None:
        """The first retained snapshot after the start is complete: remember what it shows to be licensed."""
        for device in self._devices.values():
            device.was_licensed_at_start = (
                device.state is DeviceState.PROVISIONED or device.broker_licensed is True or device.has_restore_mark
            )

    def report(
        self, device_id: DeviceId, report: DeviceReport, *, is_retained: bool, now_s: float, internal: set[DeviceId]
    ) -> UnitId | None:
        """Take in one `sts`; the unit that is due by it, or None where there is none.

        A handle that is known by its retained `deleted` only is due after the snapshot: most have heard their `false`.
        """
        device = self._devices.get(device_id)
        state = report.state if report.state is not DeviceState.UNKNOWN else None
        is_new = device is None
        if device is None:
            is_old_news = state is DeviceState.DELETED and not is_retained  # engines say it twice; ours is said already
            if state is None or is_old_news or not self._has_room(state):
                return None
            device = self._add(device_id, internal)
        was = device.state
        device.seen_in = self.generation
        device.is_troubled = report.is_troubled
        device.has_restore_mark = report.has_restore_mark
        self._absent.discard(device.unit)
        is_new_claim = report.is_infrastructure and not device.is_infrastructure
        device.is_infrastructure = report.is_infrastructure
        if state is not DeviceState.DELETED and (is_new_claim or (was is None and state is not None)):
            self._claims[device_id] = None
        self._settle_withdrawal(device, state, now_s)
        if state is None:
            return device.unit
        device.is_live = not is_retained
        if state is DeviceState.UNPROVISIONED:
            device.unprovisioned_since = device.unprovisioned_since if was is state else now_s
        else:
            device.unprovisioned_since = None
        device.state = state
        self._note_protocol(device)
        if state is DeviceState.DELETED:
            self._delete(device)
            if is_new and is_retained:
                return None
        else:
            self._deleted.pop(device_id, None)
            if was in {None, DeviceState.DELETED}:
                self._attach_early_request(device, now_s)
        return device.unit

    def clear(self, device_id: DeviceId, *, now_s: float, internal: set[DeviceId]) -> UnitId | None:
        """An empty `sts` of a known handle: the broker forgot the device; it counts as deleted."""
        if device_id not in self._devices:
            return None
        deleted = DeviceReport(state=DeviceState.DELETED)
        return self.report(device_id, deleted, is_retained=False, now_s=now_s, internal=internal)

    def request(self, device_id: DeviceId, request: DeviceRequest, payload: bytes, *, now_s: float) -> UnitId | None:
        """Take in one `do` message; the unit that is due by it, or None where it is not known yet."""
        device = self._devices.get(device_id)
        if device is None or device.state in {None, DeviceState.DELETED}:
            self._remember_early(device_id, _Early(now_s, request, payload))
            return None
        if request.action is Action.DEPROVISION:
            if device.state is DeviceState.PROVISIONED:
                self._withdrawn[device_id] = now_s + WITHDRAWAL_LIFE_S
            return None
        if not request.wants_provision:
            return None
        self._ask(device, _Early(now_s, request, payload))
        return device.unit

    def configured(self, device_id: DeviceId, *, is_local_attach: bool) -> None:
        """A device's retained `cfg` says whether it is an internal application."""
        device = self._devices.get(device_id)
        if device is not None and is_local_attach and not device.is_local_attach:
            device.is_local_attach = True
            self._claims[device_id] = None

    def licensed(self, device_id: DeviceId, *, licensed: bool | None, reason: str | None) -> Device | None:
        """What the broker holds in a device's `lic`; the device, or None where it is not known."""
        device = self._devices.get(device_id)
        if device is not None:
            device.broker_licensed, device.broker_reason = licensed, reason
        return device

    def doubt_lic(self, device_id: DeviceId) -> Device | None:
        """Somebody else wrote to a device's `lic`: the device, or None where it is not known."""
        device = self._devices.get(device_id)
        if device is not None:
            device.is_lic_doubtful = True
        return device

    def engine_started(self, protocol: str | None) -> None:
        """An engine started: deprovision requests it never saw are forgotten (None: some engine, so all)."""
        for device_id in [each for each in self._withdrawn if protocol in {None, each.protocol}]:
            del self._withdrawn[device_id]

    # -- what the controller tells them ---------------------------------------------------------------------------

    def take_requests(self) -> list[SeatRequest]:
        """The seat requests since the last call, for devices that are still there; each is answered once."""
        requests, self._requests = self._requests, {}
        alive = [(self._devices[each.device], each) for each in requests.values() if each.device in self._devices]
        return [replace(each, unit=device.unit) for device, each in alive if device.state is not DeviceState.DELETED]

    def take_internal_changes(self, internal: set[DeviceId]) -> tuple[list[InternalChanged], set[UnitId]]:
        """Which devices join or leave those counted with the SmartServer, and the units that are due by it.

        The facts follow at once; `internal` itself is durable and follows with the batch.
        """
        changes: list[InternalChanged] = []
        due: set[UnitId] = set()
        now_internal = set(internal)
        for device_id in self._claims:
            device = self._devices.get(device_id)
            if device is None:
                continue
            if device.state is DeviceState.DELETED:
                is_internal = False
            else:
                is_internal = may_be_internal(
                    device_id,
                    is_local_attach=device.is_local_attach,
                    is_infrastructure=device.is_infrastructure,
                    internal=now_internal,
                )
            if is_internal == (device_id in now_internal):
                continue
            (now_internal.add if is_internal else now_internal.discard)(device_id)
            changes.append(InternalChanged(device_id, is_internal))
            due |= {device.unit, self._move(device, counting_unit(device_id, now_internal))}
        self._vacated = {unit for unit in due if unit not in self._members}  # not `due - keys`, which walks all keys
        self._claims.clear()
        return changes, due

    def realign(self, internal: set[DeviceId]) -> None:
        """The durable set of internal devices was loaded (again): every device goes where it counts by it."""
        for device in self._devices.values():
            unit = counting_unit(device.id, internal)
            if unit != device.unit:
                self._move(device, unit)
            if device.state is not None:
                self._claims[device.id] = None

    def hold(self, unit: UnitId, until_s: float) -> None:
        """The unit may be one to adopt: it hears no `false` before this time. Times of later calls never fall."""
        self._held.pop(unit, None)
        self._held[unit] = until_s

    def take_unheld(self, now_s: float) -> list[UnitId]:
        """The units whose hold ends now; they are due."""
        ended = []
        for unit, until_s in self._held.items():
            if until_s > now_s:
                break
            ended.append(unit)
        for unit in ended:
            del self._held[unit]
        return ended

    def next_unheld_at(self) -> float | None:
        """When the next hold ends (monotonic seconds), or None."""
        return next(iter(self._held.values()), None)

    @property
    def has_held(self) -> bool:
        """Whether some unit is held."""
        return bool(self._held)

    def set_absent(self, unit: UnitId) -> None:
        """No `sts` of the unit came after the snapshot and the grace: nothing is known of it any more."""
        self._absent.add(unit)
        for device in self._members.get(unit, ()):
            if device.state is not DeviceState.DELETED:
                device.state = None
                device.unprovisioned_since = device.asked_at = None

    def drop(self, unit: UnitId) -> None:
        """Nothing is known of a unit that has no seat and was not seen: its handles make room for others."""
        for device in self._members.pop(unit, ()):
            del self._devices[device.id]
            self._deleted.pop(device.id, None)
        self._held.pop(unit, None)

    def forget(self, device: Device) -> None:
        """Drop a deleted handle that has heard its `false`."""
        if device.state is DeviceState.DELETED and self._devices.get(device.id) is device:
            del self._devices[device.id]
            self._deleted.pop(device.id, None)
            self._move(device, None)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _has_room(self, state: DeviceState) -> bool:
        live = len(self._devices) - len(self._deleted)
        used = len(self._deleted) if state is DeviceState.DELETED else live
        if used < self._max_devices:
            return True
        self.dropped += state is not DeviceState.DELETED  # of those that are over, more will have room next time
        return False

    def _add(self, device_id: DeviceId, internal: set[DeviceId]) -> Device:
        device = Device(device_id, counting_unit(device_id, internal))
        self._devices[device_id] = device
        self._members.setdefault(device.unit, []).append(device)
        return device

    def _move(self, device: Device, unit: UnitId | None) -> UnitId:
        members = self._members[device.unit]
        members.remove(device)
        if not members:
            del self._members[device.unit]
        if unit is not None:
            device.unit = unit
            self._members.setdefault(unit, []).append(device)
        return device.unit

    def _note_protocol(self, device: Device) -> None:
        if device.state is DeviceState.UNLICENSED and len(self._lic_readers) < self._max_devices:
            self._lic_readers.add(device.id.protocol)
        if device.is_live and len(self._live_protocols) < self._max_devices:
            self._live_protocols.add(device.id.protocol)

    def _delete(self, device: Device) -> None:
        self._deleted[device.id] = None
        device.asked_at = device.repeat = None
        device.was_deprovisioned = device.is_local_attach = device.is_infrastructure = False
        self._held.pop(device.unit, None)
        if device.unit == SMARTSERVER:
            self._claims[device.id] = None

    def _settle_withdrawal(self, device: Device, state: DeviceState | None, now_s: float) -> None:
        until_s = self._withdrawn.get(device.id)
        if until_s is not None:
            is_effective = state is DeviceState.UNPROVISIONED and now_s <= until_s
            del self._withdrawn[device.id]
            if is_effective:
                device.was_deprovisioned = True
                device.asked_at = None
        if state not in {None, DeviceState.UNPROVISIONED}:
            device.was_deprovisioned = False

    def _ask(self, device: Device, asked: _Early) -> None:
        device.asked_at = asked.asked_at
        device.was_deprovisioned = False
        self._requests[device.id] = SeatRequest(device.unit, device.id, asked.request.action, asked.asked_at)
        if asked.request.action is Action.PROVISION and device.state is DeviceState.UNLICENSED:
            device.repeat = (asked.payload, asked.asked_at + REPEAT_LIFE_S)

    def _remember_early(self, device_id: DeviceId, early: _Early) -> None:
        self._early.pop(device_id, None)
        if not (early.request.wants_provision or early.request.is_local_attach):
            return
        self._early[device_id] = early
        oldest = next(iter(self._early))
        if len(self._early) > _EARLY_REQUESTS or self._early[oldest].asked_at + EARLY_REQUEST_LIFE_S < early.asked_at:
            del self._early[oldest]

    def _attach_early_request(self, device: Device, now_s: float) -> None:
        early = self._early.pop(device.id, None)
        if early is None or early.asked_at + EARLY_REQUEST_LIFE_S < now_s:
            return
        if early.request.is_local_attach and not device.is_local_attach:
            device.is_local_attach = True
            self._claims[device.id] = None
        if early.request.wants_provision:
            self._ask(device, early)
