"""Notices (a placeholder until the rules are in)."""

DEFAULT_DAYS = (90, 60, 30, 14, 7, 1, 0)
