"""The update gate: which version of the SmartServer's software may be installed, and why not.

Rules (LICENSING §6):
- the same or an older version: always; an update of the installed feature release: always;
- a feature release needs maintenance that covers the capacity at the later of now and its release, or an unused upgrade
  license that names it or a newer one; an update of a newer feature release is judged as that;
- a platform only with an upgrade license that names exactly it;
- what is installed is not known: nothing is the same or older;
- what came past the gate is judged in the same way when it is seen, as an update of the newest version seen before: it
  uses an upgrade license up or is reported. Nothing stops.

What this module does not do: it installs nothing and consumes nothing (`ledger_state.UpgradeConsumed` does).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .entitlement import Cover, cover, unused
from .errors import ArgumentError
from .licenses import License, LicenseType
from .timekeeping import Timestamp, to_iso_date

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?: update ([0-9]{1,4}))?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of the SmartServer's software, as in "3.5 Update 2"; `update` is 0 for the feature release itself."""

    major: int
    minor: int
    update: int = 0

    @property
    def release(self) -> Version:
        """Its feature release."""
        return Version(self.major, self.minor)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" + (f" Update {self.update}" if self.update else "")


def parse_version(text: str) -> Version:
    """The version of a text as in "3.5" or "3.5 Update 2". Raises ArgumentError for any other form."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ArgumentError(f"cannot read the version {text[:40]!r}: it is not as in '3.5' or '3.5 Update 2'")
    major, minor, update = (int(part or 0) for part in match.groups())
    return Version(major, minor, update)


class UpdateKind(enum.Enum):
    """What the vendor calls a version."""

    FEATURE = "feature"
    UPDATE = "update"
    PLATFORM = "platform"


class UpdateCode(enum.Enum):
    """Why a version may be installed or not; stable words."""

    SAME_OR_OLDER = "same-or-older"
    UPDATE_OF_INSTALLED = "update-of-installed"
    MAINTENANCE_CURRENT = "maintenance-current"
    UPGRADE_LICENSE = "upgrade-license"
    MAINTENANCE_MISSING = "maintenance-missing"
    MAINTENANCE_EXPIRED = "maintenance-expired"
    MAINTENANCE_SHORT = "maintenance-short"
    PLATFORM_NOT_COVERED = "platform-not-covered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may be installed; `license_id` is the upgrade license that the installation uses up."""

    is_allowed: bool
    code: UpdateCode
    sentence: str
    license_id: str | None = None


def check(
    version: Version,
    kind: UpdateKind,
    released: Timestamp,
    *,
    installed: Version | None,
    licenses: Sequence[License],
    returned: Mapping[str, int],
    consumed: Mapping[str, int],
    now: Timestamp,
) -> Verdict:
    """Whether `version` may be installed over `installed` (None: not known); totals by license id."""
    if installed is not None and version <= installed:
        return _allowed(version, UpdateCode.SAME_OR_OLDER, f"{installed} is installed, it is no newer")
    if kind is UpdateKind.UPDATE and installed is not None and version.release <= installed.release:
        return _allowed(
            version, UpdateCode.UPDATE_OF_INSTALLED, f"it updates the installed release {installed.release}"
        )
    is_platform = kind is UpdateKind.PLATFORM
    needs_from = max(now, released)
    covered = cover(licenses, needs_from, returned)
    if covered.is_covered and not is_platform:
        until = f" until {to_iso_date(covered.ends_at)}" if covered.ends_at is not None else ""
        covers = f"maintenance for {covered.devices} devices covers a capacity of {covered.needed}{until}"
        return _allowed(version, UpdateCode.MAINTENANCE_CURRENT, covers)
    fitting = [
        (parse_version(each.release), each.id)
        for each in licenses
        if each.type is LicenseType.UPGRADE and unused(each, returned, consumed)
    ]
    sufficient = [
        each for each in fitting if each[0] == version.release or (each[0] > version.release and not is_platform)
    ]
    if sufficient:
        release, license_id = min(sufficient)
        why = f"upgrade license {license_id} for {release} is used up once the installation is confirmed"
        return _allowed(version, UpdateCode.UPGRADE_LICENSE, why, license_id)
    return _refused(version, is_platform=is_platform, covered=covered, now=now, released=released)


def _allowed(version: Version, code: UpdateCode, why: str, license_id: str | None = None) -> Verdict:
    return Verdict(True, code, f"{version} may be installed: {why}.", license_id)


def _refused(version: Version, *, is_platform: bool, covered: Cover, now: Timestamp, released: Timestamp) -> Verdict:
    if is_platform:
        return Verdict(
            False,
            UpdateCode.PLATFORM_NOT_COVERED,
            f"{version} may not be installed: it is another platform, which no maintenance covers. "
            f"An upgrade license for {version.release} helps.",
        )
    devices = f"{max(1, covered.needed)} devices"
    if covered.devices:
        code = UpdateCode.MAINTENANCE_SHORT
        why = f"maintenance covers {covered.devices} of {covered.needed} devices, {covered.missing} are missing"
        devices = f"{covered.missing} more devices"
    elif covered.ends_at is None:
        code, why = UpdateCode.MAINTENANCE_MISSING, "there is no maintenance"
    else:
        code, why = UpdateCode.MAINTENANCE_EXPIRED, f"maintenance expired on {to_iso_date(covered.ends_at)}"
        if covered.ends_at > now:
            why = f"maintenance ends on {to_iso_date(covered.ends_at)}, its release is on {to_iso_date(released)}"
    helps = f"Maintenance for {devices}, or an upgrade license for {version.release} or newer, helps."
    return Verdict(False, code, f"{version} may not be installed: {why}. {helps}")
