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
    """Another issue holds the register for too long."""

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
