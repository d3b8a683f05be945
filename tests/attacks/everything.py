"""All attacks, in the order of the table: a theme is known once its module is imported.

What this module does not do: it holds no attack.
"""

from __future__ import annotations

from attacks import clocks, contacts, courier, envelopes, grants, payloads, returns, roots, trials
from attacks.attack import ATTACKS as _FOUND

_THEMES = (envelopes, payloads, grants, roots, returns, contacts, trials, clocks, courier)
_ORDER = [each.__name__.rpartition(".")[2] for each in _THEMES]

ATTACKS = sorted(_FOUND, key=lambda each: _ORDER.index(each.theme))  # stable
