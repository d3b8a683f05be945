"""Who may hear `licensed:false`. One mistake here stops a heating plant, so it is decided here and nowhere else.

Rules (LICENSING §3 "Withholding"):
- with a ledger that cannot be read or written no `false` leaves at all; `true` is said again only to devices that the
  first retained snapshot after the start shows to run, to have our `true`, or to carry the restore mark;
- a deleted device hears `false`: it stops nothing, and a later device of that handle finds no old `true`;
- a unit with a seat hears `true`; an absent one hears nothing;
- a unit without a seat hears `false`, but not while it may turn out to be one that runs (held, see `facts`);
- a unit last counted as provisioned loses its seat only when it is deleted, when it is absent and a request takes
  the seat, when capacity shrank *and* its grace has ended, or when an administrator asked for it;
- an older engine, which reads no `lic`, is asked to deprovision what hears `false` and runs; no other engine ever is.

What this module does not do: it publishes nothing (`controller.speaking`) and chooses nobody (`seats`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .devices import DeviceState
from .ledger_state import Cause, Seat, SeatKind


class Reason(enum.Enum):
    """Why a device hears `false`; the words on the wire."""

    NOT_ASKED = "not-asked"
    CAPACITY_EXCEEDED = "capacity-exceeded"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device should hear: true, false with a reason, or nothing (None)."""

    licensed: bool | None
    reason: Reason | None = None


SILENCE = Answer(licensed=None)
YES = Answer(licensed=True)


def answer(
    *,
    is_ledger_usable: bool,
    was_licensed_at_start: bool,
    is_deleted: bool,
    is_internal: bool,
    seat: Seat | None,
    is_absent: bool,
    is_held: bool,
    has_asked: bool,
) -> Answer:
    """What a device of a counting unit should hear now.

    `was_licensed_at_start`: the first retained snapshot shows it provisioned, with our `true`, or with the restore
    mark. `is_held`: the unit may be one to adopt, and it is not known yet whether it runs.
    """
    if not is_ledger_usable:
        return YES if was_licensed_at_start and not is_deleted else SILENCE
    if is_deleted:
        return Answer(licensed=False, reason=Reason.DELETED)
    if is_internal:
        return YES
    if is_absent:
        return SILENCE
    if seat is not None:
        return YES
    if is_held:
        return SILENCE
    return Answer(licensed=False, reason=Reason.CAPACITY_EXCEEDED if has_asked else Reason.NOT_ASKED)


def must_stop(answer: Answer, *, state: DeviceState | None, reads_lic: bool | None) -> bool:
    """Whether a device runs without a seat in an engine that does not obey `lic`: it may be asked to deprovision it.

    `reads_lic` is None where nobody knows whether the engine does.
    """
    return answer.licensed is False and state is DeviceState.PROVISIONED and reads_lic is False


def may_lose_seat(seat: Seat, cause: Cause, *, is_absent: bool, has_grace_ended: bool) -> bool:
    """Whether a seat may go for this cause, so that its unit may hear `false` afterwards."""
    if cause in {Cause.RELEASED, Cause.REVOKED}:
        return True
    if cause is Cause.EVICTED:
        return is_absent
    if cause is Cause.GRACE_ENDED:
        return has_grace_ended
    return seat.kind is SeatKind.RESERVED
