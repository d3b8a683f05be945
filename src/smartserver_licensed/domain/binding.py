"""Whether a ledger and its grant belong to this hardware.

Rules (LICENSING §4 "Binding"):
- three factors: SoC serial, eMMC CID, permanent MAC of eth0; two of those that the issuer was told must match, an
  unreadable one does not; where it was told of one only, that one; where of none, the install code alone binds;
- install code differs and the factors do not match: foreign. Either alone: rebind-needed: what runs keeps running;
- no key is derived from the hardware.

What this module does not do: it reads no hardware (`adapters.identity`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .errors import ArgumentError

_NEEDED = 2
_MAX_TEXT = 128


@dataclass(frozen=True, slots=True)
class Factors:
    """What a board is known by; "" where it cannot be read."""

    soc: str = ""
    emmc: str = ""
    mac: str = ""

    def __post_init__(self) -> None:
        for text in self.all:
            if len(text) > _MAX_TEXT or not text.isprintable() or text != text.strip():
                raise ArgumentError(f"cannot use the hardware factor {text[:_MAX_TEXT]!r}: not a short printable text")

    @property
    def all(self) -> tuple[str, str, str]:
        """In the order of the fields; `dataclasses.astuple` copies deeply, which would cost with every batch."""
        return self.soc, self.emmc, self.mac

    @property
    def count(self) -> int:
        """How many can be read."""
        return sum(map(bool, self.all))


NO_FACTORS = Factors()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this SmartServer is."""

    install_code: str
    factors: Factors = NO_FACTORS


class Binding(enum.Enum):
    """How a ledger stands to the board that it is found on."""

    BOUND = "bound"
    REBIND_NEEDED = "rebind-needed"
    FOREIGN = "foreign"


def matching(known: Factors, found: Factors) -> int:
    """How many factors are the same; one that cannot be read is none."""
    return sum(bool(one) and one == other for one, other in zip(known.all, found.all, strict=True))


def judge(known: Identity, found: Identity) -> Binding:
    """How a ledger that was bound to `known` stands to the board `found`."""
    is_same_code = known.install_code == found.install_code
    is_same_board = matching(known.factors, found.factors) >= min(_NEEDED, known.factors.count)
    if is_same_code and is_same_board:
        return Binding.BOUND
    if is_same_code or (is_same_board and known.factors.count):
        return Binding.REBIND_NEEDED
    return Binding.FOREIGN


def assurance(known: Factors, anchor: str) -> str:
    """What holds the licenses to this SmartServer: "install-code" or "hardware", and "+tpm" where an anchor counts."""
    return ("hardware" if known.count else "install-code") + ("" if anchor == "none" else f"+{anchor}")
