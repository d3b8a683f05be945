"""An install code is freed for whoever owns the SmartServer now.

Rules:
- only where nothing is left in the field: licenses come back first (`return`), or are moved (`rma`);
- what it had is evidence: the row stays, under a name that no SmartServer has, with its key retired. What was reserved
  for it is free again;
- its SmartServer begins anew too, with an empty ledger: one that has grants of before is refused;
- the install code has had its trial, whoever owns it.

What this module does not do: it asks nobody whether the SmartServer was sold; the operator knows.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from smartserver_licensed.domain.timekeeping import Timestamp

from .auditing import note_act
from .enrolling import find_smartserver, retire
from .errors import InstallCodeTakenError
from .orders import trial_taken
from .stock import allocations_of, has_ended, reservations_of, usable
from .tables import FormerCode, TrialTaken


def release(session: Session, install_code: str, now: Timestamp) -> None:
    """Free an install code for any customer.

    Raises SmartServerUnknownError; InstallCodeTakenError where its SmartServer still has licenses.
    """
    smartserver = find_smartserver(session, install_code)
    had = [each for each in allocations_of(session, smartserver) if usable(each) and not has_ended(each.license, now)]
    if had:
        left = ", ".join(f"{usable(each)} devices of {each.license_id}" for each in had)
        raise InstallCodeTakenError(f"cannot release {install_code}: it still has {left}")
    trial = trial_taken(session, smartserver)
    if trial and session.get(TrialTaken, install_code) is None:
        session.add(TrialTaken(install_code=install_code, license_id=trial, taken_at=now))
    for reservation in reservations_of(session, smartserver):
        session.delete(reservation)
    former = session.get(FormerCode, install_code)
    if former is not None:
        session.delete(former)
    retire(session, smartserver, now, is_replaced=False)
    smartserver.retired_at = smartserver.retired_at or now
    smartserver.install_code = f"{install_code} released {smartserver.id}"
    note_act(session, now, "release", f"{install_code} of the customer {smartserver.customer_id}")
    session.flush()
