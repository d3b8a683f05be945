"""What fuzzing found: one row a target, printed as a table and kept as JSON beside it.

Rules: a row is good when nothing but DocumentError came out of any input, memory stayed bounded, and something was
accepted too: a target that refuses all is not looked into.

What this module does not do: it feeds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_GROWTH_MIB = 32.0  # after the first tenth of the inputs; one input may have 300 kB


@dataclass(slots=True)
class Row:
    """What came of the inputs of one target. `codes`: refusals by error code."""

    target: str
    engine: str
    inputs: int = 0
    accepted: int = 0
    failed: int = 0
    largest: int = 0
    growth_mib: float = 0.0
    seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """See this module's rules."""
        return not self.failed and not self.failures and self.accepted > 0 and self.growth_mib <= MAX_GROWTH_MIB


def show(rows: Sequence[Row]) -> str:
    """The table, as a person reads it."""
    head = ("target", "engine", "inputs", "accepted", "failed", "largest", "MiB more", "s", "refused by code")
    lines = ["{:<11} {:<8} {:>9} {:>9} {:>7} {:>8} {:>9} {:>6}  {}".format(*head)]
    for row in rows:
        codes = ", ".join(f"{code} {count:,}" for code, count in row.codes.items())
        lines.append(
            f"{row.target:<11} {row.engine:<8} {row.inputs:>9,} {row.accepted:>9,} {row.failed:>7} {row.largest:>8,} "
            f"{row.growth_mib:>9.1f} {row.seconds:>6.0f}  {codes}{'' if row.is_good else '  FAIL'}"
        )
        lines += [f"      {failure}" for failure in row.failures]
    return "\n".join(lines)
