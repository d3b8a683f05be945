"""What the vendor's side refuses, as leaves of the one error tree.

What this module does not do: it raises nothing.
"""

from __future__ import annotations

from smartserver_licensed.domain.errors import LicensedError


class AuthorityError(LicensedError):
    """The vendor's side cannot do what was asked. Nothing changed."""

    code = "authority-failed"


class AuthorityOccupiedError(AuthorityError):
    """`init` on a directory that holds something: an authority's keys are never overwritten."""

    code = "authority-occupied"


class AuthorityMissingError(AuthorityError):
    """The directory has no authority, or one whose keys or root cannot be read."""

    code = "authority-missing"


class RegisterCorruptError(AuthorityError):
    """The register is not what was written; nothing is issued, since it remembers seq and trials."""

    code = "register-corrupt"


class RegisterBusyError(AuthorityError):
    """Another operation holds the register for too long."""

    code = "register-busy"


class TrialUsedError(AuthorityError):
    """The install code has had its trial."""

    code = "trial-used"


class CustomerMismatchError(AuthorityError):
    """The SmartServer belongs to another customer than the one named."""

    code = "customer-mismatch"


class FileAccessError(AuthorityError):
    """A file cannot be read or written."""

    code = "file-unusable"


class AuthorityBusyError(AuthorityError):
    """Another `init` or `rotate` works in this directory."""

    code = "authority-busy"


class PasswordNeededError(AuthorityError):
    """The keys are protected and no password came, or a real authority was to be made without a good one."""

    code = "password-needed"


class PasswordWrongError(AuthorityError):
    """The password does not open the key."""

    code = "password-wrong"


class RotationError(AuthorityError):
    """The next root cannot be made as asked: an unknown key, too few keys at hand, a version that does not follow."""

    code = "rotation-refused"


# -- the register --------------------------------------------------------------------------------------------------


class RegisterMissingError(AuthorityError):
    """There is no register. None is made in passing: an empty one has forgotten all that was sold."""

    code = "register-missing"


class RegisterOccupiedError(AuthorityError):
    """A register was to be made where one is."""

    code = "register-occupied"


class RegisterNewerError(AuthorityError):
    """The register was written by a newer version of this program."""

    code = "register-newer"


class RegisterBehindError(AuthorityError):
    """A SmartServer has what the register has never given: the register is an old copy, or another authority's."""

    code = "register-behind"


# -- customers, orders, licenses -----------------------------------------------------------------------------------


class CustomerUnknownError(AuthorityError):
    """No customer of that id, or nobody said whose SmartServer it is."""

    code = "customer-unknown"


class LicenseNotFoundError(AuthorityError):
    """No license of that id was sold."""

    code = "license-not-found"


class LicenseExhaustedError(AuthorityError):
    """The license has ended, or fewer of its devices are free than are wanted."""

    code = "license-exhausted"


class MaintenanceLapsedError(AuthorityError):
    """Maintenance is renewed before it lapses, or bought within 30 days after an upgrade license."""

    code = "maintenance-lapsed"


class EmergencyRefusedError(AuthorityError):
    """More emergency devices than the root allows, or more often than the policy does."""

    code = "emergency-refused"


class UnactivatedRefusedError(AuthorityError):
    """A grant without a device key, under a root that does not allow any."""

    code = "unactivated-refused"


# -- contacts of SmartServers --------------------------------------------------------------------------------------


class SmartServerUnknownError(AuthorityError):
    """No SmartServer of that install code, or one that has never made a request."""

    code = "smartserver-unknown"


class SmartServerRetiredError(AuthorityError):
    """The SmartServer was replaced (RMA); what it had is written off."""

    code = "smartserver-retired"


class KeyRetiredError(AuthorityError):
    """The device key was replaced by a newer one of the same SmartServer."""

    code = "key-retired"


class InstallCodeTakenError(AuthorityError):
    """An install code was to be given to another SmartServer, or freed, whose SmartServer has licenses."""

    code = "install-code-taken"


class ConfirmationNeededError(AuthorityError):
    """A new device key, or a new install code of a known one: the operator has to say that this is right."""

    code = "confirmation-needed"


class RequestAnsweredError(AuthorityError):
    """Something was to be added to a request that has its answer: the same request always gets the same one."""

    code = "request-answered"


class OverReturnedError(AuthorityError):
    """More devices are said to be returned than were granted."""

    code = "over-returned"


class ReturnReservedError(AuthorityError):
    """What came back with this return is reserved for another SmartServer already."""

    code = "return-reserved"


class ForkFoundError(AuthorityError):
    """There are two copies of a SmartServer. `is_new`: found just now, to be remembered although it is an error."""

    code = "fork-found"

    def __init__(self, message: str, *, is_new: bool = False) -> None:
        super().__init__(message)
        self.is_new = is_new


class ContactForkedError(ForkFoundError):
    """A number of the contact chain was used twice, or the chain does not contain the last contact seen."""

    code = "contact-forked"


class TotalsFallenError(ForkFoundError):
    """A SmartServer says smaller totals than it has said before."""

    code = "totals-fallen"


# -- serve ---------------------------------------------------------------------------------------------------------


class TokenError(AuthorityError):
    """No token came, or none that is known and not revoked; or a name of one that cannot be used."""

    code = "token-invalid"


class ListenError(AuthorityError):
    """`serve` cannot take its address, or not without TLS, or cannot use its certificate."""

    code = "listen-refused"


class RateError(AuthorityError):
    """Too many calls by one token or from one address."""

    code = "rate-exceeded"

    def __init__(self, message: str, retry_s: int) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class ReadTimeoutError(AuthorityError):
    """The document did not come in time."""

    code = "read-timeout"
