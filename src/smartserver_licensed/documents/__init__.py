"""Signed documents: bytes are verified first and parsed after. Pure: no I/O, no clock (time is an argument)."""
