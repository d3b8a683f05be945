"""What the daemon says on MQTT: values → payloads. Each form stands in docs/mqtt.md.

Rules (WIRE.md): a driver reads one key of `lic`, so the others are for people; errors have the vendor's own form plus
our `code` and `data`; times are UTC in the vendor's form, safe beyond 2038.

What this module does not do: it knows no topic (`iap`) and publishes nothing.
"""

from __future__ import annotations

from smartserver_licensed.documents import strict_json
from smartserver_licensed.documents.strict_json import JsonValue
from smartserver_licensed.domain.devices import Action, DeviceId
from smartserver_licensed.domain.notices import Notice
from smartserver_licensed.domain.refusal import Refusal
from smartserver_licensed.domain.status import Status, Totals
from smartserver_licensed.domain.timekeeping import mru_text, to_iso
from smartserver_licensed.domain.withholding import Answer

from .vocabulary import VOCABULARY, nested


def marker(nonce: str) -> bytes:
    """A marker of the daemon's own; ASCII."""
    return nonce.encode("ascii")


def lic(answer: Answer, totals: Totals, at_ms: int) -> bytes:
    """`fb/dev/{P}/{H}/lic`. `at_ms`: milliseconds since 1970 UTC."""
    value: dict[str, JsonValue] = {"licensed": bool(answer.licensed)}
    if not answer.licensed:
        value["reason"] = answer.reason.value if answer.reason else None
        value |= {"capacity": totals.capacity, "used": totals.used}
    return strict_json.dump(value | {"mru": mru_text(at_ms)})


def refusal_error(refusal: Refusal, *, topic: str, at_ms: int) -> bytes:
    """`ev/error` for a refused request; `topic` is the one on which it was asked."""
    return strict_json.dump(
        {
            "cat": "error",
            "source": "licensed",
            "language": "en",
            "topic": topic,
            "message": refusal.sentence,
            "utc": mru_text(at_ms),
            "code": refusal.code.value,
            "data": {"capacity": refusal.capacity, "used": refusal.used},
        }
    )


def warning(notice: Notice, *, topic: str, at_ms: int) -> bytes:
    """`ev/warning` for a notice, in the form of `ev/error`; `topic` is the status that it is about."""
    return strict_json.dump(
        {
            "cat": "warning",
            "source": "licensed",
            "language": "en",
            "topic": topic,
            "message": notice.sentence,
            "utc": mru_text(at_ms),
            "code": notice.kind.value,
            "data": {
                "key": notice.key,
                "threshold": notice.threshold,
                "due": to_iso(notice.due) if notice.due is not None else None,
                "license": notice.license_id or None,
            },
        }
    )


def event(
    kind: str,
    unit: str,
    device: DeviceId | None,
    *,
    reason: str | None,
    totals: Totals,
    at_ms: int,
    topic: str = "",
) -> bytes:
    """`ev/lic`: the record of an admission, rejection, release, revocation or (with its topic) tampering."""
    value: dict[str, JsonValue] = {
        "event": kind,
        "unit": unit,
        "device": str(device) if device else None,
        "reason": reason,
        "capacity": totals.capacity,
        "used": totals.used,
        "utc": mru_text(at_ms),
    }
    return strict_json.dump(value | {"topic": topic} if topic else value)


def status(value: Status, at_ms: int) -> bytes:
    """`fb/lic`: the SmartServer's license status; the keys are `vocabulary`'s."""
    shown: dict[str, JsonValue] = nested((word.lic, word.of(value)) for word in VOCABULARY if word.lic)  # type: ignore[assignment]
    return strict_json.dump(shown | {"mru": mru_text(at_ms)})


def request(action: Action) -> bytes:
    """A `do` message without arguments."""
    return strict_json.dump({"action": action.value})
