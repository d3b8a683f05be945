"""The one error tree. Each class has a stable code that is the same on MQTT, D-Bus, in the CLI and in the journal.

Rules:
- a message says "cannot <do>: <why>", with the value and the limit;
- foreign errors are translated once, at the border where they were met, with their cause kept (`raise … from`);
- one class per way to fail, so that a program can tell them apart by `code` and a person by the message.

What this module does not do: it raises nothing and logs nothing. Reasons for a refusal of a seat are not errors
but answers; they are in `refusal`.
"""


class LicensedError(Exception):
    """Root of the tree. `code` is stable: kebab-case in MQTT, CLI and journal, CamelCase in D-Bus error names."""

    code = "internal-error"


def dbus_error_suffix(code: str) -> str:
    """The CamelCase form of a code: `grant-stale` → `GrantStale`."""
    return "".join(word.capitalize() for word in code.split("-"))


class ConfigError(LicensedError):
    """The configuration file cannot be used; names the key and the nearest known one."""

    code = "config-invalid"


class MessageError(LicensedError):
    """A topic or payload on MQTT is not what the protocol says; it is counted and changes nothing."""

    code = "message-invalid"


class StrictJsonError(LicensedError):
    """Bytes are not strict JSON (UTF-8, no duplicate keys, no NaN, bounded depth and integers)."""

    code = "json-invalid"


# -- documents ---------------------------------------------------------------------------------------------------


class DocumentError(LicensedError):
    """A signed document is refused. Nothing changed."""

    code = "document-invalid"


class DocumentTooLargeError(DocumentError):
    """More than 64 KiB."""

    code = "document-too-large"


class EnvelopeError(DocumentError):
    """Not a DSSE v1 envelope in strict JSON with strict base64."""

    code = "envelope-malformed"


class PayloadTypeError(DocumentError):
    """A document of another kind than the one expected."""

    code = "payload-type-unexpected"


class SignatureError(DocumentError):
    """Fewer valid signatures by trusted keys than the threshold."""

    code = "signature-invalid"


class KeyRejectedError(DocumentError):
    """An Ed25519 public key of small order, in a non-canonical encoding, or of the wrong size."""

    code = "key-rejected"


class PayloadError(DocumentError):
    """The signed payload is not what its type demands."""

    code = "payload-malformed"


class CriticalFieldError(DocumentError):
    """The payload has a critical field that this version does not know."""

    code = "critical-field-unknown"


class RootError(DocumentError):
    """A root document that cannot be trusted: not self-consistent, skipped or rolled back."""

    code = "root-invalid"


class WrongSmartServerError(DocumentError):
    """The document names another SmartServer."""

    code = "wrong-smartserver"


class StaleGrantError(DocumentError):
    """The grant's `seq` is not higher than that of the last accepted one."""

    code = "grant-stale"


class ActivationRequiredError(DocumentError):
    """A grant without a device key, under a root that does not allow unactivated grants."""

    code = "activation-required"


class ArmorError(DocumentError):
    """An ASCII-armored block that is damaged: the line is named."""

    code = "armor-malformed"


# -- requests and returns ----------------------------------------------------------------------------------------


class ContactError(LicensedError):
    """No request or return can be made. Nothing changed."""

    code = "contact-refused"


class ContactsExhaustedError(ContactError):
    """Too many documents of this SmartServer are unanswered; an answer has to be installed first."""

    code = "contacts-exhausted"


class UnknownLicenseError(ContactError):
    """No license of that id is installed."""

    code = "license-unknown"


class NotReturnableError(ContactError):
    """Licenses of this type, or so many devices of it, cannot be returned."""

    code = "not-returnable"


class ReturnPendingError(ContactError):
    """The same return was just made and is not acknowledged; it can be exported again."""

    code = "return-pending"


class ReturnLeavesExcessError(ContactError):
    """Devices would run beyond the capacity; the caller has to say what is to become of them."""

    code = "return-leaves-excess"


class UnknownContactError(ContactError):
    """No return of that number is kept."""

    code = "contact-unknown"


# -- storage -----------------------------------------------------------------------------------------------------


class StorageError(LicensedError):
    """The ledger cannot be read or written."""

    code = "storage-fault"


class LedgerMissingError(StorageError):
    """No partition, or no ledger on it."""

    code = "storage-missing"


class LedgerCorruptError(StorageError):
    """Damaged beyond repair; nothing is written to it."""

    code = "storage-corrupt"

    def __init__(self, message: str = "", *, snapshot: bytes = b"", events: tuple[bytes, ...] = ()) -> None:
        """`snapshot` and `events`: what verifies before the damage; to be shown, never to be built on."""
        super().__init__(message)
        self.snapshot = snapshot
        self.events = events


class LedgerNewerError(StorageError):
    """Written by a newer major format."""

    code = "storage-newer"


class LedgerForeignError(StorageError):
    """The ledger of another SmartServer."""

    code = "storage-foreign"


class LedgerBusyError(StorageError):
    """Another daemon holds the ledger."""

    code = "storage-busy"


class LedgerOccupiedError(StorageError):
    """`--init-state` on something that holds anything else than zeros or a ledger."""

    code = "storage-occupied"


class AnchorError(StorageError):
    """The anchor, a counter outside the ledger that tells an old copy, cannot be asked."""

    code = "anchor-unreachable"


class SnapshotTooLargeError(StorageError):
    """The whole state would exceed its limit; refused before anything is written."""

    code = "state-too-large"


class WriteFailedError(StorageError):
    """A write or sync failed; final for this opening of the ledger (a retry may say OK while the data are gone)."""

    code = "storage-read-only"


# -- requests of people and programs -----------------------------------------------------------------------------


class NotReadyError(LicensedError):
    """The state this question needs is not loaded yet, or not usable now."""

    code = "not-ready"


class NotPermittedError(LicensedError):
    """The caller may not do this."""

    code = "not-permitted"


class UnknownDeviceError(LicensedError):
    """No device or counting unit of that name is known."""

    code = "device-unknown"


class ArgumentError(LicensedError):
    """A value given by a caller is out of range or of the wrong form."""

    code = "argument-invalid"


class BusUnavailableError(LicensedError):
    """The D-Bus daemon is not there, or does not let the daemon have its name."""

    code = "bus-unavailable"


class BusNameTakenError(LicensedError):
    """Another process, most likely another daemon, owns the name."""

    code = "bus-name-taken"


class DaemonUnreachableError(LicensedError):
    """The daemon does not answer on D-Bus."""

    code = "daemon-unreachable"
