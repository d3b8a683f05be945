"""What people and programs read of an authority: short plain text, and one JSON form.

Rules: names come from customers and documents: no control character of theirs reaches the terminal; times are UTC.
JSON has the names of the rows (`showing`), times as ISO 8601.

What this module does not do: it asks no register; `say` is the only function that writes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smartserver_licensed.documents.acceptance import Inspection
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, Root
from smartserver_licensed.domain.timekeeping import to_iso, to_iso_date

Column = tuple[str, Callable[[Any], object]]

_SHORT_ID = 16
_NOTHING = "-"


def say(text: str) -> None:
    """Write on stdout, at once: `serve` goes on. A line end is added where there is none."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def printable(text: object) -> str:
    """The text without what could move a cursor."""
    return "".join(each if each.isprintable() else "?" for each in str(text))


def json_text(value: object) -> str:
    """JSON for programs; rows become objects."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def table(columns: Sequence[Column], rows: Sequence[object]) -> str:
    """Rows under headings, each column as wide as its widest cell."""
    cells = [[heading for heading, _ in columns]]
    cells += [[printable(cell(row)) or _NOTHING for _, cell in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in cells
    )


def inspection_screen(found: Inspection) -> str:
    """What a document is."""
    lines = [str(found["summary"]), "verified: yes" if found["verified"] else f"verified: no: {found['reason']}"]
    for name, value in found.items():
        if name not in {"kind", "summary", "verified", "reason", "code"}:
            values = value if isinstance(value, list) else [value]
            lines += [f"{name.replace('_', ' ')}: {each}" for each in values]
    return "".join(f"{printable(line)}\n" for line in lines)


def root_screen(root: Root, before: Root | None = None) -> str:
    """Who may sign under a root, and what changed since the one before."""
    lines = [f"root version {root.version}, emergency capacity at most {root.emergency_max_devices} devices"]
    for name, payload_type in (("root", ROOT_TYPE), ("grant", GRANT_TYPE)):
        keys = root.keys_for(payload_type)
        lines.append(f"{name} keys, {root.threshold_for(payload_type)} of {len(keys)} sign:")
        lines += [
            f"  {key_id[:_SHORT_ID]}{' (new)' if before and key_id not in before.keys else ''}" for key_id in keys
        ]
    if before and (gone := before.keys.keys() - root.keys.keys()):
        lines += ["retired; their files can be destroyed:", *(f"  {key_id[:_SHORT_ID]}" for key_id in sorted(gone))]
    return "".join(f"{line}\n" for line in lines)


def _when(moment: int | None) -> str:
    return _NOTHING if moment is None else to_iso(moment)


def _end(moment: int | None) -> str:
    return _NOTHING if moment is None else to_iso_date(moment)


def _state(row: Any) -> str:  # noqa: ANN401 - a SmartServerRow; its module loads the database library
    if row.retired_at is not None:
        return "retired"
    if any(each.key_id == row.key_id for each in row.forks):  # a fork of an earlier key is mended
        return "forked"
    return "enrolled" if row.key_id else "known"


COLUMNS: Mapping[str, Sequence[Column]] = {
    "balance": (
        ("LICENSE", lambda row: row.license_id),
        ("SOLD", lambda row: row.sold),
        ("AUTHORITY", lambda row: row.at_authority),
        ("FIELD", lambda row: row.in_field),
        ("CONSUMED", lambda row: row.consumed),
    ),
    "customers": (("ID", lambda row: row.id), ("SINCE", lambda row: _end(row.made_at)), ("NAME", lambda row: row.name)),
    "orders": (
        ("ORDER", lambda row: row.id),
        ("DATE", lambda row: _end(row.made_at)),
        ("CUSTOMER", lambda row: row.customer_id),
        ("LICENSE", lambda row: row.license_id),
        ("WHAT", lambda row: row.what),
    ),
    "licenses": (
        ("LICENSE", lambda row: row.id),
        ("TYPE", lambda row: row.type),
        ("SOLD", lambda row: row.sold),
        ("AUTHORITY", lambda row: row.at_authority),
        ("RESERVED", lambda row: row.reserved),
        ("FIELD", lambda row: row.in_field),
        ("ENDS", lambda row: _end(row.expires_at)),
        ("WHERE", lambda row: ", ".join(f"{code} ({devices})" for code, devices in row.where)),
        ("NOTE", lambda row: row.note),
    ),
    "smartservers": (
        ("INSTALL CODE", lambda row: row.install_code),
        ("STATE", _state),
        ("GRANT", lambda row: row.seq),
        ("CONTACT", lambda row: row.last_contact),
        ("AT", lambda row: _when(row.last_contact_at)),
        ("KEY", lambda row: row.key_id[:_SHORT_ID]),
        ("CUSTOMER", lambda row: row.customer_id),
    ),
    "forks": (
        ("FOUND", lambda row: _when(row["found_at"])),
        ("INSTALL CODE", lambda row: row["install_code"]),
        ("WHY", lambda row: row["code"]),
        ("CONTACT", lambda row: row["number"]),
        ("KNOWN SINCE", lambda row: _when(row["known_at"])),
        ("KNOWN", lambda row: row["known_sha256"][:_SHORT_ID]),
        ("OTHER", lambda row: row["other_sha256"][:_SHORT_ID]),
    ),
    "audit": (
        ("AT", lambda row: _when(row.at)),
        ("ACT", lambda row: row.act),
        ("DETAIL", lambda row: row.detail),
    ),
    "tokens": (
        ("NAME", lambda row: row.name),
        ("MADE", lambda row: _when(row.made_at)),
        ("REVOKED", lambda row: _when(row.revoked_at)),
        ("CUSTOMER", lambda row: row.customer_id),
    ),
}


def _plain(value: Any, name: str = "") -> Any:  # noqa: ANN401 - JSON
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name), each.name) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each, key) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    is_time = isinstance(value, int) and (name == "at" or name.endswith("_at"))
    return to_iso(value) if is_time else value
