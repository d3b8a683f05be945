"""Typed reading of a payload's fields: every refusal names the field.

Rules (LICENSING §4): payloads are strict JSON without floats, at most 8 deep; a field of another type than its own is
refused; unknown fields are ignored, unless `critical` lists them.

What this module does not do: it knows no payload (`payloads`, `trust`).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from smartserver_licensed.domain.errors import (
    ArgumentError,
    CriticalFieldError,
    EnvelopeError,
    PayloadError,
    StrictJsonError,
)
from smartserver_licensed.domain.timekeeping import Timestamp, from_iso

from . import strict_json
from .envelope import MAX_DOCUMENT_BYTES, decode_base64
from .strict_json import JsonValue

_MAX_DEPTH = 8


def parse_payload(payload: bytes, known: AbstractSet[str]) -> Fields:
    """The fields of a payload, once `critical` names none but the `known` ones.

    Raises PayloadError or CriticalFieldError.
    """
    try:
        value = strict_json.parse(payload, max_bytes=MAX_DOCUMENT_BYTES, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise PayloadError(f"cannot read the payload: {error}") from error
    fields = Fields.of(value, "")
    for name in fields.texts("critical"):
        if name not in known:
            raise CriticalFieldError(f"cannot accept the document: it needs {name[:80]!r}, which is not known here")
    return fields


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a payload; `path` is where it stands, for messages."""

    path: str
    values: dict[str, JsonValue]

    @classmethod
    def of(cls, value: JsonValue, path: str) -> Fields:
        """The fields of a value that must be an object."""
        if not isinstance(value, dict):
            raise PayloadError(f"cannot read the payload: {path or 'it'} is no object")
        return cls(path, value)

    def where(self, name: str) -> str:
        """The path of a field, as in `smartserver.install_code`."""
        return f"{self.path}.{name}" if self.path else name

    def text(self, name: str) -> str:
        """A text."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def integer(self, name: str) -> int:
        """An integer; `true` is none."""
        value = self._value(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "integer")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "boolean")
        return value

    def time(self, name: str) -> Timestamp:
        """An instant, as "2026-11-24T03:22:42Z"."""
        try:
            return from_iso(self.text(name))
        except ArgumentError as error:
            raise PayloadError(f"cannot read the payload: {self.where(name)}: {error}") from error

    def time_or_none(self, name: str) -> Timestamp | None:
        """An instant, or None for `null`; the field must be there."""
        return None if self._value(name) is None else self.time(name)

    def binary(self, name: str) -> bytes:
        """Bytes in strict base64."""
        try:
            return decode_base64(self.text(name), self.where(name))
        except EnvelopeError as error:
            raise PayloadError(f"cannot read the payload: {error}") from error

    def binary_or_none(self, name: str) -> bytes | None:
        """Bytes in strict base64, or None for `null`; the field must be there."""
        return None if self._value(name) is None else self.binary(name)

    def object(self, name: str) -> Fields:
        """An object within this one."""
        return Fields.of(self._value(name), self.where(name))

    def object_or_none(self, name: str) -> Fields | None:
        """An object within this one, or None for `null`; the field must be there."""
        return None if self._value(name) is None else self.object(name)

    def objects(self, name: str) -> tuple[Fields, ...]:
        """A list of objects."""
        return tuple(Fields.of(each, f"{self.where(name)}[{n}]") for n, each in enumerate(self.list(name)))

    def members(self, name: str) -> dict[str, Fields]:
        """An object whose keys are free and whose values are objects."""
        within = self.object(name)
        # Escaped and cut: these names come from anybody and go into messages.
        return {key: Fields.of(each, within.where(f"{key[:80]!a}")) for key, each in within.values.items()}

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        texts = tuple(each for each in self.list(name) if isinstance(each, str))
        if len(texts) != len(self.list(name)):
            raise self._wrong(name, "list of texts")
        return texts

    def list(self, name: str) -> list[JsonValue]:
        """A list of anything."""
        value = self._value(name)
        if not isinstance(value, list):
            raise self._wrong(name, "list")
        return value

    def _value(self, name: str) -> JsonValue:
        if name not in self.values:
            raise PayloadError(f"cannot read the payload: {self.where(name)} is missing")
        return self.values[name]

    def _wrong(self, name: str, wanted: str) -> PayloadError:
        return PayloadError(f"cannot read the payload: {self.where(name)} is no {wanted}")
