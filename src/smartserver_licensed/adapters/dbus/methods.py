"""The methods of the License1 interface: what each asks of the LicenseService, in D-Bus's values.

Rules: two tables, one of what everybody may ask and one of what is for administrators; their functions take the
arguments that the introspection XML declares and give its one answer back, None where there is none.

What this module does not do: it checks neither callers nor signatures (`service`) and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from dbus_fast import Variant

from smartserver_licensed.domain.errors import DocumentTooLargeError
from smartserver_licensed.formats.bus import (
    MAX_ARMORED_BYTES,
    LicenseService,
    Plain,
    Typed,
    clean,
    parse_filter,
    parse_request_options,
    parse_return_options,
    typed_row,
)


def variants(row: Mapping[str, Typed]) -> dict[str, Variant]:
    """The content of an `a{sv}` for dbus-fast."""
    return {key: variant(value) for key, value in row.items()}


def variant(value: Typed) -> Variant:
    """One value of it."""
    signature, content = value
    return Variant(signature, variants(content) if isinstance(content, dict) else content)


def _row(row: Mapping[str, Plain]) -> dict[str, Variant]:
    return variants(typed_row(row))


def _rows(rows: Sequence[Mapping[str, Plain]]) -> list[dict[str, Variant]]:
    return [_row(each) for each in rows]


def _typed(given: Mapping[str, Variant]) -> dict[str, Typed]:
    return {key: (value.signature, value.value) for key, value in given.items()}


def _document(data: bytes) -> bytes:
    if len(data) > MAX_ARMORED_BYTES:
        raise DocumentTooLargeError(
            f"cannot read the document: it has {len(data)} bytes, at most {MAX_ARMORED_BYTES} are allowed"
        )
    return bytes(data)


def _list_devices(service: LicenseService, given: Mapping[str, Variant]) -> object:
    wanted = parse_filter(_typed(given))
    return _rows(service.list_devices(waiting_only=wanted.waiting_only, after=wanted.after, limit=wanted.limit))


async def _install(service: LicenseService, data: bytes) -> object:
    return _row(await service.install_document(_document(data)))


async def _acknowledge(service: LicenseService) -> object:
    return clean(await service.acknowledge_repair())


async def _create_request(service: LicenseService, given: Mapping[str, Variant]) -> object:
    wanted = parse_request_options(_typed(given))
    return await service.create_request(
        wanted.customer_id, wanted.licenses, is_new_key=wanted.is_new_key, is_fresh=wanted.is_fresh
    )


async def _create_return(
    service: LicenseService, license_id: str, devices: int, given: Mapping[str, Variant]
) -> object:
    options = parse_return_options(_typed(given))
    return await service.create_return(
        license_id,
        devices,
        over_capacity=options.over_capacity,
        revoke_excess=options.revoke_excess,
        another=options.another,
    )


async def _confirm_update(service: LicenseService, version: str, kind: str) -> object:
    return _row(await service.confirm_update(version, kind))


async def _set_notice_days(service: LicenseService, days: Sequence[int]) -> None:
    await service.set_notice_days(days)


READING: Mapping[str, Callable[..., object]] = {
    "ListLicenses": lambda service: _rows(service.list_licenses()),
    "ListDevices": _list_devices,
    "Explain": lambda service, device: _row(service.explain(device)),
    "Plan": lambda service, count: _row(service.plan(count)),
    "VerifyDocument": lambda service, data: _row(service.verify_document(_document(data))),
    "DescribeStorage": lambda service: _row(service.describe_storage()),
    "PreviewReturn": lambda service, license_id, devices: _row(service.preview_return(license_id, devices)),
    "ListReturns": lambda service: _rows(service.list_returns()),
    "GetReturn": lambda service, number: service.get_return(number),
    "CheckUpdate": lambda service, *asked: _row(service.check_update(*asked)),
    "ListNotices": lambda service: _rows(service.list_notices()),
}

ADMINISTERING: Mapping[str, Callable[..., Coroutine[Any, Any, object]]] = {
    "InstallDocument": _install,
    "AcknowledgeRepair": _acknowledge,
    "CreateActivationRequest": _create_request,
    "CreateReturn": _create_return,
    "ConfirmUpdate": _confirm_update,
    "SetNoticeDays": _set_notice_days,
}
