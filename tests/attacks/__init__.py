"""Attacks, each against the real daemon and the real authority (`make attacks`, docs/security.md)."""
